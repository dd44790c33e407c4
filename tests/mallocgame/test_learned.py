"""`--strategy muzero`: the agent in the search, with its three ways of learning."""

import dataclasses
import functools
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mallocgame import engine, improve, learned, teacher
from mallocgame.engine import Found, Settings
from mallocgame.instance import Problem
from muzero import agentfile
from muzero.agents import make_agent
from muzero.config import TrainConfig
from muzero.training import Trainer
from solvers.weights import WeightsError
from tests.mallocgame import programs

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(strategy="muzero", lanes=4, num_simulations=2)


@functools.cache
def _mlp() -> tuple[Problem, dict[str, Found]]:
    problem = programs.golden("mlp", 0.05)
    return problem, engine.evaluate(problem, engine.seeds(problem), SETTINGS)


@functools.cache
def _params() -> Any:
    problem, start = _mlp()
    best = min(start.values(), key=lambda found: found.seconds)
    first = improve.start(problem, best.plan)
    task = teacher.make_task(["mlp"], [first], [best.seconds])
    trainer = Trainer(agent=make_agent("true-game", task), config=TrainConfig())
    return trainer.new(task.instances, 1)


def _card(folder: Path, **about: object) -> Path:
    said = {"agent": "true-game", "plays": teacher.PLAYS} | about
    return agentfile.save(folder, "agent", _params(), said)[1]


@pytest.mark.parametrize("mode", learned.MODES)
def test_its_plans_are_worth_what_it_says(tmp_path: Path, mode: str) -> None:
    problem, start = _mlp()
    card = None if mode == "from-scratch" else _card(tmp_path)
    settings = dataclasses.replace(SETTINGS, mode=mode, checkpoint=card)
    steps = itertools.islice(
        engine.search(problem, start, settings, lambda: False), 1, 3
    )
    least = min(found.seconds for found in start.values())
    for step in steps:
        assert step.simulations >= 1
        assert step.found.seconds <= least
        played = engine.evaluate(
            problem, engine.fittest(step.lanes, 2), dataclasses.replace(SETTINGS)
        )
        said = np.sort(np.asarray(step.lanes.seconds))
        for found in played.values():
            assert np.abs(said - found.seconds).min() < 1e-5 * found.seconds


def test_what_is_saved_is_what_plays(tmp_path: Path) -> None:
    found = learned.load(_card(tmp_path), _params())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
        _params(),
        found,
    )


def test_foreign_and_damaged_agents_are_one_line(tmp_path: Path) -> None:
    card = _card(tmp_path, agent="learned-model")
    with pytest.raises(WeightsError, match="agent with another agent"):
        learned.load(card, _params())
    card = _card(tmp_path, plays="chess")
    with pytest.raises(WeightsError, match="agent with another plays"):
        learned.load(card, _params())
    other = jax.tree.map(lambda x: jnp.zeros((*x.shape, 2)), _params())
    with pytest.raises(WeightsError, match="is of shape"):
        learned.load(_card(tmp_path), other)
    with pytest.raises(WeightsError, match="other networks"):
        learned.load(_card(tmp_path), {"params": _params()})
    numbers = card.with_suffix(".safetensors")
    numbers.write_bytes(numbers.read_bytes()[:-4])
    with pytest.raises(WeightsError, match="is damaged"):
        learned.load(card, _params())


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mallocgame.search", "tests/golden/mlp"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_the_command_plays_with_a_card(tmp_path: Path) -> None:
    done = _run(
        *("--strategy", "muzero", "--checkpoint", _card(tmp_path), "--json"),
        *("--agent", "zero-shot", "--budget", "200evals", "--verify", "never"),
        *("--fast-bytes", "4MiB", "--lanes", 4, "--out", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["strategy"] == "muzero"
    assert found["best"] <= min(v for v in found["baselines"].values() if v)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--checkpoint", "nowhere.json"], 2, "are for --strategy muzero"),
        (
            ["--strategy", "muzero", "--agent", "from-scratch", "--checkpoint", "x"],
            2,
            "--agent from-scratch takes no --checkpoint",
        ),
        (
            ["--strategy", "muzero", "--checkpoint", "nowhere.json"],
            3,
            "--checkpoint nowhere.json: No such file",
        ),
        (
            ["--strategy", "muzero", "--checkpoint", "tests/golden/make.py"],
            4,
            "is not JSON",
        ),
    ],
    ids=["strategy", "mode", "file", "foreign"],
)
def test_bad_input_is_one_line(
    tmp_path: Path, arguments: list[str], status: int, says: str
) -> None:
    done = _run("--out", tmp_path / "out", *arguments)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
