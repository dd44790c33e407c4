"""Self-play and learning over a mesh of 8 virtual devices, in a process of its own: JAX counts them once."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_SCRIPT = """
import dataclasses
import jax, numpy as np
from jax.sharding import Mesh
from muzero.agents import make_agent
from muzero.hosts import AXIS
from muzero.training import Trainer
from tests.muzero import knapsack

assert len(jax.devices()) == 8
task = knapsack.task()
learn = dataclasses.replace(knapsack.CONFIG.learn, updates=2)
config = dataclasses.replace(knapsack.CONFIG, learn=learn, reanalyse_every=0)
alone = Trainer(agent=make_agent("true-game", task), config=config)
spread = dataclasses.replace(alone, mesh=Mesh(np.asarray(jax.devices()), (AXIS,)))
state = alone.init(task.instances, seed=1)
numbers = [0] * config.lanes
one = alone.evaluate(task.instances, state, numbers)
np.testing.assert_allclose(spread.evaluate(task.instances, state, numbers), one, rtol=1e-6)
# With its noise too: the same episodes, and the same parameters learnt from them.
runs = {who: (state, None) for who in (alone, spread)}
for _ in range(2):
    runs = {who: who.iterate(task.instances, last) for who, (last, _) in runs.items()}
for leaf in jax.tree.leaves(runs[spread]):
    assert len(leaf.sharding.device_set) == 8 and leaf.is_fully_replicated
mine, theirs = (jax.tree.map(np.asarray, runs[who]) for who in (alone, spread))
np.testing.assert_array_equal(mine[0].recent.episodes.action, theirs[0].recent.episodes.action)
np.testing.assert_array_equal(mine[0].recent.episodes.reward, theirs[0].recent.episodes.reward)
assert len(set(mine[0].recent.total[: config.lanes].round(5))) > 1, "lanes differ"
for a, b in zip(jax.tree.leaves(mine[0].params), jax.tree.leaves(theirs[0].params)):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4)
before = jax.tree.leaves(state.params)
assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(before, jax.tree.leaves(mine[0].params)))
for name in mine[1]:
    np.testing.assert_allclose(mine[1][name], theirs[1][name], rtol=1e-3, atol=1e-4)
print("same")
"""


def test_eight_devices_play_as_one() -> None:
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        cwd=ROOT,
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "same"
