"""Presets against the papers' own formulas, step by step in float64, and against diffusers.

The references below are written from the publications, on their own variables, without tables; so
they share no code with what they check, save for the noise schedule.
"""

import functools
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from diffusion import adams, grids, presets
from diffusion.lower import lower
from diffusion.mixture import Mixture, denoiser
from diffusion.noise import EDM, NoiseSchedule, VPDiscrete, VPLinear
from diffusion.sampler import sample
from diffusion.schedule import Estimate, Scale, Schedule, Step
from diffusion.table import StepTable

GOLDENS = json.loads(Path(__file__).with_name("diffusers_goldens.json").read_text())
MEANS, VARIANCES = np.array(GOLDENS["means"]), np.array(GOLDENS["variances"])
NOISE = np.array(GOLDENS["noise"])
VP, STEPS = VPLinear(), 7
Vector = NDArray[np.float64]


def _mixture() -> Mixture:
    return Mixture(
        mean=jnp.asarray(MEANS),
        variance=jnp.asarray(VARIANCES),
        log_weight=jnp.zeros(len(MEANS)),
        label=jnp.zeros(len(MEANS), jnp.int32),
    )


def _data(x: Vector, alpha: float, sigma: float) -> Vector:
    """E[x0 | x], by NumPy and from the densities' definition."""
    variance = alpha**2 * VARIANCES + sigma**2
    offset = x[:, None] - alpha * MEANS
    logits = -0.5 * (offset**2).sum(-1) / variance - x.shape[1] / 2 * np.log(variance)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    eps = sigma * (share[..., None] * offset / variance[:, None]).sum(1)
    result: Vector = (x - sigma * eps) / alpha
    return result


@functools.cache
def _run() -> Callable[[StepTable, Vector], jax.Array]:
    return jax.jit(functools.partial(sample, denoiser(_mixture())))


def _sample(table: StepTable, x: Vector) -> Vector:
    """The table in float64, by the sampler itself."""
    with jax.enable_x64(True):
        return np.asarray(_run()(table, x))


class _Path:
    """alpha, sigma, lambda and the steps h on a grid; the model's outputs as they are asked for."""

    def __init__(self, noise: NoiseSchedule, times: Vector) -> None:
        self.times = times
        self.alpha, self.sigma = noise.marginal(times)
        self.snr = np.log(self.alpha / self.sigma)
        self.h = np.diff(self.snr)

    def data(self, x: Vector, i: int) -> Vector:
        return _data(x, self.alpha[i], self.sigma[i])

    def eps(self, x: Vector, i: int) -> Vector:
        result: Vector = (x - self.alpha[i] * self.data(x, i)) / self.sigma[i]
        return result


def _ddim(p: _Path, x: Vector) -> Vector:
    """Song et al., 2021, eq. 12 with eta = 0."""
    for i in range(len(p.h)):
        eps = p.eps(x, i)
        x = p.alpha[i + 1] * p.data(x, i) + p.sigma[i + 1] * eps
    return x


def _multistep_2_data(p: _Path, x: Vector) -> Vector:
    """Lu et al., 2022 (DPM-Solver++), algorithm 2."""
    before: Vector | None = None
    for i, h in enumerate(p.h):
        data = p.data(x, i)
        blend = data
        if before is not None and i < len(p.h) - 1:
            r = p.h[i - 1] / h
            blend = (1 + 1 / (2 * r)) * data - before / (2 * r)
        shrink = p.sigma[i + 1] / p.sigma[i]
        x = shrink * x - p.alpha[i + 1] * math.expm1(-h) * blend
        before = data
    return x


def _multistep_3(p: _Path, x: Vector, prediction: str) -> Vector:
    """The original code's third-order update, its half second derivative included."""
    past: list[Vector] = []
    for i, h in enumerate(p.h):
        if prediction == "data":
            past.insert(0, p.data(x, i))
            front, e = p.alpha[i + 1], math.expm1(-h)
            base = p.sigma[i + 1] / p.sigma[i] * x - front * e * past[0]
            first, second = -(e / h + 1), (e + h) / h**2 - 0.5
        else:
            past.insert(0, p.eps(x, i))
            front, e = p.sigma[i + 1], math.expm1(h)
            base = p.alpha[i + 1] / p.alpha[i] * x - front * e * past[0]
            first, second = e / h - 1, (e - h) / h**2 - 0.5
        x = base
        order = min(3, i + 1, len(p.h) - i)
        if order == 2:
            x = base - 0.5 * front * e * (past[0] - past[1]) / (p.h[i - 1] / h)
        if order == 3:
            r0, r1 = p.h[i - 1] / h, p.h[i - 2] / h
            d0, d1 = (past[0] - past[1]) / r0, (past[1] - past[2]) / r1
            slope = d0 + r0 / (r0 + r1) * (d0 - d1)
            x = base - front * (first * slope + second * (d0 - d1) / (r0 + r1))
    return x


def _singlestep_2_noise(p: _Path, x: Vector, noise: NoiseSchedule) -> Vector:
    """Lu et al., 2022 (DPM-Solver), algorithm 1 with r = 1/2."""
    for i, h in enumerate(p.h):
        middle = float(noise.time(p.snr[i] + h / 2))
        alpha, sigma = noise.marginal(middle)
        u = alpha / p.alpha[i] * x - sigma * math.expm1(h / 2) * p.eps(x, i)
        eps = (u - alpha * _data(u, alpha, sigma)) / sigma
        x = p.alpha[i + 1] / p.alpha[i] * x - p.sigma[i + 1] * math.expm1(h) * eps
    return x


def _singlestep_3_noise(p: _Path, x: Vector, noise: NoiseSchedule) -> Vector:
    """Lu et al., 2022 (DPM-Solver), algorithm 2 with r1 = 1/3, r2 = 2/3."""
    r1, r2 = 1 / 3, 2 / 3
    for i, h in enumerate(p.h):
        s1, s2 = (float(noise.time(p.snr[i] + r * h)) for r in (r1, r2))
        (a1, g1), (a2, g2) = noise.marginal(s1), noise.marginal(s2)
        eps = p.eps(x, i)
        u1 = a1 / p.alpha[i] * x - g1 * math.expm1(r1 * h) * eps
        d1 = (u1 - a1 * _data(u1, a1, g1)) / g1 - eps
        u2 = a2 / p.alpha[i] * x - g2 * math.expm1(r2 * h) * eps
        u2 = u2 - g2 * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
        d2 = (u2 - a2 * _data(u2, a2, g2)) / g2 - eps
        x = p.alpha[i + 1] / p.alpha[i] * x - p.sigma[i + 1] * math.expm1(h) * eps
        x = x - p.sigma[i + 1] / r2 * (math.expm1(h) / h - 1) * d2
    return x


def _deis(p: _Path, x: Vector, order: int) -> Vector:
    """Zhang and Chen, 2023, eq. 15 in log rho, the integrals by quadrature."""
    nodes, shares = np.polynomial.legendre.leggauss(40)
    past: list[Vector] = []
    for i, h in enumerate(p.h):
        past.insert(0, p.eps(x, i))
        used = min(order, i + 1, len(p.h) - i)
        at = p.snr[i] + h * (nodes + 1) / 2
        known = [p.snr[i - j] for j in range(used)]
        x = p.alpha[i + 1] / p.alpha[i] * x
        for j in range(used):
            lagrange = np.prod(
                [(at - k) / (known[j] - k) for k in known if k != known[j]], axis=0
            )
            integral = np.sum(np.exp(-at) * lagrange * shares) * h / 2
            x = x - p.alpha[i + 1] * integral * past[j]
    return x


def _rhos(ratios: list[float], hh: float, bh: float) -> Vector:
    rows, right, value, factorial = [], [], math.expm1(hh) / hh - 1, 1.0
    for k in range(1, len(ratios) + 1):
        rows.append([r ** (k - 1) for r in ratios])
        right.append(value * factorial / bh)
        factorial *= k + 1
        value = value / hh - 1 / factorial
    return np.linalg.solve(np.array(rows), np.array(right))


def _unipc(p: _Path, x: Vector, fields: tuple[int, str, str]) -> Vector:
    """Zhao et al., 2023, algorithms 1 and 2, with the linear system of its reference code."""
    order, variant, prediction = fields
    ask = p.data if prediction == "data" else p.eps
    past = [ask(x, 0)]
    for i, h in enumerate(p.h):
        hh = -h if prediction == "data" else h
        bh = hh if variant == "bh1" else math.expm1(hh)
        n = min(order, i + 1, len(p.h) - i)
        if prediction == "data":
            front = p.alpha[i + 1]
            base = p.sigma[i + 1] / p.sigma[i] * x - front * math.expm1(hh) * past[0]
        else:
            front = p.sigma[i + 1]
            base = p.alpha[i + 1] / p.alpha[i] * x - front * math.expm1(hh) * past[0]
        ratios = [(p.snr[i - j] - p.snr[i]) / h for j in range(1, n)]
        slopes = [(past[j] - past[0]) / r for j, r in enumerate(ratios, 1)]

        predicted = base
        if slopes:
            rho = np.array([0.5]) if n == 2 else _rhos(ratios, hh, bh)
            predicted = base - front * bh * sum(r * d for r, d in zip(rho, slopes))
        if i == len(p.h) - 1:
            return predicted
        new = ask(predicted, i + 1)
        rho = np.array([0.5]) if n == 1 else _rhos([*ratios, 1.0], hh, bh)
        total = sum(r * d for r, d in zip(rho[:-1], slopes)) + rho[-1] * (new - past[0])
        x = base - front * bh * total
        past.insert(0, new)
    return x


def _ipndm(p: _Path, x: Vector) -> Vector:
    """Adams-Bashforth with a uniform grid's coefficients, in y = x / alpha over rho."""
    rho, y, past = p.sigma / p.alpha, x / p.alpha[0], []
    for i in range(len(p.h)):
        past.insert(0, (y - p.data(p.alpha[i] * y, i)) / rho[i])
        step = rho[i + 1] - rho[i]
        match min(i, 3):
            case 0:
                slope = past[0]
            case 1:
                slope = (3 * past[0] - past[1]) / 2
            case 2:
                slope = (23 * past[0] - 16 * past[1] + 5 * past[2]) / 12
            case _:
                older = 55 * past[0] - 59 * past[1] + 37 * past[2] - 9 * past[3]
                slope = older / 24
        y = y + step * slope
    return p.alpha[-1] * y


def _heun(p: _Path, x: Vector) -> Vector:
    """Karras et al., 2022, algorithm 1 (Euler at the end)."""
    rho, y = p.sigma / p.alpha, x / p.alpha[0]
    for i in range(len(p.h)):
        slope = (y - p.data(p.alpha[i] * y, i)) / rho[i]
        ahead = y + (rho[i + 1] - rho[i]) * slope
        if i < len(p.h) - 1:
            other = (ahead - p.data(p.alpha[i + 1] * ahead, i + 1)) / rho[i + 1]
            ahead = y + (rho[i + 1] - rho[i]) * (slope + other) / 2
        y = ahead
    return p.alpha[-1] * y


def _deis_tab_2(p: _Path, x: Vector) -> Vector:
    """tAB-2: d as a straight line in t, integrated over rho by many small trapezoids."""
    rho, y, past = p.sigma / p.alpha, x / p.alpha[0], []
    for i in range(len(p.h)):
        past.insert(0, (y - p.data(p.alpha[i] * y, i)) / rho[i])
        t = np.linspace(p.times[i], p.times[i + 1], 20_001)
        alpha, sigma = VP.marginal(t)
        if i == 0:
            y = y + (rho[1] - rho[0]) * past[0]
            continue
        toward = (t - p.times[i - 1]) / (p.times[i] - p.times[i - 1])
        y = y + np.trapezoid(toward, sigma / alpha) * past[0]
        y = y + np.trapezoid(1 - toward, sigma / alpha) * past[1]
    return p.alpha[-1] * y


def _preset(name: str, **fields: Any) -> Callable[[NoiseSchedule, Vector], StepTable]:
    def make(noise: NoiseSchedule, times: Vector) -> StepTable:
        made = getattr(presets if hasattr(presets, name) else adams, name)
        result = made(noise, times, **fields)
        return lower(result) if isinstance(result, Schedule) else result

    return make


Reference = Callable[[_Path, Vector], Vector]
REFERENCES: dict[str, tuple[Reference, Callable[..., StepTable]]] = {
    "ddim": (_ddim, _preset("ddim")),
    "dpm_solver_1": (_ddim, _preset("dpm_solver", order=1)),
    "dpm_solver_pp_1": (_ddim, _preset("dpm_solver_pp", order=1)),
    "dpm_solver_pp_2m": (_multistep_2_data, _preset("dpm_solver_pp", order=2)),
    "dpm_solver_pp_3m": (
        lambda p, x: _multistep_3(p, x, "data"),
        _preset("dpm_solver_pp", order=3),
    ),
    "dpm_solver_3m": (
        lambda p, x: _multistep_3(p, x, "noise"),
        _preset("dpm_solver", order=3),
    ),
    "dpm_solver_2s": (
        lambda p, x: _singlestep_2_noise(p, x, VP),
        _preset("singlestep", block_orders=[2] * STEPS, prediction="noise"),
    ),
    "dpm_solver_3s": (
        lambda p, x: _singlestep_3_noise(p, x, VP),
        _preset("singlestep", block_orders=[3] * STEPS, prediction="noise"),
    ),
    "deis_1": (lambda p, x: _deis(p, x, 1), _preset("deis", order=1)),
    "deis_2": (lambda p, x: _deis(p, x, 2), _preset("deis", order=2)),
    "deis_3": (lambda p, x: _deis(p, x, 3), _preset("deis", order=3)),
    "deis_tab_2": (_deis_tab_2, _preset("deis_ab", order=2)),
    "ipndm": (_ipndm, _preset("ipndm")),
    "heun": (_heun, _preset("heun")),
}
for _fields in itertools.product((1, 2, 3), ("bh1", "bh2"), ("noise", "data")):
    REFERENCES["unipc_{}_{}_{}".format(*_fields)] = (
        functools.partial(_unipc, fields=_fields),
        _preset("unipc", **dict(zip(("order", "variant", "prediction"), _fields))),
    )


@pytest.mark.parametrize("grid", ["logsnr", "time_quadratic"])
@pytest.mark.parametrize("name", REFERENCES)
def test_equals_the_publication_in_float64(name: str, grid: str) -> None:
    reference, preset = REFERENCES[name]
    times = grids.GRIDS[grid](VP, STEPS)
    expected = reference(_Path(VP, times), NOISE)
    loose = 1e-8 if name == "deis_tab_2" else 1e-11  # The former's trapezoids.
    np.testing.assert_allclose(
        _sample(preset(VP, times), NOISE), expected, rtol=loose, atol=loose
    )


def _golden_table(entry: dict[str, Any]) -> tuple[StepTable, float]:
    """The table of a case, and by how much diffusers scales the noise first."""
    sigmas = np.array(entry["sigmas"])
    fields = {
        k: v
        for k, v in entry.items()
        if k not in ("name", "sigmas", "result", "order_list")
    }
    if entry["name"] == "heun":
        noise: NoiseSchedule = EDM(sigma_max=sigmas[0])
        return adams.heun(noise, sigmas), sigmas[0]
    noise = VPDiscrete.linear()
    times = grids.from_sigmas(noise, np.maximum(sigmas, 1e-300))
    if entry["name"] == "singlestep":
        share = presets.SHARES[entry["prediction"]]
        steps = tuple(_block_step(n, share) for n in entry["order_list"])
        return lower(Schedule(noise=noise, times=tuple(times), steps=steps)), 1.0
    return lower(getattr(presets, entry["name"])(noise, times, **fields)), 1.0


def _block_step(position: int, share: float) -> Step:
    """diffusers' singlestep: from the block's first point, the second step midpoint always."""
    scale = Scale(kind="bh2") if position == 2 else Scale()
    estimates = (Estimate(anchors=(0,), scale=scale),) if position > 1 else ()
    return Step(data_share=share, base=position - 1, estimates=estimates)


def _name(entry: dict[str, Any]) -> str:
    rest = [str(v) for k, v in entry.items() if k not in ("sigmas", "result")]
    return "-".join(rest)


@pytest.mark.parametrize("entry", GOLDENS["cases"], ids=_name)
def test_equals_diffusers_in_float32(entry: dict[str, Any]) -> None:
    table, scale = _golden_table(entry)
    result = _sample(table._replace(noise=None), NOISE * scale)
    # diffusers computes coefficients in float32; its noise forms lose most by it.
    exact = entry.get("prediction", "data") == "data" and entry["name"] != "deis"
    tolerance = 5e-6 if exact else 1e-4
    np.testing.assert_allclose(result, entry["result"], atol=tolerance)


@pytest.mark.parametrize("evaluations", range(1, 13))
@pytest.mark.parametrize("order", [1, 2, 3])
def test_singlestep_orders_use_the_whole_budget(evaluations: int, order: int) -> None:
    blocks = presets.singlestep_orders(evaluations, order)
    assert sum(blocks) == evaluations
    assert set(blocks) <= set(range(1, order + 1))
    times = grids.time_power(VP, evaluations)
    assert presets.singlestep_on(VP, times, order=order).evaluations == evaluations


def test_ancestral_sampling_is_ddpms_posterior() -> None:
    """Ho et al., 2020, eq. 7, on the training steps themselves."""
    noise = VPDiscrete.linear(count=50, last=0.2)
    steps = np.arange(49, -1, -1)
    table = lower(presets.ddpm(noise, grids.from_training_steps(noise, steps)))
    betas = np.array(noise.betas)[steps[:-1]]
    kept = np.cumprod(1 - np.array(noise.betas))[steps]
    now, after = kept[:-1], kept[1:]
    assert table.noise is not None
    np.testing.assert_allclose(
        table.noise**2, betas * (1 - after) / (1 - now), rtol=1e-9
    )
    np.testing.assert_allclose(
        table.carry, np.sqrt(1 - betas) * (1 - after) / (1 - now), rtol=1e-9
    )
    np.testing.assert_allclose(
        table.weight[:, 0], np.sqrt(after) * betas / (1 - now), rtol=1e-9
    )


def test_ancestral_euler_of_k_diffusion() -> None:
    """In EDM's variables: sigma_up^2 + sigma_down^2 = sigma_next^2, Euler to sigma_down."""
    sigmas = np.array([10.0, 3.0, 1.0, 0.2])
    table = lower(presets.ddim(EDM(), sigmas, eta=0.7))
    now, after = sigmas[:-1], sigmas[1:]
    up = 0.7 * np.sqrt(after**2 * (now**2 - after**2) / now**2)
    down = np.sqrt(after**2 - up**2)
    np.testing.assert_allclose(table.noise, up, rtol=1e-10)
    np.testing.assert_allclose(table.carry, down / now, rtol=1e-10)
    np.testing.assert_allclose(table.weight[:, 0], 1 - down / now, rtol=1e-10)


def test_bh1_and_bh2_predict_the_same_from_order_3_on() -> None:
    times = grids.logsnr(VP, 8)
    tables = [
        lower(
            presets.unipc(
                VP, times, order=3, variant=v, corrector=False, lower_final=False
            )
        )
        for v in ("bh1", "bh2")
    ]
    np.testing.assert_allclose(tables[0].weight[2:], tables[1].weight[2:], atol=1e-15)
    assert np.any(tables[0].weight[1] != tables[1].weight[1])


def test_unip_3_is_deis_3_where_both_are_of_order_3() -> None:
    times = grids.logsnr(VP, 8)
    unip = presets.unipc(
        VP, times, order=3, prediction="noise", corrector=False, lower_final=False
    )
    deis = presets.deis(VP, times, lower_final=False)
    assert unip.steps[2:] == deis.steps[2:]


def test_presets_refuse_what_they_do_not_have() -> None:
    times = grids.logsnr(VP, 4)
    with pytest.raises(ValueError, match="orders 1 to 3, not 4"):
        presets.dpm_solver(VP, times, order=4)
    with pytest.raises(ValueError, match="orders 1 to 4, not 5"):
        adams.ipndm(VP, times, order=5)
    with pytest.raises(ValueError, match="4 blocks need"):
        presets.singlestep(VP, times, [3, 3])
