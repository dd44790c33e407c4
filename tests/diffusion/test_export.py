"""`TableScheduler` in torch against `sample` in JAX, with one exact denoiser written in both."""

import ast
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import grids, presets, tablefile
from diffusion.lower import lower
from diffusion.mixture import Mixture, denoised, denoiser
from diffusion.noise import EDM, NoiseSchedule, VPDiscrete, VPLinear
from diffusion.prediction import Kind, from_data, from_network
from diffusion.sampler import sample, start
from diffusion.schedule import Schedule, taylor
from diffusion.table import StepTable

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusion.export import table_scheduler  # noqa: E402
from diffusion.export.table_scheduler import TableScheduler  # noqa: E402

VP, DISCRETE = VPLinear(), VPDiscrete.linear()
RNG = np.random.default_rng(3)
MEANS, VARIANCES = RNG.normal(size=(5, 4)), RNG.uniform(0.3, 0.7, 5)
NOISE = RNG.normal(size=(12, 4))


def _mixture() -> Mixture:
    return Mixture(
        mean=jnp.asarray(MEANS),
        variance=jnp.asarray(VARIANCES),
        log_weight=jnp.zeros(5),
        label=jnp.zeros(5, jnp.int32),
    )


def _unit(noise: NoiseSchedule) -> Schedule:
    """Whose first evaluation is replaced, so that its start is scaled."""
    times = tuple(grids.logsnr(noise, 7).tolist())
    steps = tuple(taylor(min(i + 1, 2)) for i in range(7))
    return Schedule(noise=noise, times=times, steps=steps, first="unit")


TABLES: dict[str, tuple[NoiseSchedule, StepTable]] = {
    "unipc": (VP, lower(presets.unipc(VP, grids.logsnr(VP, 6), order=3))),
    "dpm_solver_pp": (
        DISCRETE,
        lower(presets.dpm_solver_pp(DISCRETE, grids.logsnr(DISCRETE, 8)), window=2),
    ),
    "singlestep": (VP, lower(presets.singlestep_on(VP, grids.time_power(VP, 7)))),
    "edm": (EDM(), lower(presets.unipc(EDM(), grids.edm(EDM(), 6)))),
    "unit": (VP, lower(_unit(VP))),
    "ddpm": (VP, lower(presets.ddpm(VP, grids.logsnr(VP, 6)))),
    "sde": (VP, lower(presets.sde_dpm_solver_pp(VP, grids.logsnr(VP, 6)))),
}


def _saved(folder: Path, name: str, **changes: Any) -> Path:
    noise, table = TABLES[name]
    path = folder / "schedule.json"
    path.write_text(json.dumps(tablefile.to_json(table, noise) | changes))
    return path


def _data(x: Any, alpha: float, sigma: float) -> Any:
    """E[x0 | x] of the mixture, in torch, from the densities' definition."""
    means, variances = (torch.tensor(a, dtype=x.dtype) for a in (MEANS, VARIANCES))
    total = alpha**2 * variances + sigma**2
    offset = x[:, None] - alpha * means
    logits = -0.5 * (offset**2).sum(-1) / total - x.shape[1] / 2 * total.log()
    inner = means + (alpha * variances / total)[:, None] * offset
    return (logits.softmax(1)[..., None] * inner).sum(1)


def _run(scheduler: Any, x: Any, kind: str = "sample", draws: Any = None) -> Any:
    """A pipeline's loop, with a model that predicts as asked."""
    config = scheduler.config
    for n, t in enumerate(scheduler.timesteps):
        alpha, sigma = config.alpha[n], config.sigma[n]
        seen = scheduler.scale_model_input(x, t)
        data = _data(seen, alpha, sigma)
        eps = (seen - alpha * data) / sigma
        output = {
            "sample": data,
            "epsilon": eps,
            "v_prediction": alpha * eps - sigma * data,
        }[kind]
        noise = {} if draws is None else {"variance_noise": draws[n]}
        x = scheduler.step(output, t, x, **noise).prev_sample
    return x


def _draws(table: StepTable, key: Any, dtype: Any) -> Any:
    return [
        torch.tensor(
            np.array(jax.random.normal(jax.random.fold_in(key, n), NOISE.shape, dtype))
        )
        for n in range(table.evaluations)
    ]


@pytest.mark.parametrize("name", TABLES)
def test_like_the_sampler(name: str, tmp_path: Path) -> None:
    scheduler = TableScheduler.from_file(
        _saved(tmp_path, name), prediction_type="sample"
    )
    _, table = TABLES[name]
    for double, tolerance in ((False, 1e-5), (True, 1e-9)):
        with jax.enable_x64(double):
            dtype = jnp.float64 if double else jnp.float32
            key = jax.random.key(5)
            draws = None if table.noise is None else _draws(table, key, dtype)
            begin = start(table, jnp.asarray(NOISE, dtype))
            expected = sample(denoiser(_mixture()), table, begin, key=key)
            assert expected.dtype == dtype
            expected = np.asarray(expected)
        x = torch.tensor(NOISE, dtype=torch.float64 if double else torch.float32)
        scheduler.set_timesteps(table.evaluations)
        found = _run(scheduler, scheduler.init_noise_sigma * x, draws=draws)
        np.testing.assert_allclose(found.numpy(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_predictions(kind: str, tmp_path: Path) -> None:
    path = _saved(tmp_path, "unipc")
    x = torch.tensor(NOISE)
    found, expected = (
        _run(TableScheduler.from_file(path, prediction_type=k), x, k)
        for k in (kind, "sample")
    )
    torch.testing.assert_close(found, expected)


def test_timesteps_are_what_the_network_is_given(tmp_path: Path) -> None:
    noise, table = TABLES["dpm_solver_pp"]
    scheduler = TableScheduler.from_file(_saved(tmp_path, "dpm_solver_pp"))
    assert scheduler.config.num_train_timesteps == 1000
    given = []
    kind: Kind = "eps"

    def apply(params: Any, x: Any, t: Any, cond: Any) -> Any:
        jax.debug.callback(lambda now: given.append(float(now)), t[0], ordered=True)
        alpha, sigma = noise.marginal((t[0] + 1) / 1000)
        return from_data(kind, denoised(_mixture(), x, alpha, sigma), x, alpha, sigma)

    model = from_network(apply, None, kind, network_time=lambda t: 1000 * t - 1)
    sample(model, table, start(table, jnp.asarray(NOISE))).block_until_ready()
    jax.effects_barrier()
    np.testing.assert_allclose(scheduler.timesteps.numpy(), given, rtol=1e-5)
    plain = TableScheduler.from_file(
        _saved(tmp_path, "dpm_solver_pp"), num_train_timesteps=None
    )
    np.testing.assert_allclose(plain.timesteps.numpy(), table.time, rtol=1e-6)


def test_configuration_comes_back(tmp_path: Path) -> None:
    scheduler = TableScheduler.from_file(
        _saved(tmp_path, "sde"), prediction_type="sample", num_train_timesteps=1000
    )
    scheduler.save_pretrained(tmp_path)
    again = TableScheduler.from_pretrained(tmp_path)
    other = TableScheduler.from_config(scheduler.config)
    draws = torch.tensor(RNG.normal(size=(6, *NOISE.shape)))
    x = torch.tensor(NOISE)
    expected = _run(scheduler, x, draws=draws)
    for loaded in (again, other):
        assert _public(loaded) == _public(scheduler)
        assert torch.equal(loaded.timesteps, scheduler.timesteps)
        assert torch.equal(_run(loaded, x, draws=draws), expected)


def _public(scheduler: Any) -> dict[str, Any]:
    return {k: v for k, v in scheduler.config.items() if not k.startswith("_")}


def test_seeded_noise(tmp_path: Path) -> None:
    scheduler = TableScheduler.from_file(
        _saved(tmp_path, "ddpm"), prediction_type="sample"
    )
    x, t = torch.tensor(NOISE), scheduler.timesteps[0]

    def step(seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return scheduler.step(x, t, x, generator=generator, return_dict=False)[0]

    assert torch.equal(step(0), step(0))
    assert not torch.equal(step(0), step(1))


def test_half_precision_is_kept_but_not_computed_in(tmp_path: Path) -> None:
    scheduler = TableScheduler.from_file(_saved(tmp_path, "unipc"))
    x = torch.tensor(NOISE, dtype=torch.bfloat16)
    after = scheduler.step(x, scheduler.timesteps[0], x).prev_sample
    assert after.dtype == torch.bfloat16
    assert scheduler._outputs[0].dtype == torch.float32


def test_images_as_they_start(tmp_path: Path) -> None:
    later = presets.unipc(VP, grids.logsnr(VPLinear(start=0.5), 4))
    table = lower(later)
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps(tablefile.to_json(table, VP)))
    scheduler = TableScheduler.from_file(path)
    image = np.ones_like(NOISE)
    expected = start(table, jnp.asarray(NOISE), jnp.asarray(image))
    first, second = scheduler.timesteps[:2]
    x, z = torch.tensor(image), torch.tensor(NOISE)
    np.testing.assert_allclose(
        scheduler.add_noise(x, z, first), np.asarray(expected), atol=1e-6
    )
    both = scheduler.add_noise(x[:2], z[:2], torch.stack([first, second]))
    alpha, sigma = table.alpha[1], table.sigma[1]
    np.testing.assert_allclose(both[1], alpha * image[1] + sigma * NOISE[1], atol=1e-6)


def test_coefficients_per_element(tmp_path: Path) -> None:
    times = tuple(grids.logsnr(VP, 4).tolist())
    plan = Schedule(noise=VP, times=times, steps=(taylor(1),) * 4, first="mean")
    table = lower(plan, mean=np.array([0.1, -0.2, 0.3, 0.4]))
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps(tablefile.to_json(table, VP)))
    scheduler = TableScheduler.from_file(path, prediction_type="sample")
    begin = start(table, jnp.asarray(NOISE, jnp.float32))
    expected = np.asarray(sample(denoiser(_mixture()), table, begin))
    x = scheduler.init_noise_sigma * torch.tensor(NOISE, dtype=torch.float32)
    np.testing.assert_allclose(_run(scheduler, x).numpy(), expected, atol=1e-5)
    scheduler.set_timesteps()
    first = scheduler.timesteps[0]
    with pytest.raises(ValueError, match="scale_model_input"):
        scheduler.step(x, first, x)
    with pytest.raises(ValueError, match="samples of shape"):
        scheduler.scale_model_input(x[:, :3], first)


def test_in_a_pipeline(tmp_path: Path) -> None:
    network = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    scheduler = TableScheduler.from_file(_saved(tmp_path, "dpm_solver_pp"))
    pipeline = diffusers.DDPMPipeline(network, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(
        2, torch.Generator().manual_seed(0), num_inference_steps=8, output_type="np"
    ).images
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t).sample, t, x).prev_sample
    expected = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_steps_are_fixed_and_in_order(tmp_path: Path) -> None:
    scheduler = TableScheduler.from_file(_saved(tmp_path, "unipc"))
    with pytest.raises(ValueError, match=r"6 steps.*num_inference_steps=6"):
        scheduler.set_timesteps(50)
    x = torch.tensor(NOISE)
    with pytest.raises(ValueError, match="in order"):
        scheduler.step(x, scheduler.timesteps[2], x)
    with pytest.raises(ValueError, match="none of the table's timesteps"):
        scheduler.step(x, 17.0, x)
    with pytest.raises(ValueError, match="prediction_type must be one of"):
        TableScheduler.from_file(_saved(tmp_path, "unipc"), prediction_type="eps")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not JSON", "is not JSON"),
        ("[1, 2]", "not a sampler: its kind"),
        ('{"kind": "diffusion.network"}', "not a sampler: its kind"),
        ('{"kind": "diffusion.table", "schema_version": 9}', "schema version 9"),
        ('{"kind": "diffusion.table", "schema_version": 1}', "KeyError: 'noise'"),
    ],
)
def test_no_sampler(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        TableScheduler.from_file(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"time": [1.0, 1.0, 0.5, 0.4, 0.3, 0.2]}, "do not fall"),
        ({"carry": [1.0]}, "carry is of shape"),
        ({"weight": [0.0] * 6}, "not \\[N, K\\]"),
        ({"sigma": ["a"] * 6}, "sigma is no array of numbers"),
        ({"shift": [float("nan")] * 6}, "not finite"),
        ({"speed": 1}, "TypeError"),
    ],
)
def test_no_table(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    document = json.loads(_saved(tmp_path, "unipc").read_text())
    path = _saved(tmp_path, "unipc", table=document["table"] | change)
    with pytest.raises(ValueError, match=said):
        TableScheduler.from_file(path)


def test_the_file_can_be_copied() -> None:
    tree = ast.parse(Path(table_scheduler.__file__).read_text())
    names = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    assert names - set(sys.stdlib_module_names) == {"diffusers", "numpy", "torch"}
