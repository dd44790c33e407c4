"""Made-up episodes, of which every number can be told from its place."""

import jax.numpy as jnp
import numpy as np

from muzero.selfplay import Episode


def episodes(
    count: int, turns: int = 6, actions: int = 3, instances: int = 2, seed: int = 0
) -> Episode:
    """Returns random episodes of different lengths, zero behind their ends."""
    rng = np.random.default_rng(seed)
    length = rng.integers(1, turns + 1, count)
    alive = np.arange(turns) < length[:, None]
    legal = rng.random((count, turns, actions)) < 0.6
    action = rng.integers(0, actions, (count, turns)) * alive
    np.put_along_axis(legal, action[..., None], True, axis=2)
    legal &= alive[..., None]
    weights = rng.random(legal.shape) * legal
    weights /= np.maximum(weights.sum(axis=2, keepdims=True), 1e-9)
    columns = (
        rng.integers(0, instances, count),
        rng.integers(0, 9, (count, 2)).astype(np.uint32),
        rng.random((count, turns, 4)).astype(np.float32),
        action,
        legal,
        weights.astype(np.float32),
        (rng.random((count, turns)) * alive).astype(np.float32),
        (rng.normal(size=(count, turns)) * alive).astype(np.float32),
        alive,
    )
    found = Episode(*map(jnp.asarray, columns))
    return found._replace(
        which=found.which.astype(jnp.int32), action=found.action.astype(jnp.int32)
    )
