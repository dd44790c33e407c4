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
state = alone.init(task.instances, seed=0)
# Without noise the lanes of 8 devices play what those of one play.
numbers = [0] * config.lanes
one = alone.evaluate(task.instances, state, numbers)
np.testing.assert_allclose(spread.evaluate(task.instances, state, numbers), one, rtol=1e-6)
runs = [spread.iterate(task.instances, state) for _ in range(2)]
for leaf, again in zip(*(jax.tree.leaves(run[0]) for run in runs)):
    np.testing.assert_array_equal(leaf, again)
    assert len(leaf.sharding.device_set) == 8 and leaf.is_fully_replicated
# What each device played with its noise, all learn from: the same step as one device makes of it.
recent = jax.device_put(runs[0][0].recent, jax.devices()[0])
totals = np.asarray(recent.total)[: config.lanes]
assert len(set(totals.round(5))) > 1
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
