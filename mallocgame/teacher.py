"""The improvement game as a training task, with hill-climbing's steps as demonstrations.

Lanes of hill-climbing attempt changes drawn by what is at stake; those that earned something, in the order in
which they were found, are the moves of a demonstration. What is drawn evenly and imitated where it succeeded
teaches how likely each change is to succeed.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mallocgame import engine, improve
from mallocgame.changes import NUM_KINDS
from mallocgame.improve import ImprovementGame, Standing, Start
from mallocgame.instance import Problem
from muzero.config import NetworkConfig
from muzero.task import Task, stack

NETWORK = NetworkConfig(width=64, blocks=1, token_width=48, token_blocks=2, atoms=51)
VALUE_RANGE = (0.0, 0.6)
REWARD_RANGE = (0.0, 0.3)
PLAYS = "mallocgame.improve"
_LANES = 8  # Hill-climbers per start.
_SHOWN = 4  # Of them, those that came farthest.


def task_of(
    problems: Mapping[str, Problem], *, lanes: int, attempts: int, per_problem: int = 3
) -> Task:
    """Returns the task of improving plans for problems whose arrays have one shape.

    Args:
        problems: by name.
        lanes: games side by side when plans are compared.
        attempts: of each hill-climber; 0 for no demonstrations.
        per_problem: starts: so many different plans that every search starts from, the best first.
    """
    names, starts, firsts = [], [], []
    settings = engine.Settings(lanes=lanes)
    for name, problem in problems.items():
        found = engine.evaluate(problem, engine.seeds(problem), settings)
        different = {one.seconds: one for one in found.values()}
        for seconds in sorted(different)[:per_problem]:
            names.append(f"{name}:{different[seconds].by}")
            starts.append(improve.start(problem, different[seconds].plan))
            firsts.append(seconds)
    shown = functools.partial(demonstrations, starts, attempts)
    return make_task(names, starts, firsts, shown)


def make_task(
    names: Sequence[str],
    starts: Sequence[Start],
    firsts: Sequence[float],
    shown: Callable[[], Sequence[tuple[int, np.ndarray]]] = tuple,
    *,
    backs_up: bool = True,
) -> Task:
    """Returns the task of improving plans.

    Args:
        names: of the starts.
        starts: of one shape.
        firsts: seconds of their plans.
        shown: makes demonstrations.
        backs_up: as in `ImprovementGame`.
    """
    slow = [float(one.instance.all_slow_seconds) for one in starts]
    return Task(
        game=ImprovementGame(int(starts[0].plan.rank.shape[0]), backs_up),
        instances=stack(starts),
        names=tuple(names),
        value_range=VALUE_RANGE,
        reward_range=REWARD_RANGE,
        network=NETWORK,
        kinds=NUM_KINDS,
        demonstrations=shown,
        plays=PLAYS,
        unit="seconds",
        cost_fn=lambda number, total: firsts[number] - slow[number] * total,
    )


def demonstrations(
    starts: Sequence[Start], attempts: int, seed: int = 0
) -> list[tuple[int, np.ndarray]]:
    """Returns for each start the moves by which hill-climbers came farthest."""
    shown = []
    for number, one in enumerate(starts if attempts else ()):
        game = ImprovementGame(int(one.plan.rank.shape[0]))
        key = jax.random.fold_in(jax.random.key(seed), number)
        actions, earned = jax.tree.map(np.asarray, climbed(game, one, key, attempts))
        length = len(one.moves)
        for lane in np.argsort(-earned.sum(axis=1))[:_SHOWN]:
            made = actions[lane][earned[lane] > 0][:length]
            if len(made):
                padding = np.full(length - len(made), -1)
                shown.append((number, np.concatenate([made, padding]).astype(np.int32)))
    return shown


@functools.partial(jax.jit, static_argnums=(0, 3))
def climbed(
    game: ImprovementGame, one: Start, key: PRNGKeyArray, attempts: int
) -> tuple[Int[Array, "B M"], Float[Array, "B M"]]:
    """Attempts changes at random: what was attempted, and what it earned."""

    def lane(key: PRNGKeyArray) -> tuple[Array, Array]:
        def attempt(state: Standing, key: PRNGKeyArray) -> tuple[Standing, tuple]:
            logits = jnp.where(state.legal_action_mask, one.prior.reshape(-1), -jnp.inf)
            action = jax.random.categorical(key, logits).astype(jnp.int32)
            after = game.step(one, state, action)
            # What earns nothing is taken back, so that the rest can be made without it.
            kept = jax.tree.map(
                lambda new, old: jnp.where(after.reward > 0, new, old), after, state
            )
            kept = kept._replace(tried=after.tried)
            return improve.renewed(one, kept), (action, after.reward)

        keys = jax.random.split(key, attempts)
        return jax.lax.scan(attempt, game.init(one, key), keys)[1]

    return jax.vmap(lane)(jax.random.split(key, _LANES))


__all__ = ["climbed", "demonstrations", "make_task", "task_of"]
