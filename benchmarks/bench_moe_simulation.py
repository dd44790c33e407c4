"""FSMoE's 1458 layers in its own model, and what a wider search finds in the event simulation.

    python -m benchmarks.bench_moe_simulation [--parts fsmoe search tpu speed]

`fsmoe`: closed forms only. A layer is one of the middle of a long stack (`compiler.moe.rivals`). The paper gives neither
volumes nor the time of the dense part; `compiler.moe.configurations` says what is assumed. Two counts are shown: the
lines as published, and each task times the ratio of the paper's measured to predicted time of that test bed (mean of its
GPT2-XL and Mixtral rows), which brings in what the lines miss. Degrees are 1..32, or 1, 2, 4, 8, as in the authors' code.

`search`: the event simulation of the same layers. FSMoE's own choice (degrees and share of the gradient by its formulas)
against the best degrees alone, and against the best of the whole space: degree, graded chunks, chunks ahead, share,
pieces and place of the gradient. All of it is enumerated, so these are optima.

`tpu`: `compiler.moe.game` on v5e 2x4, compiler-predicted cycles, two layers, experts' weights limited to twice what they
take fully spread; optima by enumeration. `speed`: schedules per second of the simulator.
"""

import argparse
import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from compiler.moe import configurations, events, fsmoe, game, machine, optimum, rivals
from compiler.moe.configurations import (
    MEASURED,
    PRESETS,
    TESTBEDS,
    Configuration,
    Ratios,
    Volumes,
)
from compiler.moe.events import CLUSTER, NUM_STAGES, Layers
from compiler.moe.gradients import reduce_time
from compiler.moe.machine import Setting
from compiler.moe.performance import Line
from compiler.moe.rivals import Layer
from solvers.protocols import Genome

PAPER = {
    ("A", "tutel-improved"): 1.09,
    ("A", "fsmoe-no-iio"): 1.12,
    ("A", "fsmoe"): 1.18,
    ("B", "tutel-improved"): 1.08,
    ("B", "fsmoe-no-iio"): 1.16,
    ("B", "fsmoe"): 1.22,
}
POWERS = np.array([1, 2, 4, 8])
LATENCIES = {
    "0": (0.0, 0.0),
    "1 µs a hop": (1e-6, 0.0),
    "20 µs a collective": (0.0, 20e-6),
}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = {"fsmoe": reproduced, "search": searched, "tpu": on_tpu, "speed": speed}
    parser.add_argument("--parts", nargs="+", choices=parts, default=[*parts])
    flags = parser.parse_args()
    for name in flags.parts:
        for line in parts[name]():
            print(line, flush=True)


def ratios(bed: str, measured: bool) -> Ratios:
    """Returns the multiples of the lines' times that a count of times uses."""
    if not measured:
        return Ratios()
    rows = [configurations.measured_ratios(*key) for key in MEASURED if key[0] == bed]
    return Ratios(*np.mean(rows, axis=0))


def layers(bed: str, measured: bool) -> Layer:
    """Returns the 1458 layers of a test bed."""
    testbed, times = TESTBEDS[bed], ratios(bed, measured)
    rows = [configurations.volumes(c) for c in configurations.configured(testbed)]
    work = Volumes(*np.array(rows, float).T)
    gemm, reduce = testbed.model["gemm"], testbed.model["all_reduce"]
    dense = times.dense * (work.dense_gemms * gemm.startup + work.dense * gemm.slope)
    return Layer(
        fsmoe.tasks(testbed.model, work, ratios=times),
        fsmoe.tasks(testbed.model, work, ratios=times, backward=True),
        np.asarray(dense),
        np.asarray(2 * dense),
        np.asarray(work.gradient),
        Line(
            startup=times.gradient * reduce.startup, slope=times.gradient * reduce.slope
        ),
    )


def reproduced() -> Iterator[str]:
    """Yields the comparison with the paper's averages."""
    yield "## FSMoE's 1458 layers\n"
    yield (
        "Mean speed-up over `tutel`; in how many layers `fsmoe` takes different degrees for the two directions, with the "
        "gradient's best share inside and with none of it.\n"
    )
    names = [name for name in rivals.SCHEDULES if name != "tutel"]
    yield f"| test bed, times | degrees | {' | '.join(names)} | differ | without gradients |"
    yield "|---|---|" + "---:|" * (len(names) + 2)
    for bed in TESTBEDS:
        cells = [f"{PAPER[bed, n]:.2f}" if (bed, n) in PAPER else "" for n in names]
        differ = "912" if bed == "B" else ""
        yield f"| {bed}, paper | | {' | '.join(cells)} | {differ} | |"
        for measured, candidates in itertools.product(
            (False, True), (fsmoe.degrees(), POWERS)
        ):
            layer = layers(bed, measured)
            found = {n: rivals.schedule(n, layer, candidates) for n in rivals.SCHEDULES}
            cells = [
                f"{np.mean(found['tutel'].time / found[n].time):.2f}" for n in names
            ]
            best = found["fsmoe"]
            differ = str(int(np.sum(best.forward_degree != best.backward_degree)))
            alone = fsmoe.enumerated(layer.backward, 0.0, candidates).degree
            without = int(np.sum(best.forward_degree != alone))
            label = "as measured" if measured else "published lines"
            shown = "1..32" if candidates.size > 4 else "1, 2, 4, 8"
            yield f"| {bed}, {label} | {shown} | {' | '.join(cells)} | {differ} | {without} |"
    yield "\nWhich case binds at the chosen degree, backward, without gradients (share of layers):\n"
    yield "| test bed, times | all-reduce | experts | all-to-all | inside the node | slower than no pipelining |"
    yield "|---|---:|---:|---:|---:|---:|"
    for bed, measured in itertools.product(TESTBEDS, (False, True)):
        layer = layers(bed, measured)
        degree = fsmoe.enumerated(layer.backward).degree
        cases = fsmoe.case(layer.backward, degree)
        shares = [f"{np.mean(cases == n):.0%}" for n in range(1, 5)]
        slower = np.mean(
            rivals.schedule("fsmoe", layer).time
            > rivals.schedule("sequential", layer).time * (1 + 1e-9)
        )
        label = "as measured" if measured else "published lines"
        yield f"| {bed}, {label} | {' | '.join(shares)} | {slower:.0%} |"
    yield ""


def _vectors(whole: fsmoe.Tasks) -> tuple[np.ndarray, np.ndarray]:
    """Returns start-ups and work by stage, [K 8]."""
    count = np.shape(whole.exchange.work)[0]
    startup, work = np.zeros((2, count, NUM_STAGES), np.float32)
    for stage, part in (
        (events.DISPATCH, whole.exchange),
        (events.GATHER, whole.gather),
        (events.EXPERT, whole.expert),
        (events.REDUCE, whole.scatter),
        (events.COMBINE, whole.exchange),
    ):
        startup[:, stage], work[:, stage] = part.startup, part.work
    return startup, work


@jax.jit
def _grid(
    startup: Array, work: Array, gradient: Array, genes: Array
) -> Float[Array, "K G"]:
    """Times of K layers' experts under G schedules: degree, shape, ahead, pieces, whether gradients go last."""

    def one(startup: Array, work: Array, gradient: Array, row: Array) -> Array:
        degree, shape, ahead, pieces, last = row
        fractions = jnp.asarray(game.FRACTIONS)[degree, shape]
        chunks = jnp.asarray(game.COUNTS)[shape, degree]
        times = events.chunked(startup, work, fractions)
        times = times.at[events.GRADIENT].set(gradient[pieces])
        count = jnp.where(gradient[0] > 0, jnp.asarray(game.PIECES)[pieces], 0)
        return events.total(
            Layers(
                times=times[None],
                chunks=chunks[None],
                pieces=count[None],
                ahead=jnp.minimum(jnp.asarray(game.AHEAD)[ahead], chunks)[None],
                uses=jnp.asarray(CLUSTER)[None],
                gradient_last=(last == 1)[None],
                dense=jnp.zeros(1),
                beside=jnp.zeros(1),
                tail=jnp.zeros(()),
            )
        )

    over_genes = jax.vmap(one, (None, None, None, 0))
    return jax.vmap(over_genes, (0, 0, 0, None))(startup, work, gradient, genes)


def _pipelines() -> list[tuple[int, int, int]]:
    """Returns the different pipelines: degree, shape, ahead as options."""
    found = []
    for degree, shape, ahead in itertools.product(
        range(len(game.DEGREES)), range(len(game.SHAPES)), range(len(game.AHEAD))
    ):
        r = game.COUNTS[shape, degree]
        if shape and r <= 2:
            continue
        if game.AHEAD[ahead] >= r and ahead != 2:
            continue
        found.append((degree, shape, ahead))
    return found


def _simulate(
    whole: fsmoe.Tasks, genes: np.ndarray, gradient: np.ndarray
) -> np.ndarray:
    """Returns times [K G]; gradient [K 4] is the time of a piece by the number of pieces."""
    startup, work = _vectors(whole)
    found = []
    batch = 54  # Of layers: one shape.
    for first in range(0, len(startup), batch):
        rows = slice(first, first + batch)
        found.append(
            _grid(startup[rows], work[rows], gradient[rows], jnp.asarray(genes))
        )
    return np.concatenate([np.asarray(part) for part in found])


def searched() -> Iterator[str]:
    """Yields what the wider space gains in the event simulation."""
    yield "## Beyond FSMoE's choice, in the event simulation\n"
    yield (
        "Per cent of the layer's time (both directions, dense part included) that is saved over FSMoE's own choice; "
        "mean, 95th percentile, largest. Heads change nothing, so 486 layers stand for 1458.\n"
    )
    yield "| test bed, times | closed form over simulation | best degrees, FSMoE's order | whole space | best: graded | best: ahead < r | best: gradient in pieces or last |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    pipelines = np.array(_pipelines())
    plain = (pipelines[:, 1] == 0) & (pipelines[:, 2] == 2)
    orders = np.array([(p, last) for p in range(4) for last in range(2)])
    degrees = np.array(game.DEGREES)
    for bed, measured in itertools.product(TESTBEDS, (False, True)):
        every = layers(bed, measured)
        kept = _distinct(every)
        layer = jax.tree.map(
            lambda column, kept=kept: column[kept] if np.ndim(column) else column, every
        )
        count = len(kept)
        none = np.zeros((count, 4), np.float32)
        shaped = np.pad(pipelines, ((0, 0), (0, 2)))
        forward = _simulate(layer.forward, shaped, none)
        total, own_share = [], []
        line = layer.all_reduce
        genes = np.concatenate(
            [
                np.concatenate([pipelines, np.tile(order, (len(pipelines), 1))], axis=1)
                for order in orders
            ]
        )
        for share in game.SHARES:
            inside = layer.gradient * share
            pieces = np.array(game.PIECES)
            times = reduce_time(line, inside[:, None] / pieces).astype(np.float32)
            beside = reduce_time(line, layer.gradient * (1 - share))
            rest = np.maximum(layer.dense_backward, beside)[:, None]
            total.append(_simulate(layer.backward, genes, times) + rest)
            choice = fsmoe.enumerated(
                layer.backward, reduce_time(line, inside), degrees
            )
            own_share.append((choice.time + rest[:, 0], choice.degree))
        backward = np.stack(total, axis=1)  # [K shares G].
        formula = np.stack([t for t, _ in own_share], axis=1)
        share = np.argmin(formula, axis=1)
        rows = np.arange(count)
        degree = np.stack([d for _, d in own_share], axis=1)[rows, share]
        plain_index = np.flatnonzero(plain)
        of_degree = dict(zip(degrees, plain_index))
        first = fsmoe.enumerated(layer.forward, 0.0, degrees)
        own = (
            forward[rows, [of_degree[d] for d in first.degree]]
            + backward[rows, share, [of_degree[d] for d in degree]]
            + layer.dense_forward
        )
        predicted = first.time + formula[rows, share] + layer.dense_forward
        # Degrees alone: FSMoE's order, its share, one piece.
        alone = (
            np.min(forward[:, plain], axis=1)
            + np.min(backward[rows, share][:, plain_index], axis=1)
            + layer.dense_forward
        )
        flat = backward.reshape(count, -1)
        at = np.argmin(flat, axis=1)
        best = np.min(forward, axis=1) + flat[rows, at] + layer.dense_forward
        chosen = genes[at % len(genes)]
        sent = game.COUNTS[chosen[:, 1], chosen[:, 0]]
        ahead = np.array(game.AHEAD)[chosen[:, 2]] < sent
        moved = (chosen[:, 3:] > 0).any(axis=1) & (at // len(genes) > 0)
        cells = [
            f"{100 * np.mean(predicted / own - 1):+.1f} %",
            _spread(1 - alone / own),
            _spread(1 - best / own),
            f"{np.mean(chosen[:, 1] > 0):.0%}",
            f"{np.mean(ahead):.0%}",
            f"{np.mean(moved):.0%}",
        ]
        label = "as measured" if measured else "published lines"
        yield f"| {bed}, {label} | {' | '.join(cells)} |"
    yield ""


def _distinct(layer: Layer) -> np.ndarray:
    """Returns the first of each layer's equals."""
    columns = [
        layer.forward.exchange.work,
        layer.forward.expert.work,
        layer.dense_forward,
        layer.forward.expert.startup,
    ]
    _, kept = np.unique(np.stack(columns), axis=1, return_index=True)
    return np.sort(kept)


def _spread(gains: np.ndarray) -> str:
    values = (np.mean(gains), np.percentile(gains, 95), np.max(gains))
    return " / ".join(f"{100 * value:.1f}" for value in values)


def settings() -> dict[str, Setting]:
    """Returns layers to be scheduled on v5e 2x4."""
    measured = Configuration(
        samples=8,
        length=1024,
        width=2048,
        hidden=8192,
        experts=8,
        active=1,
        capacity=1.0,
    )
    chosen = {
        "M 2048, H 8192, E 8, k 1": measured,
        "Mixtral-8x7B": PRESETS["mixtral-8x7b"],
        "DeepSeek-V2-Lite": PRESETS["deepseek-v2-lite"],
    }
    found = {}
    for name, c in chosen.items():
        # Of f = 1: slots are whole numbers that powers of two divide.
        setting = Setting(configuration=dataclasses.replace(c, capacity=1.0))
        least = min(
            machine.weights(setting, axes) for axes in machine.factorisations(setting)
        )
        memory = 2 * setting.layers * setting.weight_bytes * least
        found[name] = dataclasses.replace(setting, memory=memory)
    return found


def on_tpu() -> Iterator[str]:
    """Yields optima on a TPU mesh, and what latency does to them."""
    import solvers
    from solvers.command import Budget

    yield "## v5e 2x4, two layers, forward and backward\n"
    yield "Millions of compiler-predicted cycles. `default` has no pipelining and no option set; `forms` is FSMoE's choice, simulated; `evolution` is the search at 1000 evaluations.\n"
    yield "| layer | latency | default | forms | evolution | optimum | forms / optimum | passes tried | optimum is |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---|"
    wrong = []
    for name, base in settings().items():
        found = {}
        for label, (hop, startup) in LATENCIES.items():
            setting = dataclasses.replace(
                base, hop_seconds=hop, startup_seconds=startup
            )
            best = optimum.exhaustive(setting)
            found[label] = (setting, best)
            evolution = ""
            if not hop and not startup:
                budget = Budget(simulations=1000)
                run = solvers.search(game.problem(setting), "evolution", budget, key=0)
                evolution = f"{run.costs[0]:.2f}"
            default = _cost(setting, game.default(setting))
            forms = _cost(setting, optimum.closed_form(setting))
            yield (
                f"| {name} | {label} | {default:.2f} | {forms:.2f} | {evolution} | {best.cost:.2f} | "
                f"{forms / best.cost:.3f} | {best.simulations} | {_described(setting, best)} |"
            )
        for planned, real in itertools.permutations(LATENCIES, 2):
            cost = _cost(found[real][0], found[planned][1].genome)
            wrong.append((name, planned, real, cost / found[real][1].cost - 1))
    yield "\nWhat it costs to plan for the wrong latency, per cent over the optimum:\n"
    pairs = [*itertools.permutations(LATENCIES, 2)]
    yield "| layer | " + " | ".join(f"{p}, is {r}" for p, r in pairs) + " |"
    yield "|---|" + "---:|" * len(pairs)
    for name in settings():
        cells = [f"{100 * w[3]:.1f}" for w in wrong if w[0] == name]
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""


def _cost(setting: Setting, genome: Genome) -> float:
    genes = np.asarray(genome.choices)
    both = [optimum.simulated(setting, which, genes[None])[0] for which in range(2)]
    return float(sum(both)) / 1e6


def _described(setting: Setting, best: optimum.Optimum) -> str:
    plan = game.plan(setting, best.genome)

    def pipeline(one: game.Pipeline) -> str:
        graded = " graded" if len(set(one.chunks)) > 1 else ""
        ahead = f", {one.ahead} ahead" if one.ahead < one.degree else ""
        return f"{one.degree}{graded}{ahead}"

    share = plan.gradient_share[-1] if plan.gradient_share else 0
    parts = [
        f"EP {'×'.join(plan.expert_axes) or '–'}",
        f"ESP {'×'.join(plan.shard_axes) or '–'}",
        plan.exchange,
        plan.reduce if plan.shard_axes else "",
        f"r {pipeline(plan.forward)} / {pipeline(plan.backward)}",
        f"{share:.0%} of gradients inside" if share else "",
        "sync" if not plan.compiler_options else "",
    ]
    return "; ".join(part for part in parts if part)


def speed() -> Iterator[str]:
    """Yields schedules per second."""
    yield "## Throughput of the simulator\n"
    yield f"Schedules per second of processor time, batches of 512, {jax.devices()[0].platform}.\n"
    rooms, counts = (4, 8, 16, 32), (1, 2, 4, 8)
    yield "| chunks | " + " | ".join(f"{n} layers" for n in counts) + " |"
    yield "|---:|" + "---:|" * len(counts)
    for room in rooms:
        cells = [f"{_throughput(room, count):.0f}" for count in counts]
        yield f"| {room} | {' | '.join(cells)} |"
    yield ""


def _throughput(room: int, count: int, batch: int = 512) -> float:
    rng = np.random.default_rng(0)
    shape = (batch, count)
    schedules = Layers(
        times=rng.uniform(0.1, 1, (*shape, NUM_STAGES, room)).astype(np.float32),
        chunks=np.full(shape, room),
        pieces=np.ones(shape, int),
        ahead=np.full(shape, room),
        uses=np.broadcast_to(CLUSTER, (*shape, *CLUSTER.shape)),
        gradient_last=np.zeros(shape, bool),
        dense=np.ones(shape, np.float32),
        beside=np.zeros(shape, np.float32),
        tail=np.zeros(batch, np.float32),
    )
    on_device = jax.device_put(schedules)
    run = functools.partial(events.totals, on_device)
    run().block_until_ready()
    seconds = []
    for _ in range(5):
        # Of the processor, so that neighbours on the machine count for little.
        start = time.process_time()
        run().block_until_ready()
        seconds.append(time.process_time() - start)
    return batch / min(seconds)


if __name__ == "__main__":
    main()
