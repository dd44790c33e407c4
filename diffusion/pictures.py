"""The picture of a search's samplers: ways through sample space, and samples at equal evaluations."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from diffusion import problems
from diffusion.evaluate import Sets
from diffusion.hunt import Found
from diffusion.problems import Problem
from diffusion.sampler import trajectory
from diffusion.table import StepTable

_SAMPLES = 8
_WAYS = 3
_FINE = 100  # Steps of the reference's way.


def missing() -> str | None:
    """Returns why nothing can be drawn, or None."""
    if importlib.util.find_spec("matplotlib") is None:
        return "no samples.png: that needs pip install 'schedule-zero[report]'"
    return None


def image_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Returns height and width (and channels) of a sample that is a picture, or None."""
    if len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3)):
        return shape
    side = round(float(np.sqrt(np.prod(shape))))
    return (side, side) if len(shape) == 1 and side**2 == shape[0] > 16 else None


def draw(path: Path, problem: Problem, sets: Sets, found: Found) -> None:
    """Writes the picture of the exact solution, the best stock solver and the chosen sampler.

    Left, the ways of some samples in the plane in which the exact ways vary most, with a mark at each
    network evaluation. Right, if they are pictures, samples from the same noise.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    noise = sets.report.x[:_SAMPLES]
    exact = problems.reference_table(problem.noise, _FINE)
    named = {
        "exact": (exact, "0.6", ""),
        found.stock_best.method: (found.stock_best.table, "tab:blue", "s"),
        found.chosen.method: (found.chosen.table, "tab:orange", "o"),
    }
    ways = {name: _way(problem, table, noise) for name, (table, _, _) in named.items()}
    axes = _plane(ways["exact"][:, :_WAYS])
    shape = image_shape(problem.shape)
    figure, panels = plt.subplots(
        1, 1 if shape is None else 2, figsize=(5 if shape is None else 11, 4.5)
    )
    left = panels if shape is None else panels[0]
    for name, (_, colour, marker) in named.items():
        for k in range(_WAYS):
            x, y = (ways[name][:, k] @ axes).T
            label = name if k == 0 else None
            left.plot(
                x, y, color=colour, marker=marker or None, ms=4, lw=1, label=label
            )
    left.set_title("ways from noise to sample")
    left.set_xlabel("first principal direction")
    left.set_ylabel("second")
    left.legend(fontsize=8)
    if shape is not None:
        rows = [
            np.concatenate([_grey(s, shape) for s in ways[name][-1]], axis=1)
            for name in named
        ]
        panels[1].imshow(np.concatenate(rows), cmap="gray")
        height = shape[0]
        panels[1].set_yticks(
            [height * (k + 0.5) for k in range(len(rows))], list(named)
        )
        panels[1].set_xticks([])
        panels[1].set_title("samples from the same noise")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _way(
    problem: Problem, table: StepTable, noise: Float[Array, "B ..."]
) -> NDArray[np.float64]:
    """Returns states over data scale [T, B, D]: where the network was asked, and the sample."""
    result, way = jax.jit(lambda x: trajectory(problem.denoise, table, x))(noise)
    states = np.asarray(way.states, np.float64).reshape(
        table.evaluations, len(noise), -1
    )
    last = np.asarray(result, np.float64).reshape(1, len(noise), -1)
    return np.concatenate([states, last])


def _plane(ways: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the two directions [D, 2] in which ways vary most."""
    flat = ways.reshape(-1, ways.shape[-1])
    _, _, directions = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    return np.asarray(directions[:2].T)


def _framed(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the picture with a white margin of a pixel."""
    margin = [(1, 1), (1, 1)] + [(0, 0)] * (picture.ndim - 2)
    return np.pad(picture, margin, constant_values=1.0)


def _grey(sample: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    picture = sample.reshape(shape)
    low, high = picture.min(), picture.max()
    scaled = (picture - low) / max(high - low, 1e-9)
    return scaled if scaled.ndim == 2 or scaled.shape[-1] == 3 else scaled[..., 0]
