"""Seconds of sampling against diffusers, on one machine, with one network and one grid.

    python -m benchmarks.bench_diffusion_speed [--parts resolution] [--repeats 9]
    taskset -c 0 python -m benchmarks.bench_diffusion_speed  # On one core.

The network is the shipped digits MLP; for diffusers the same numbers are put into a torch module. Both
sides take the noise levels of Karras et al. (rho 7) and end at 0, and must agree to 1e-4 before they are
timed. `EDMDPMSolverMultistepScheduler` takes that grid and the raw network by itself.
`UniPCMultistepScheduler` knows no noise of EDM's kind: its `sigmas` are set by hand, and it solves in
x / sqrt(1 + sigma^2), where the same solver gives the same samples; its model rescales.

Timed is the sampling alone, from the first noise on the device to finished samples: ours as one jitted
call, diffusers as its documented loop in `torch.inference_mode`, not compiled. Lowering a table and
`set_timesteps` are not timed on either side, nor is compilation, which is reported by itself. "table in
torch" is our table run by `TableScheduler` in the same loop. The sides take turns. Both libraries use all cores that the process may use. Torch's threads wait for each
other in every layer, which costs it dearly where other programs want the same cores: on a busy machine
compare on one core, and by the least seconds.
"""

import argparse
import importlib.util
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffusion import grids, networks, presets, tablefile, weights
from diffusion.lower import lower
from diffusion.noise import EDM, NoiseSchedule
from diffusion.prediction import from_edm
from diffusion.sampler import sample, start
from diffusion.schedule import Schedule
from diffusion.table import StepTable, as_dtype

EVALUATIONS, BATCHES = (5, 10, 20), (16, 256, 1024)
PARTS = ("diffusers", "compilations", "batch", "resolution")
AGREEMENT = 1e-4
# Of each solver, how to make the schedule and how many outputs it remembers.
SOLVERS: Mapping[str, tuple[Callable[..., Schedule], int]] = {
    "DPM-Solver++ 2M": (presets.dpm_solver_pp, 2),
    "UniPC-2": (presets.unipc, 3),
}
MANY: Sequence[Callable[..., Schedule]] = (
    presets.ddim,
    presets.dpm_solver_pp,
    presets.unipc,
    lambda noise, times: presets.unipc(noise, times, order=3),
)
MISSING = (
    "torch and diffusers are not installed, so only our side is measured: "
    "pip install 'schedule-zero[diffusers]'"
)
# From x_T to samples, when called.
Run = Callable[[], Any]


def times_of(noise: NoiseSchedule, evaluations: int, rho: float = 7.0) -> grids.Times:
    """Returns Karras' noise levels and 0."""
    return np.append(grids.edm(noise, evaluations - 1, rho), 0.0)


def sampler_of(apply: Any, sigma_data: float) -> Any:
    """Returns the jitted `run(params, table, x)` of a raw EDM network."""

    def run(params: Any, table: StepTable, x: Any) -> Any:
        return sample(from_edm(apply, params, sigma_data), table, x)

    return jax.jit(run)


class Seconds(NamedTuple):
    """Of one run: the median, and the least, which other work on the machine disturbed least."""

    median: float
    least: float


def timed(runs: Mapping[str, Run], repeats: int) -> dict[str, Seconds]:
    """Returns seconds by name; the runs take turns, after two rounds that don't count.

    Short runs are repeated for a second, up to ten times as often.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    started = time.perf_counter()
    for turn in range(10 * repeats + 2):
        if turn >= repeats + 2 and time.perf_counter() - started > 1:
            break
        for name, run in runs.items():
            if isinstance(run, _Prepared):
                run.prepare()
            begin = time.perf_counter()
            run()
            if turn >= 2:
                taken[name].append(time.perf_counter() - begin)
    return {
        name: Seconds(float(np.median(seconds)), min(seconds))
        for name, seconds in taken.items()
    }


class Torch:
    """diffusers' end: the network in torch, and the loops around it."""

    def __init__(self, trained: weights.Trained) -> None:
        self._trained = trained
        self._network = _perceptron(trained)

    def check(self) -> float:
        """Returns the largest difference between the two networks' outputs."""
        import torch

        rng = np.random.default_rng(1)
        x = rng.normal(size=(64, *self._trained.config.shape)).astype(np.float32)
        t = rng.uniform(-1, 1, 64).astype(np.float32)
        ours = weights.apply_of(self._trained.config)(self._trained.params, x, t)
        with torch.inference_mode():
            theirs = self._network(torch.tensor(x), torch.tensor(t)).numpy()
        return float(np.abs(np.asarray(ours) - theirs).max())

    def loop(self, solver: str, evaluations: int, x: Any) -> Run:
        """Returns diffusers' own loop of a solver, from this x_T."""
        if solver == "UniPC-2":
            return self._unipc(evaluations, x)
        return self._dpm(evaluations, x)

    def table(self, table: StepTable, x: Any) -> Run:
        """Returns the loop of a table."""
        import torch

        from diffusion.export.table_scheduler import TableScheduler

        columns = tablefile.to_json(table, self._trained.noise)["table"]
        scheduler = TableScheduler(**columns, prediction_type="sample")
        begin = torch.tensor(np.asarray(x))

        def run() -> Any:
            with torch.inference_mode():
                state = begin
                for t in scheduler.timesteps:
                    data = self._denoise(state, t)
                    state = scheduler.step(data, t, state).prev_sample
                return state.numpy()

        return run

    def _dpm(self, evaluations: int, x: Any) -> Run:
        import torch
        from diffusers import EDMDPMSolverMultistepScheduler

        noise = self._trained.noise
        assert isinstance(noise, EDM)
        scheduler = EDMDPMSolverMultistepScheduler(
            sigma_min=noise.sigma_min,
            sigma_max=noise.sigma_max,
            sigma_data=self._trained.sigma_data,
            rho=7.0,
            solver_order=2,
            prediction_type="epsilon",  # Which sign the raw network has.
        )
        begin = torch.tensor(np.asarray(x))

        def run() -> Any:
            with torch.inference_mode():
                state = begin
                for t in scheduler.timesteps:
                    inner = scheduler.scale_model_input(state, t)
                    output = self._network(inner, t.expand(len(inner)))
                    state = scheduler.step(output, t, state).prev_sample
                return state.numpy()

        return _Prepared(lambda: scheduler.set_timesteps(evaluations), run)

    def _unipc(self, evaluations: int, x: Any) -> Run:
        import torch
        from diffusers import UniPCMultistepScheduler

        scheduler = UniPCMultistepScheduler(
            solver_order=2, prediction_type="sample", final_sigmas_type="zero"
        )
        levels = times_of(self._trained.noise, evaluations)
        sigmas = torch.tensor(levels, dtype=torch.float32)
        scales = torch.sqrt(1 + sigmas**2)
        begin = torch.tensor(np.asarray(x)) / scales[0]

        def prepare() -> None:
            scheduler.set_timesteps(evaluations)
            scheduler.sigmas = sigmas
            scheduler.timesteps = torch.arange(evaluations).flip(0)

        def run() -> Any:
            with torch.inference_mode():
                state = begin
                for n, t in enumerate(scheduler.timesteps):
                    data = self._denoise(state * scales[n], sigmas[n])
                    state = scheduler.step(data, t, state).prev_sample
                return state.numpy()

        return _Prepared(prepare, run)

    def _denoise(self, x: Any, sigma: Any) -> Any:
        """The preconditioned network, as `from_edm` has it."""
        own = self._trained.sigma_data
        total = (sigma**2 + own**2) ** 0.5
        output = self._network(x / total, (sigma.log() / 4).expand(len(x)))
        return (own / total) ** 2 * x + sigma * own / total * output


class _Prepared:
    """A run whose scheduler must be set up anew each time, which is left out of its seconds."""

    def __init__(self, prepare: Callable[[], None], run: Run) -> None:
        self.prepare, self._run = prepare, run

    def __call__(self) -> Any:
        return self._run()


def _perceptron(trained: weights.Trained) -> Any:
    """The torch module of `diffusion.networks.mlp`, filled from the same arrays."""
    import torch

    config = trained.config
    if not isinstance(config, networks.MLPConfig) or config.classes:
        raise ValueError("the port is of an MLP without classes")
    count, features = config.blocks, config.features
    arrays = {
        ".".join(map(str, path)): torch.tensor(np.array(leaf[...]))
        for path, leaf in nnx.to_flat_state(trained.params)
    }

    def linear(name: str) -> Any:
        kernel = arrays[f"{name}.kernel"]
        layer = torch.nn.Linear(*kernel.shape)
        layer.weight.data = kernel.T.contiguous()
        layer.bias.data = arrays[f"{name}.bias"]
        return layer

    class Perceptron(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            rates = torch.linspace(0, math.log(50.0), features // 2).exp()
            self.register_buffer("rates", rates)
            self.first, self.last = linear("first"), linear("last")
            names = (f"layers.{i}" for i in range(count))
            self.layers = torch.nn.ModuleList(linear(name) for name in names)
            names = (f"shifts.{i}" for i in range(count + 1))
            self.shifts = torch.nn.ModuleList(linear(name) for name in names)

        def forward(self, x: Any, t: Any) -> Any:
            silu = torch.nn.functional.silu
            angles = t[:, None] * self.rates
            seen = torch.cat([angles.sin(), angles.cos()], -1)
            hidden = silu(self.first(x) + self.shifts[0](seen))
            for layer, shift in zip(self.layers, self.shifts[1:], strict=True):
                hidden = hidden + silu(layer(hidden) + shift(seen))
            return self.last(hidden)

    return Perceptron().eval()


def against(trained: weights.Trained, other: Torch | None, repeats: int) -> None:
    """Prints seconds per solver, evaluations and batch."""
    run = sampler_of(weights.apply_of(trained.config), trained.sigma_data)
    head = ["solver", "NFE", "batch", "ours"]
    if other is not None:
        head += ["diffusers", "ratio", "ratio of least", "table in torch", "difference"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    for solver, (preset, window) in SOLVERS.items():
        for evaluations in EVALUATIONS:
            times = times_of(trained.noise, evaluations)
            exact = lower(preset(trained.noise, times), window=window)
            table = as_dtype(exact, jnp.float32)
            for batch in BATCHES:
                shape = batch, *trained.config.shape
                x = start(table, jax.random.normal(jax.random.key(0), shape))
                runs: dict[str, Run] = {
                    "ours": lambda table=table, x=x: np.asarray(  # type: ignore[misc]
                        run(trained.params, table, x)
                    )
                }
                if other is not None:
                    runs["diffusers"] = other.loop(solver, evaluations, x)
                    runs["table"] = other.table(exact, x)
                    difference = _difference(runs)
                seconds = timed(runs, repeats)
                ours = seconds["ours"]
                row = [solver, str(evaluations), str(batch), _cell(ours)]
                if other is not None:
                    theirs = seconds["diffusers"]
                    row += [_cell(theirs), f"{theirs.median / ours.median:.1f}"]
                    row += [f"{theirs.least / ours.least:.1f}"]
                    row += [_cell(seconds["table"]), f"{difference:.1e}"]
                print(f"| {' | '.join(row)} |", flush=True)


def _cell(seconds: Seconds) -> str:
    return f"{seconds.median * 1e3:.3g} ({seconds.least * 1e3:.3g})"


def compiles(trained: weights.Trained) -> None:
    """Prints how often many schedules of one shape are compiled, and how long it takes."""
    run = sampler_of(weights.apply_of(trained.config), trained.sigma_data)
    shape = 256, *trained.config.shape
    lowered, begin = [], time.perf_counter()
    for rho in np.linspace(3, 12, 10):
        times = times_of(trained.noise, 10, rho)
        lowered += [lower(preset(trained.noise, times)) for preset in MANY]
    each = (time.perf_counter() - begin) / len(lowered)
    tables = [as_dtype(table, jnp.float32) for table in lowered]
    x = start(tables[0], jax.random.normal(jax.random.key(0), shape))
    jax.block_until_ready(run(trained.params, tables[0], x))
    first = run._cache_size()
    for table in tables[1:]:
        jax.block_until_ready(run(trained.params, table, x))
    fresh = sampler_of(weights.apply_of(trained.config), trained.sigma_data)
    _, taken = _compiled(fresh, trained.params, tables[0], x)
    print(
        f"{len(tables)} schedules of 10 evaluations (4 solvers, 10 grids), batch 256: "
        f"{run._cache_size()} compilation ({first} after the first schedule), "
        f"{taken:.2f} s with tracing; lowering a schedule on the host: {each * 1e3:.1f} ms."
    )


def costs(
    trained: weights.Trained, batches: Sequence[int], sides: Sequence[int], repeats: int
) -> None:
    """Prints our milliseconds and memory against batch and resolution, of 5 evaluations."""
    print(
        "| network | sample | batch | ms | ms per sample | temporaries, MiB | compile, s |"
    )
    print(f"|{'---|' * 7}", flush=True)
    apply = weights.apply_of(trained.config)
    for batch in batches:
        shape = batch, *trained.config.shape
        _cost("MLP", apply, trained.params, trained, shape, repeats)
    for side in sides:
        config = networks.UNetConfig(shape=(side, side, 3), channels=(32, 64, 128))
        params = _random(config)
        shape = 4, *config.shape
        _cost("U-Net", weights.apply_of(config), params, trained, shape, repeats)


def _random(config: networks.Config) -> Any:
    """A network's numbers, drawn at once: its own initialisation compiles layer by layer."""
    rng = np.random.default_rng(0)
    empty = nnx.eval_shape(lambda: networks.build(config, rngs=nnx.Rngs(0)))
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.02, leaf.shape), leaf.dtype),
        nnx.split(empty)[1],
    )


def _cost(
    name: str,
    apply: Any,
    params: Any,
    trained: weights.Trained,
    shape: tuple[int, ...],
    repeats: int,
) -> None:
    plan = presets.dpm_solver_pp(trained.noise, times_of(trained.noise, 5))
    table = as_dtype(lower(plan, window=2), jnp.float32)
    x = start(table, jax.random.normal(jax.random.key(0), shape))
    run, taken = _compiled(sampler_of(apply, trained.sigma_data), params, table, x)
    seconds = timed({"": lambda: np.asarray(run(params, table, x))}, repeats)[""]
    memory = run.memory_analysis().temp_size_in_bytes / 2**20
    size = "×".join(map(str, shape[1:]))
    print(
        f"| {name} | {size} | {shape[0]} | {_cell(seconds)} "
        f"| {seconds.median / shape[0] * 1e3:.3g} "
        f"| {memory:.2f} | {taken:.1f} |",
        flush=True,
    )


def _compiled(run: Any, *arguments: Any) -> tuple[Any, float]:
    begin = time.perf_counter()
    compiled = run.lower(*arguments).compile()
    return compiled, time.perf_counter() - begin


def _difference(runs: Mapping[str, Run]) -> float:
    """The largest between ours and the others, which must be small."""
    found = {name: _once(run) for name, run in runs.items()}
    largest = max(float(np.abs(found["ours"] - x).max()) for x in found.values())
    if not largest <= AGREEMENT:
        sys.exit(f"the two ends differ by {largest:.1e}: there is nothing to compare")
    return largest


def _once(run: Run) -> Any:
    if isinstance(run, _Prepared):
        run.prepare()
    return run()


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--unet-repeats", type=int, default=5)
    flags = parser.parse_args()
    trained = weights.load(weights.PRETRAINED / "digits_mlp.json")
    versions = [f"Python {platform.python_version()}", f"jax {jax.__version__}"]
    other = None
    if all(importlib.util.find_spec(name) for name in ("torch", "diffusers")):
        import diffusers
        import torch

        other = Torch(trained)
        versions += [f"torch {torch.__version__}", f"diffusers {diffusers.__version__}"]
        versions += [f"{torch.get_num_threads()} torch threads"]
    else:
        print(MISSING, file=sys.stderr)
    print(
        f"{', '.join(versions)}; "
        f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} CPU cores, {platform.machine()}.\n"
    )
    if other is not None:
        apart = other.check()
        if not apart <= AGREEMENT:
            sys.exit(f"the two networks differ by {apart:.1e}")
        print(f"The two networks' outputs differ by {apart:.1e} at most.\n")
    if "diffusers" in flags.parts:
        print("## Milliseconds per batch: median (least)\n")
        against(trained, other, flags.repeats)
    if "compilations" in flags.parts:
        print("\n## Compilations\n")
        compiles(trained)
    if "batch" in flags.parts:
        print("\n## Our cost against batch, DPM-Solver++ 2M, NFE 5\n")
        costs(trained, (1, 16, 256, 1024, 4096), (), flags.repeats)
    if "resolution" in flags.parts:
        print("\n## Our cost against resolution, DPM-Solver++ 2M, NFE 5\n")
        costs(trained, (), (16, 32, 64), flags.unet_repeats)


if __name__ == "__main__":
    main()
