"""Search by the learning agent: episodes planned with a network's policy and value in the tree.

The network may have been trained on other programs and stay as it is (zero-shot), go on learning from this one
(fine-tuned), or begin with nothing (from-scratch). Played is the order of the best plan that every search
starts from, which is also demonstrated to what learns.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from mallocgame import agent, climb, engine
from mallocgame.engine import Found, Settings, Step
from mallocgame.instance import Problem
from mallocgame.rollout import Plan
from muzero import agentfile
from muzero.agents import make_agent
from muzero.config import SearchConfig, TrainConfig
from muzero.task import row
from muzero.training import Trainer, TrainState

Mode = Literal["zero-shot", "fine-tuned", "from-scratch"]
MODES: tuple[Mode, ...] = get_args(Mode)
_KIND: Literal["true-game"] = "true-game"


def search(
    problem: Problem,
    start: dict[str, Found],
    settings: Settings,
    done: Callable[[], bool],
) -> Iterator[Step]:
    """Yields a step after every batch of episodes, as `engine.search` does.

    Raises:
        WeightsError: the network's files are damaged, or of another agent.
        OSError: they can't be read.
    """
    base = min(start.values(), key=lambda found: found.seconds)
    board = agent.board(problem, base.plan)
    task = agent.make_task(["program"], [board], [jnp.asarray(base.plan.advice)])
    config = TrainConfig(
        lanes=settings.lanes,
        capacity=4 * settings.lanes,
        best_kept=settings.lanes,
        search=SearchConfig(num_simulations=settings.num_simulations),
    )
    trainer = Trainer(agent=make_agent(_KIND, task), config=config)
    state = trainer.init(task.instances, settings.seed, task.demonstrations)
    if settings.mode != "from-scratch":
        assert settings.checkpoint is not None
        params = load(settings.checkpoint, state.params)
        state = state._replace(params=params)
    count = len(problem.accesses)
    turns = len(board.turns) * (settings.num_simulations + 1)
    spent = max(1, round(settings.lanes * turns / max(count, 1)))
    best = base
    while not done():
        if settings.mode == "zero-shot":
            state = trainer.explore(task.instances, state)
        else:
            state, _ = trainer.iterate(task.instances, state)
        lanes = _lanes(board, state)
        index = int(jnp.argmin(lanes.seconds))
        if float(lanes.seconds[index]) < best.seconds:
            plan = row(lanes.plan, index)
            found = engine.evaluate(problem, {"agent": plan}, settings)["agent"]
            best = min(best, found, key=lambda one: one.seconds)
        yield Step(spent, best, lanes)


def load(card: Path, like: object) -> object:
    """Returns the parameters of a card that `muzero.train` wrote for the memory game.

    Raises:
        WeightsError: the files are damaged, or of another agent.
        OSError: one of them can't be read.
    """
    return agentfile.load(card, like, {"agent": _KIND})


def _lanes(board: agent.Board, state: TrainState) -> climb.Lanes:
    """Returns the best episodes as plans; what was never played costs infinitely much."""
    kept = state.best
    plans: Plan = jax.vmap(functools.partial(agent.plan_of, board))(
        kept.episodes.action
    )
    slow = board.instance.all_slow_seconds
    seconds = jnp.where(jnp.isfinite(kept.total), slow * (1.0 - kept.total), jnp.inf)
    return climb.Lanes(plans, seconds.astype(jnp.float32), jnp.int32(0))


__all__ = ["MODES", "Mode", "load", "search"]
