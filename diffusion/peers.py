"""Published ways to find a schedule, as algorithms to compare with on our own problems.

Grids by dynamic programming (GITS, OSS), by a model-free bound (DMN), by gradients through the
sampler (LD3); tables by gradients (GS, DyWeight). What each minimised in its publication is kept,
save that perceptual losses are the plain squared error to the reference here, as for everyone.
Axes: M points of a fine teacher grid, B samples, N steps.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped,unused-ignore]
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.typing import NDArray

from diffusion import adams, grids, presets
from diffusion.evaluate import Judge
from diffusion.grids import Times
from diffusion.lower import lower
from diffusion.noise import NoiseSchedule
from diffusion.prediction import Point
from diffusion.problems import Problem
from diffusion.refine import (
    DEFAULT_FIT,
    Corrected,
    FitConfig,
    Fitted,
    asked_at,
    fit,
    grid_logits,
    learned_grid,
    refine_schedule,
)
from diffusion.sampler import trajectory
from diffusion.schedule import Schedule
from diffusion.table import StepTable, Tape

Floats = NDArray[np.float64]


class Teacher(NamedTuple):
    """A finely solved set of noises, in EDM's variables y = x / alpha, rho = sigma / alpha."""

    times: Times  # [M]
    rho: Floats  # [M]
    states: Float[Array, "M B F"]  # y at each point.
    slopes: Float[
        Array, "M B F"
    ]  # dy / drho = (y - D) / rho at each point; the last repeated.


def teacher(problem: Problem, x: Float[Array, "B ..."], points: int = 61) -> Teacher:
    """Solves with exact-for-now steps between the points of a grid uniform in rho^(1/7)."""
    times = grids.edm(problem.noise, points - 1)
    table = lower(presets.unipc(problem.noise, times, order=3, lower_final=False))

    def run(table: StepTable, x: Array) -> tuple[Array, Array]:
        end, way = trajectory(problem.denoise, table, x)
        return jnp.concatenate([way.states, end[None]]), way.denoised

    states, data = jax.jit(run)(table, x)
    alpha, sigma = problem.noise.marginal(times)
    scale = jnp.asarray(alpha, states.dtype).reshape(-1, 1, 1)
    y = states.reshape(points, len(x), -1) / scale
    rho = sigma / alpha
    gap = jnp.asarray(rho[:-1], states.dtype).reshape(-1, 1, 1)
    slopes = (y[:-1] - data.reshape(points - 1, len(x), -1)) / gap
    return Teacher(times, rho, y, jnp.concatenate([slopes, slopes[-1:]]))


def gits(teacher: Teacher, steps: int, *, gamma: float = 1.15) -> Times:
    """Returns GITS's grid (Chen et al., ICML 2024): N steps of least total deviation.

    The cost of a jump is how much further from the chord of the whole trajectory it ends than the
    teacher does there; V[i][k] = min_j cost[i][j] + gamma V[j][k - 1].

    Args:
        teacher: the trajectories.
        steps: N.
        gamma: weight of what comes later; 0.8 to 1.2 were tried.
    """
    cost = np.asarray(_jump_costs(teacher), np.float64)
    last = len(cost) - 1
    value = np.full((last + 1, steps + 1), np.inf)
    value[last, 0] = 0.0
    choice = np.zeros((last + 1, steps + 1), int)
    for k in range(1, steps + 1):
        for i in range(last):
            through = cost[i, i + 1 :] + gamma * value[i + 1 :, k - 1]
            choice[i, k] = i + 1 + int(np.argmin(through))
            value[i, k] = through.min()
    path = [0]
    for k in range(steps, 0, -1):
        path.append(int(choice[path[-1], k]))
    return teacher.times[path]


def _jump_costs(teacher: Teacher) -> Float[Array, "M M"]:
    """Deviation after an Euler jump from i to j, less the teacher's at j; mean over samples."""
    first, last = teacher.states[0], teacher.states[-1]
    chord = last - first
    length = jnp.sum(chord**2, -1, keepdims=True)
    rho = jnp.asarray(teacher.rho, first.dtype)

    def deviation(y: Array) -> Array:
        along = jnp.sum((y - first) * chord, -1, keepdims=True) / length
        return jnp.linalg.norm(y - first - along * chord, axis=-1)

    own = deviation(teacher.states)

    def row(state: Array, slope: Array, at: Array) -> Array:
        jumps = (rho - at)[:, None, None]
        return jnp.mean(jnp.abs(deviation(state + jumps * slope) - own), -1)

    return jax.lax.map(lambda each: row(*each), (teacher.states, teacher.slopes, rho))


def oss(problem: Problem, teacher: Teacher, steps: int) -> Times:
    """Returns OSS's grid (Pei et al., 2025): dynamic programming on the student's own states.

    z[k][j] is the best state of an Euler student at point j after k steps; its predecessor is the
    one whose jump ends nearest to the teacher there, by the mean over samples.

    Args:
        problem: whose model the student asks.
        teacher: the trajectories.
        steps: N.
    """
    alpha, sigma = (
        jnp.asarray(v, teacher.states.dtype)
        for v in problem.noise.marginal(teacher.times)
    )
    times = jnp.asarray(teacher.times, teacher.states.dtype)
    rho = jnp.asarray(teacher.rho, teacher.states.dtype)
    shape = teacher.states.shape[1:2] + problem.shape

    @jax.jit
    def slopes(states: Float[Array, "M B F"]) -> Float[Array, "M B F"]:
        def one(y: Array, time: Array, a: Array, s: Array) -> Array:
            x = (a * y).reshape(shape)
            data = problem.denoise(x, Point(time, a, s), None).reshape(y.shape)
            return (y - data) * a / s

        return jax.lax.map(lambda each: one(*each), (states, times, alpha, sigma))

    @jax.jit
    def arrive(
        states: Array, slope: Array, open_: Array
    ) -> tuple[Float[Array, "M B F"], Array, Array]:
        """Best arrivals at every point from the points before it that can be reached."""

        def one(j: Array) -> tuple[Array, Array, Array]:
            landed = states + (rho[j] - rho)[:, None, None] * slope
            error = jnp.mean((landed - teacher.states[j]) ** 2, (1, 2))
            error = jnp.where(open_ & (jnp.arange(len(rho)) < j), error, jnp.inf)
            i = jnp.argmin(error)
            return landed[i], i, error[i]

        return jax.lax.map(one, jnp.arange(len(rho)))

    count = len(teacher.rho)
    states = jnp.broadcast_to(teacher.states[0], teacher.states.shape)
    open_ = jnp.arange(count) == 0
    before = []
    for _ in range(steps):
        states, source, error = arrive(states, slopes(states), open_)
        open_ = jnp.isfinite(error)
        states = jnp.where(open_[:, None, None], states, 0.0)
        before.append(np.asarray(source))
    path = [count - 1]
    for source in reversed(before):
        path.append(int(source[path[-1]]))
    return teacher.times[path[::-1]]


def dmn(
    noise: NoiseSchedule,
    steps: int,
    make: Callable[[NoiseSchedule, Times], Schedule] = presets.dpm_solver_pp,
    *,
    order: float = 1.0,
    iterations: int = 2000,
) -> Times:
    """Returns DMN's grid (Xue et al., CVPR 2024): least bound of the error, no model asked.

    The model's errors are taken to be of unit norm and to grow as (sigma / alpha)^order towards
    noise; the final state depends on output i through coefficients that sum to w_i, so the bound is
    sum_i |w_i| error(lambda_i). Minimised over interior points by Adam from uniform log-SNR.

    Args:
        noise: the noise schedule.
        steps: N.
        make: the solver whose coefficients are bounded.
        order: how the model's errors depend on the noise.
        iterations: of Adam.
    """
    plan = make(noise, grids.logsnr(noise, steps))

    def bound(logits: Array) -> Array:
        times = learned_grid(noise, logits)
        table = lower(plan, times=times)
        error = (table.sigma / table.alpha) ** order
        return jnp.sum(jnp.abs(_final_weights(table)) * error)

    optimizer = optax.adam(optax.cosine_decay_schedule(3e-2, iterations))

    def step(
        carry: tuple[Array, optax.OptState], _: None
    ) -> tuple[tuple[Array, optax.OptState], None]:
        logits, state = carry
        updates, state = optimizer.update(jax.grad(bound)(logits), state)
        return (optax.apply_updates(logits, updates), state), None

    start = jnp.zeros(steps)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=iterations)[0][0])
    return np.asarray(
        learned_grid(noise, np.asarray(run((start, optimizer.init(start)))))
    )


def _final_weights(table: StepTable) -> Float[Array, " N"]:
    """How much the final state changes with each output, all else equal."""
    rows = table.carry.shape[0]
    weights = []
    carried = [1.0] * rows
    for n in reversed(range(rows - 1)):
        carried[n] = carried[n + 1] * table.carry[n + 1]
    for j in range(rows):
        weights.append(sum(carried[n] * table.weight[n, n - j] for n in range(j, rows)))
    return jnp.stack(weights)


class GridParams(NamedTuple):
    """A learned grid, and where the network is asked instead of on it."""

    logits: Float[Array, " N"]
    shift: Float[Array, " N"]  # Of lambda at each evaluation but the first.


def ld3(
    problem: Problem,
    make: Callable[[NoiseSchedule, Times], Schedule],
    steps: int,
    search: Judge,
    select: Judge,
    key: PRNGKeyArray,
    *,
    start: Times | None = None,
    decoupled: bool = True,
    config: FitConfig = DEFAULT_FIT,
) -> Fitted[GridParams]:
    """LD3 (Tong et al., ICLR 2025): the grid of a fixed solver, by gradients through it.

    Args:
        problem: whose model to sample from.
        make: the solver.
        steps: N.
        search: the noise to fit.
        select: the noise that decides when it was best.
        key: consumed.
        start: the grid to start from; uniform in log-SNR by default.
        decoupled: also learn where the network is asked.
        config: of the fit.
    """
    noise = problem.noise
    plan = make(noise, grids.logsnr(noise, steps))

    def to_table(params: GridParams) -> StepTable:
        table = lower(plan, times=learned_grid(noise, params.logits))
        return asked_at(table, noise, params.shift) if decoupled else table

    start = grids.logsnr(noise, steps) if start is None else start
    params = GridParams(grid_logits(noise, start), jnp.zeros(steps))
    return fit(problem, params, to_table, search, select, key, config)


def gs(
    problem: Problem,
    steps: int,
    search: Judge,
    select: Judge,
    key: PRNGKeyArray,
    *,
    start: Times | None = None,
    config: FitConfig = DEFAULT_FIT,
) -> Fitted[Corrected]:
    """GS (ICLR 2026): DPM-Solver++(3M)'s coefficients on a learned grid, plus learned corrections.

    Args: as `ld3`'s.
    """
    times = grids.logsnr(problem.noise, steps) if start is None else start
    plan = presets.dpm_solver_pp(problem.noise, times, order=3)
    return refine_schedule(problem, plan, search, select, key, config)


class DyWeightParams(NamedTuple):
    """Unconstrained multistep weights, a grid, and scales of the implied network times."""

    logits: Float[Array, " N"]
    weight: Float[Array, "N K"]
    log_scale: Float[Array, " N"]


def dyweight(
    problem: Problem,
    steps: int,
    search: Judge,
    select: Judge,
    key: PRNGKeyArray,
    *,
    start: Times | None = None,
    history: int = 3,
    config: FitConfig = DEFAULT_FIT,
) -> Fitted[DyWeightParams]:
    """DyWeight (2026): y_{n+1} = y_n + (rho_{n+1} - rho_n) sum_j w[n, j] d_{n-j}, w free.

    The network is asked where the weights say that the state is: rho_n + (sum_j w) (rho_{n+1} -
    rho_n), times a learned scale. Starts from iPNDM.

    Args: as `ld3`'s, and
        history: slopes used per step.
    """
    noise = problem.noise

    def to_table(params: DyWeightParams) -> StepTable:
        times = learned_grid(noise, params.logits)
        alpha, sigma = noise.marginal(times)
        rho = sigma / alpha
        tape = Tape(steps)
        y = tape.initial / alpha[0]
        asked = rho[0]
        slopes: list[Array] = []
        for n in range(steps):
            time = noise.time(-jnp.log(asked))
            a, s = noise.marginal(time)
            data = tape.evaluate(a * y, time, a, s)
            slopes.insert(0, (y - data) / asked)
            weights = params.weight[n, : min(history, n + 1)]
            gap = rho[n + 1] - rho[n]
            y = y + gap * sum(w * d for w, d in zip(weights, slopes))
            implied = jnp.maximum(rho[n] + jnp.sum(weights) * gap, 0.1 * rho[n + 1])
            asked = implied * jnp.exp(params.log_scale[n])
        return tape.finish(y * alpha[-1], (alpha[0], sigma[0]))

    start = grids.logsnr(noise, steps) if start is None else start
    initial = np.zeros((steps, history))
    for n in range(steps):
        used = adams.ADAMS_BASHFORTH[min(n, history - 1)]
        initial[n, : len(used)] = used
    params = DyWeightParams(
        grid_logits(noise, start), jnp.asarray(initial), jnp.zeros(steps)
    )
    return fit(problem, params, to_table, search, select, key, config)
