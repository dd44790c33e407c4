"""The published solvers as schedules, equal to their reference implementations.

Each takes a noise schedule and N + 1 times, and takes N evaluations, but for the single-step ones,
whose times are where blocks begin and end. `lower_final` reduces the order at the end, as
diffusers does below 15 steps: the last step is of order 1, the one before of order 2 at most.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from diffusion.grids import Times
from diffusion.noise import NoiseSchedule
from diffusion.schedule import UNSCALED, Estimate, Scale, Schedule, Step, taylor

Prediction: TypeAlias = Literal["noise", "data"]
SHARES: Mapping[str, float] = {"noise": 0.0, "data": 1.0}

_BH1, _BH2 = Scale(kind="bh1"), Scale(kind="bh2")
# The reference third-order formula takes half of the second derivative's exact coefficient; it is
# second-order accurate therefore (measured: 2.03).
_HALF = Scale(kind="constant", value=0.5)


def orders(steps: int, order: int, lower_final: bool) -> list[int]:
    """Returns the order of each step of a multistep solver."""
    return [
        min(order, i + 1, steps - i if lower_final else order) for i in range(steps)
    ]


def ddim(noise: NoiseSchedule, times: Times, *, eta: float = 0.0) -> Schedule:
    """DDIM (Song et al., 2021), which is DPM-Solver-1; eta = 1 is DDPM's ancestral sampling.

    Also k-diffusion's ancestral Euler, of the same eta. The variance is the posterior's, not
    DDPM's larger choice.
    """
    steps = []
    for h in np.diff(noise.log_snr(np.asarray(times))):
        kept = -np.log1p(-(eta**2) * -np.expm1(-2 * h))
        steps.append(taylor(1, tau=float(np.sqrt(kept / (2 * h)))))
    return _schedule(noise, times, steps)


def ddpm(noise: NoiseSchedule, times: Times) -> Schedule:
    """DDPM (Ho et al., 2020) on any grid, with the posterior's variance."""
    return ddim(noise, times, eta=1.0)


def dpm_solver(
    noise: NoiseSchedule,
    times: Times,
    *,
    order: int = 2,
    prediction: Prediction = "noise",
    variant: Literal["midpoint", "taylor"] = "midpoint",
    lower_final: bool = True,
    stochastic: bool = False,
) -> Schedule:
    """Multistep DPM-Solver (Lu et al., 2022), and ++ with data prediction.

    Args:
        noise: the noise schedule.
        times: [N + 1].
        order: 1, 2 or 3.
        prediction: "noise" is DPM-Solver, "data" is DPM-Solver++.
        variant: "midpoint" ("dpmsolver" in the original code) or "taylor" ("heun").
        lower_final: see above.
        stochastic: SDE-DPM-Solver(++).

    Raises:
        ValueError: another order.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"DPM-Solver has orders 1 to 3, not {order}")
    first = _BH2 if variant == "midpoint" else UNSCALED
    scales: dict[int, tuple[Scale, ...]] = {1: (), 2: (first,), 3: (UNSCALED, _HALF)}
    steps = [
        taylor(
            n,
            data_share=SHARES[prediction],
            scales=scales[n],
            tau=1.0 if stochastic else 0.0,
        )
        for n in orders(len(times) - 1, order, lower_final)
    ]
    return _schedule(noise, times, steps)


def dpm_solver_pp(
    noise: NoiseSchedule, times: Times, *, order: int = 2, lower_final: bool = True
) -> Schedule:
    """DPM-Solver++ 2M or 3M, midpoint."""
    return dpm_solver(
        noise, times, order=order, prediction="data", lower_final=lower_final
    )


def sde_dpm_solver_pp(
    noise: NoiseSchedule, times: Times, *, order: int = 2, lower_final: bool = True
) -> Schedule:
    """SDE-DPM-Solver++, midpoint."""
    return dpm_solver(
        noise,
        times,
        order=order,
        prediction="data",
        lower_final=lower_final,
        stochastic=True,
    )


def singlestep(
    noise: NoiseSchedule,
    times: Times,
    block_orders: Sequence[int],
    *,
    prediction: Prediction = "data",
    variant: Literal["midpoint", "taylor"] = "midpoint",
) -> Schedule:
    """Singlestep DPM-Solver(++): blocks that start afresh; a block of order n takes n evaluations.

    Args:
        noise: the noise schedule.
        times: [K + 1], where the K blocks begin and end; points within are uniform in log-SNR.
        block_orders: of each block, 1 to 3; see `singlestep_orders`.
        prediction: "noise" is DPM-Solver, "data" is ++.
        variant: "midpoint" ("dpmsolver") or "taylor".

    Raises:
        ValueError: as many times and orders as don't fit, or other orders.
    """
    if len(block_orders) != len(times) - 1 or not set(block_orders) <= {1, 2, 3}:
        raise ValueError(
            f"{len(times) - 1} blocks need as many orders of 1 to 3, not {list(block_orders)}"
        )
    share, taylored = SHARES[prediction], variant == "taylor"
    points, steps = [float(times[0])], []
    for n, begin, end in zip(block_orders, times[:-1], times[1:]):
        inner = np.linspace(noise.log_snr(begin), noise.log_snr(end), n + 1)[1:-1]
        points += [*np.atleast_1d(noise.time(inner)).tolist(), float(end)]
        steps.append(taylor(1, data_share=share))
        scale = _BH2 if n == 2 and not taylored else UNSCALED
        for m in range(1, n):
            # From the block's first point, with the newest output; taylor-3 ends with both.
            anchors = (0, 1) if taylored and m == 2 else (0,)
            estimates = [Estimate(anchors=anchors, scale=scale)] * len(anchors)
            steps.append(Step(data_share=share, base=m, estimates=tuple(estimates)))
    return _schedule(noise, points, steps)


def singlestep_orders(evaluations: int, order: int) -> list[int]:
    """Returns block orders that use this many evaluations (Lu et al., 2022, appendix D.4)."""
    if order == 1:
        return [1] * evaluations
    if order == 2:
        return [2] * (evaluations // 2) + [1] * (evaluations % 2)
    blocks, rest = evaluations // 3 + 1, evaluations % 3
    if rest == 0:
        return [3] * (blocks - 2) + [2, 1]
    return [3] * (blocks - 1) + [rest]


def singlestep_on(
    noise: NoiseSchedule,
    times: Times,
    *,
    order: int = 2,
    prediction: Prediction = "data",
    variant: Literal["midpoint", "taylor"] = "midpoint",
) -> Schedule:
    """Singlestep blocks between those of N + 1 times at which the orders add up."""
    blocks = singlestep_orders(len(times) - 1, order)
    ends = np.asarray(times)[np.cumsum([0, *blocks])]
    return singlestep(noise, ends, blocks, prediction=prediction, variant=variant)


def deis(
    noise: NoiseSchedule, times: Times, *, order: int = 3, lower_final: bool = True
) -> Schedule:
    """DEIS (Zhang and Chen, 2023), the log-rho Adams-Bashforth that diffusers has."""
    steps = [
        taylor(n, data_share=SHARES["noise"])
        for n in orders(len(times) - 1, order, lower_final)
    ]
    return _schedule(noise, times, steps)


def unipc(
    noise: NoiseSchedule,
    times: Times,
    *,
    order: int = 2,
    variant: Literal["bh1", "bh2"] = "bh2",
    prediction: Prediction = "data",
    lower_final: bool = True,
    corrector: bool = True,
) -> Schedule:
    """UniPC (Zhao et al., 2023): the predictor UniP with the corrector UniC at every step but the last.

    Args:
        noise: the noise schedule.
        times: [N + 1].
        order: of the predictor, 1 and up.
        variant: B(h), which acts where there is one derivative only.
        prediction: "noise" or "data".
        lower_final: see above.
        corrector: whether to correct; without, it is UniP.
    """
    scale = _BH1 if variant == "bh1" else _BH2
    steps = []
    for n in orders(len(times) - 1, order, lower_final):
        step = taylor(
            n, data_share=SHARES[prediction], scales=(scale,) if n == 2 else ()
        )
        if corrector:
            step = dataclasses.replace(
                step, corrector="pseudo", corrector_scale=scale if n == 1 else UNSCALED
            )
        steps.append(step)
    steps[-1] = dataclasses.replace(steps[-1], corrector="none")
    return _schedule(noise, times, steps)


def dpm_solver_v3(
    noise: NoiseSchedule,
    times: Times,
    *,
    order: int = 3,
    lower_final: bool = True,
    corrector: bool = True,
) -> Schedule:
    """DPM-Solver-v3 (Zheng et al., 2023) without its pseudo orders; lowers with `Statistics`."""
    steps = [
        taylor(n, data_share="empirical", corrector="pseudo" if corrector else "none")
        for n in orders(len(times) - 1, order, lower_final)
    ]
    steps[-1] = dataclasses.replace(steps[-1], corrector="none")
    return _schedule(noise, times, steps)


def _schedule(
    noise: NoiseSchedule, times: Times | Sequence[float], steps: Sequence[Step]
) -> Schedule:
    return Schedule(
        noise=noise, times=tuple(float(t) for t in times), steps=tuple(steps)
    )
