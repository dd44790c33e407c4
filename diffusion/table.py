"""`StepTable`, what every sampler comes down to, and `Tape`, which makes one from any sampler.

Axes: N rows, one per network evaluation; K lags, at most N; P the shape of one sample where
coefficients differ per element, else nothing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from diffusion.arrays import Numeric, is_traced, namespace

# Coefficients below this are rounding: states and data are of size 1.
_ROUNDING = 1e-11


class StepTable(NamedTuple):
    """A sampler as numbers, a pytree; equal shapes compile once.

    The first evaluation is at x_0 = start_scale x_T + start_shift; D_n is the denoised sample that
    the network predicts at x_n, and

        x_{n+1} = carry[n] x_n + sum_k weight[n, k] D_{n-k} + shift[n] + noise[n] z_n.

    `weight[n, k]` with k > n is 0. NumPy float64 as lowered; cast by whoever runs it.
    """

    time: Float[Any, " N"]  # Of the evaluations, in the noise schedule's time.
    alpha: Float[Any, " N"]
    sigma: Float[Any, " N"]
    carry: Float[Any, "N ..."]
    weight: Float[Any, "N K ..."]
    shift: Float[Any, "N ..."]
    noise: Float[Any, " N"] | None  # Deviation of fresh noise; None for an ODE.
    start_scale: Float[Any, ""]
    start_shift: Float[Any, "..."]
    start_alpha: Float[Any, ""]  # x_T = start_alpha data + start_sigma noise.
    start_sigma: Float[Any, ""]

    @property
    def evaluations(self) -> int:
        """Network evaluations that one run takes."""
        return int(self.carry.shape[0])

    @property
    def window(self) -> int:
        """How many network outputs are remembered."""
        return int(self.weight.shape[1])


def stack(tables: Sequence[StepTable]) -> StepTable:
    """Returns tables of equal shapes as one with a leading axis, to `vmap` over.

    Raises:
        ValueError: the shapes differ, or some are deterministic and some are not.
    """
    shapes = {
        tuple(None if leaf is None else np.shape(leaf) for leaf in table)
        for table in tables
    }
    if len(shapes) != 1:
        raise ValueError(
            "only tables of equal evaluations, window and kind of noise can be stacked, "
            f"not those of {sorted(table.evaluations for table in tables)} evaluations"
        )
    result: StepTable = jax.tree.map(lambda *leaves: np.stack(leaves), *tables)
    return result


def lower_triangle(table: StepTable) -> StepTable:
    """Returns the table with the entries that mean nothing (lag before the start) at 0."""
    xp = namespace(table.weight)
    rows, lags = table.weight.shape[:2]
    mask = np.arange(lags) <= np.arange(rows)[:, None]
    mask = mask.reshape(mask.shape + (1,) * (table.weight.ndim - 2))
    return table._replace(weight=xp.where(mask, table.weight, 0.0))


def problem(table: StepTable) -> str | None:
    """Returns what is wrong with a table that is to be run, or None."""
    rows = table.evaluations
    named = {name: leaf for name, leaf in table._asdict().items() if leaf is not None}
    for name in ("time", "alpha", "sigma", "weight", "shift", "noise"):
        if name in named and np.shape(named[name])[:1] != (rows,):
            return (
                f"table.{name} has {np.shape(named[name])[:1]} rows, table.carry {rows}"
            )
    if not 1 <= table.window <= rows:
        return f"a table of {rows} rows can't remember {table.window} outputs"
    for name, leaf in named.items():
        if not is_traced(leaf) and not np.all(np.isfinite(leaf)):
            return f"table.{name} holds a number that is not finite"
    return None


class Tape:
    """Runs a linear sampler on symbols: a vector over x_T, the constant 1, the D_j and the z_j.

    Take `initial`, combine it linearly with what `evaluate` and `draw` return, and `finish` with
    the last state. Whatever the sampler did (older bases, correctors, mixed predictions), the
    states follow each other as in `StepTable`, since x_T can be eliminated between two of them.
    Vectors are arrays of shape [M, *P].
    """

    def __init__(self, evaluations: int, shape: tuple[int, ...] = ()) -> None:
        """
        Args:
            evaluations: N, how often `evaluate` will be called, at least once.
            shape: P, if coefficients differ per element of a sample.
        """
        self._count = evaluations
        self._shape = shape
        self._states: list[Numeric] = []
        self._points: list[tuple[Numeric, Numeric, Numeric]] = []
        self._drawn = False

    @property
    def initial(self) -> NDArray[np.float64]:
        """The vector of x_T."""
        return self._unit(0)

    @property
    def one(self) -> NDArray[np.float64]:
        """The vector of the constant 1; times an image of shape P it is that image."""
        return self._unit(1)

    def evaluate(
        self, state: Numeric, time: Numeric, alpha: Numeric, sigma: Numeric
    ) -> NDArray[np.float64]:
        """Records a network evaluation at a state; returns the vector of its denoised sample."""
        if len(self._states) == self._count:
            raise ValueError(f"more than {self._count} evaluations on this tape")
        self._states.append(state)
        self._points.append((time, alpha, sigma))
        return self._unit(1 + len(self._states))

    def draw(self) -> NDArray[np.float64]:
        """Returns the vector of fresh standard noise, to be added on the way to the next state."""
        self._drawn = True
        return self._unit(1 + self._count + len(self._states))

    def finish(
        self, state: Numeric, start: tuple[Numeric, Numeric], window: int | None = None
    ) -> StepTable:
        """Returns the table of everything recorded, ending in this state.

        Args:
            state: the vector of the sampler's result.
            start: alpha and sigma of x_T.
            window: K, how many outputs to remember; N by default.

        Raises:
            ValueError: not linear in the way a table is: an older output is needed than the
                window holds, noise that was added earlier must be remembered, or x_T cancels.
        """
        if len(self._states) != self._count:
            raise ValueError(
                f"{len(self._states)} evaluations on a tape for {self._count}"
            )
        rows = [
            self._row(n, before, after)
            for n, (before, after) in enumerate(
                zip(self._states, [*self._states[1:], state], strict=True)
            )
        ]
        first = self._states[0]
        carry, weight, shift, noise = ([row[i] for row in rows] for i in range(4))
        xp = namespace(*carry, *weight, *self._points[0])
        dtype = np.float64 if xp is np else None
        time, alpha, sigma = (
            xp.asarray([point[i] for point in self._points], dtype) for i in range(3)
        )
        return StepTable(
            time=time,
            alpha=alpha,
            sigma=sigma,
            carry=xp.stack(carry),
            weight=_windowed(xp.stack(weight), window),
            shift=xp.stack(shift),
            noise=xp.stack(noise) if self._drawn else None,
            start_scale=xp.asarray(_corner(first[0]), dtype),
            start_shift=xp.asarray(first[1], dtype),
            start_alpha=xp.asarray(start[0], dtype),
            start_sigma=xp.asarray(start[1], dtype),
        )

    def _row(
        self, n: int, before: Numeric, after: Numeric
    ) -> tuple[Numeric, Numeric, Numeric, Numeric]:
        """carry [*P], weight [N, *P], shift [*P] and noise [] from one state to the next."""
        xp = namespace(before, after)
        gone = before[0] == 0
        if not is_traced(before, after) and np.any(gone & (after[0] != 0)):
            raise ValueError(f"x_T cancels at evaluation {n} but not after it")
        carry = xp.where(gone, 0.0, after[0] / xp.where(gone, 1.0, before[0]))
        rest = after - carry * before
        lags = rest[2 : 3 + n][::-1]
        pad = np.zeros((self._count - 1 - n, *self._shape))
        drawn = rest[2 + self._count :].reshape(self._count, -1)
        if not is_traced(rest):
            others = np.delete(drawn, n, axis=0)
            if np.any(np.abs(others) > _ROUNDING):
                raise ValueError(
                    f"evaluation {n + 1} needs noise that was added before the last one; "
                    "stochastic steps of order 2 and up need data prediction"
                )
        return carry, xp.concatenate([lags, pad]), rest[1], drawn[n, 0]

    def _unit(self, index: int) -> NDArray[np.float64]:
        vector = np.zeros((2 + 2 * self._count, *self._shape))
        vector[index] = 1.0
        return vector


def _corner(value: Numeric) -> Numeric:
    """The one number of an array that holds the same everywhere: x_T is scaled alike."""
    return value.reshape(-1)[0]


def _windowed(weight: Numeric, window: int | None) -> Numeric:
    if window is None or window >= weight.shape[1]:
        return weight
    if not is_traced(weight) and np.any(np.abs(weight[:, window:]) > _ROUNDING):
        lags = np.any(np.abs(weight) > _ROUNDING, axis=(0, *range(2, weight.ndim)))
        raise ValueError(
            f"a window of {window} is too short: outputs of lag {np.nonzero(lags)[0][-1]} count"
        )
    return weight[:, :window]


def as_dtype(table: StepTable, dtype: Any) -> StepTable:
    """Returns the table as JAX arrays of this type."""
    result: StepTable = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), table)
    return result
