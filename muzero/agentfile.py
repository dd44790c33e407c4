"""A trained agent as two files: its parameters, and a card that says what it plays.

A checkpoint (`solvers.checkpoints`) is for training to go on; this is for use, small and without what it
learnt from.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from solvers import weights
from solvers.weights import WeightsError

KIND = "muzero.agent"


def save(
    folder: Path, name: str, params: Any, about: Mapping[str, Any]
) -> tuple[Path, Path]:
    """Writes NAME.safetensors, in half precision, and NAME.json; returns their paths."""
    arrays = {key: np.asarray(leaf, np.float16) for key, leaf in _named(params)}
    return weights.write(folder, name, KIND, arrays, about)


def load(card: Path, like: Any, about: Mapping[str, Any]) -> Any:
    """Returns the parameters of a card.

    Args:
        card: NAME.json, beside NAME.safetensors.
        like: parameters of the same shapes; those of `agent.init` are, and their shapes suffice.
        about: what the card has to say, at least.

    Raises:
        WeightsError: the files are damaged, or of another agent.
        OSError: one of them can't be read.
    """
    arrays, said = weights.read(card, KIND)
    other = sorted(key for key in about if said.get(key) != about[key])
    if other:
        raise WeightsError(f"{card} is of an agent with another {', '.join(other)}")
    names = [key for key, _ in _named(like)]
    leaves, structure = jax.tree.flatten(like)
    if set(names) != set(arrays):
        raise WeightsError(f"{card} is of an agent with other networks")
    for key, leaf in zip(names, leaves, strict=True):
        if arrays[key].shape != leaf.shape:
            raise WeightsError(f"{card}: {key} is of shape {arrays[key].shape}")
    found = [jnp.asarray(arrays[k], leaf.dtype) for k, leaf in zip(names, leaves)]
    return jax.tree.unflatten(structure, found)


def _named(params: Any) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    ]
