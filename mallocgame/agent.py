"""The memory game as a trained agent plays it: `Game` protocol, observations, and the training task.

A `Board` is an instance in a fixed order of play, with what never changes about each turn. The agent
sees a window of turns around the cursor as tokens, what each action would do, and how full fast memory
is before and after the present; all of it relative to the program's totals, so that one network knows
programs of any size. The last step's reward also settles what copies are waited for, so that an
episode's return is the fraction of the all-slow time that the simulator says is saved. W tokens, N
accesses, S turns.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from compiler.targets import TARGETS
from mallocgame import engine, game, inputs, relaxation, rollout
from mallocgame import instance as instances
from mallocgame.instance import Problem
from mallocgame.rollout import Plan
from mallocgame.types import NUM_ACTIONS, UNDECIDED, Instance, State
from muzero.config import NetworkConfig
from muzero.encoders import Tokens
from muzero.task import Task, stack
from solvers.command import Exit, Failure, one_of

if TYPE_CHECKING:
    from muzero.train import TrainFlags

_BEHIND, _AHEAD = 12, 19  # Turns in the window, before and after the cursor's.
# Times, from the present, at which the occupancy of fast memory is shown.
_PROFILE = (-16, -8, -4, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
_TURNS = 8  # The number of turns is rounded up to a multiple.
_OPTIONS = {
    "share": "1.0",
    "of": "chip",
    "target": "tpu-v5e",
    "lanes": "4",
    "play": "improve",
    "shown": "64",
}


class Board(NamedTuple):
    """What an agent plays on."""

    instance: Instance  # In the order of play, with the plan's eagerness.
    turns: Int[Array, " S"]  # Its length bounds the turns; the values don't matter.
    rank: Float[Array, " N"]  # The plan's, for handing a mapping on.
    static: Float[Array, "N F"]  # By turn: features that no decision changes.
    to_go: Float[Array, " M"]  # Priced saving of the turns from k on; M = N + 1.
    times: Int[Array, ""]  # Instructions.


class Position(NamedTuple):
    """A state of the game, and what is seen of it."""

    state: State
    observation: dict[str, Any]
    legal_action_mask: Bool[Array, " A"]
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]


@dataclasses.dataclass(frozen=True)
class MemoryGame:
    """Memory mapping, an access a turn: stay, copy or drop. Drop-backup is part of a step."""

    @property
    def num_actions(self) -> int:
        """NO_COPY, COPY, DROP."""
        return NUM_ACTIONS

    def num_decisions(self, instance: Board) -> int:
        """The number of accesses, rounded up."""
        return int(instance.turns.shape[0])

    def init(self, instance: Board, key: PRNGKeyArray) -> Position:
        """Returns the first position; there is no chance in the game."""
        return _position(instance, game.init(instance.instance), jnp.float32(0))

    def step(
        self, instance: Board, state: Position, action: Int[Array, ""]
    ) -> Position:
        """Decides the access at the cursor."""
        board, over = instance.instance, state.terminated
        after = game.step(board, state.state, action)
        ends = after.terminated & ~over

        # A loop, since under `vmap` a `cond` would simulate at every step of every game.
        def settle(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            seconds = rollout.timeline(board, after).total
            waits = seconds - game.seconds(board, after)
            return jnp.bool_(False), waits / board.all_slow_seconds

        _, waits = jax.lax.while_loop(lambda x: x[0], settle, (ends, jnp.float32(0)))
        reward = jnp.where(over, 0.0, after.reward - jnp.where(ends, waits, 0.0))
        return _position(instance, after, reward)


def board(problem: Problem, plan: Plan) -> Board:
    """Returns the board of a problem in a plan's order of play, with its eagerness."""
    instance = rollout.apply(problem.instance, plan)
    order = np.asarray(instance.order)
    count = len(problem.accesses)
    to_go = relaxation.value_to_go(problem, order) / float(instance.all_slow_seconds)
    return Board(
        instance=instance,
        turns=jnp.arange(-(-max(count, 1) // _TURNS) * _TURNS, dtype=jnp.int32),
        rank=jnp.asarray(plan.rank),
        static=jnp.asarray(static_features(instance, to_go)[order], jnp.float32),
        to_go=jnp.asarray(to_go, jnp.float32),
        times=jnp.int32(len(problem.program.instructions)),
    )


def plan_of(board: Board, actions: Int[Array, " S"]) -> Plan:
    """Returns the plan that `rollout.play` plays to the mapping of an episode's actions."""
    instance = board.instance
    n = instance.order.shape[0]
    taken = jnp.full(n, UNDECIDED, jnp.int8)
    taken = taken.at[: actions.shape[0]].set(jnp.asarray(actions, jnp.int8)[:n])
    advice = jnp.full(n, UNDECIDED, jnp.int8).at[instance.order].set(taken)
    return Plan(board.rank, instance.accesses.eagerness, advice)


@jax.jit
def actions_of(board: Board, advice: Int[Array, " N"]) -> Int[Array, " S"]:
    """Returns the actions that a plan's advice comes to on its board, turn by turn."""
    instance = board.instance

    def turn(state: State, _: Array) -> tuple[State, Array]:
        action = rollout.policy(state, advice[instance.order[state.cursor]])
        return game.step(instance, state, action), action

    return jax.lax.scan(turn, game.init(instance), board.turns)[1]


def task(flags: "TrainFlags") -> Task:
    """Returns the task of mapping programs: `python -m muzero.train --game mallocgame`.

    Options: `play`: improve (`mallocgame.improve`: a plan is changed move by move) or construct (an
    access a turn, in the order of the best plan that every search starts from, which is
    demonstrated); `share` of the fast memory (several as 1.0+0.5, each an instance of its own), and
    of what: `of=chip` or `of=peak` of what the program would like to have there; `target`; `lanes`
    (games side by side when plans are compared); `shown` (attempts per lane of the hill-climbing
    whose steps are demonstrated in the improvement game).
    """
    options = flags.options()
    for name in options:
        one_of("option", name, tuple(_OPTIONS))
    options = _OPTIONS | options
    one_of("target", options["target"], tuple(TARGETS))
    if not flags.programs:
        raise Failure("no_programs", "--programs names none", Exit.USAGE)
    one_of("option play", options["play"], ("improve", "construct"))
    one_of("option of", options["of"], ("chip", "peak"))
    shares = [float(share) for share in options["share"].split("+")]
    problems = _problems(
        flags.programs, options["target"], shares, of_peak=options["of"] == "peak"
    )
    if options["play"] == "improve":
        from mallocgame import teacher

        return teacher.task_of(
            problems, lanes=int(options["lanes"]), attempts=int(options["shown"])
        )
    return task_of(list(problems), list(problems.values()), lanes=int(options["lanes"]))


def task_of(
    names: Sequence[str], problems: Sequence[Problem], *, lanes: int = 4
) -> Task:
    """Returns the task of mapping problems whose arrays have one shape."""
    boards, advice = [], []
    settings = engine.Settings(lanes=lanes)
    for problem in problems:
        found = engine.evaluate(problem, engine.seeds(problem), settings)
        best = min(found.values(), key=lambda one: one.seconds)
        boards.append(board(problem, best.plan))
        advice.append(jnp.asarray(best.plan.advice))
    return make_task(names, boards, advice)


def make_task(
    names: Sequence[str], boards: Sequence[Board], advice: Sequence[Int[Array, " N"]]
) -> Task:
    """Returns the task of playing boards whose arrays have one shape, with a plan's advice on each shown."""
    turns = max((one.turns for one in boards), key=len)
    boards = [one._replace(turns=turns) for one in boards]
    shown = [
        (number, np.asarray(actions_of(one, advised)))
        for number, (one, advised) in enumerate(zip(boards, advice))
    ]
    slow = [float(one.instance.all_slow_seconds) for one in boards]
    return Task(
        game=MemoryGame(),
        instances=stack(boards),
        names=tuple(names),
        value_range=(-0.5, 1.0),
        reward_range=(-0.5, 0.5),
        network=NetworkConfig(width=64, blocks=2, token_width=32, atoms=51),
        demonstrations=lambda: shown,
        unit="seconds",
        cost_fn=lambda number, total: slow[number] * (1.0 - total),
    )


def _problems(
    paths: Sequence[Path], target: str, shares: Sequence[float], *, of_peak: bool
) -> dict[str, Problem]:
    """Reads programs and builds them, at each share, to one shape."""
    found: dict[str, Problem] = {}
    chip = TARGETS[target]
    given = {str(path): inputs.read(path) for path in paths}
    whole = {
        name: relaxation.peak_bytes(one.program) if of_peak else chip.capacity
        for name, one in given.items()
    }
    size = [0, 0]
    for _ in range(2):  # Once to learn the largest shape, once to build to it.
        for share in shares:  # A curriculum goes from capacity to capacity.
            for name, one in given.items():
                found[f"{name}@{share:g}"] = instances.build(
                    one.program,
                    inputs.cost_model(one, chip),
                    capacity=int(whole[name] * share),
                    least_accesses=size[0],
                    least_times=size[1],
                )
        built = [problem.instance for problem in found.values()]
        shapes = [(each.order.shape[0], each.trip.shape[0]) for each in built]
        if len(set(shapes)) == 1:
            break
        size = [max(column) for column in zip(*shapes)]
    return found


def static_features(instance: Instance, to_go: np.ndarray) -> np.ndarray:
    """Returns features of each access [N, F], by access."""
    a = jax.tree.map(np.asarray, instance.accesses)
    total = float(instance.all_slow_seconds)
    trip = np.asarray(instance.trip)[a.time]
    gain = np.zeros(len(a.size))
    gain[np.asarray(instance.order)] = to_go[:-1] - to_go[1:]
    columns = [
        a.size / float(instance.capacity),
        np.log1p(a.size) / 20,
        np.sqrt(np.maximum(a.saving * trip / total, 0.0)),
        np.sqrt(np.maximum(gain, 0.0)),  # Less the rent of the space.
        np.sqrt(a.copy_ticks * float(instance.tick_seconds) / total),
        np.log(a.nest_scale) / 8,
        a.needs_value,
        a.writes,
        a.must_drop,
        a.forbid,
        a.copyable,
        a.previous >= 0,
        a.enclosing >= 0,
        a.cross_program,
        a.end > a.time,
    ]
    return np.stack([np.asarray(column, np.float32) for column in columns], axis=1)


def _position(board: Board, state: State, reward: Float[Array, ""]) -> Position:
    return Position(
        state,
        {
            "turns": _window(board, state),
            "here": _here(board, state),
            "profile": _profile(board, state),
        },
        state.legal_action_mask,
        reward,
        state.terminated,
    )


def _window(board: Board, state: State) -> Tokens:
    """Returns the turns around the cursor."""
    instance, a = board.instance, board.instance.accesses
    place = jnp.arange(-_BEHIND, _AHEAD + 1)
    turn = state.cursor + place
    valid = (turn >= 0) & (turn < instance.num_accesses)
    access = instance.order[jnp.clip(turn, 0, instance.order.shape[0] - 1)]
    cursor = instance.order[jnp.minimum(state.cursor, instance.order.shape[0] - 1)]
    moving = [
        place / _AHEAD,
        (a.time[access] - a.time[cursor]) / board.times,
        jnp.sign(a.time[access] - a.time[cursor]),
        a.buffer[access] == a.buffer[cursor],
        access == a.previous[cursor],
        state.banned[access],
        state.stale_since[access] >= 0,
        state.copy_late[access],
    ]
    action = state.action[access]
    moving += [action == one for one in range(UNDECIDED, NUM_ACTIONS)]
    columns = jnp.stack([jnp.asarray(x, jnp.float32) for x in moving], axis=1)
    features = jnp.concatenate([board.static[turn.clip(0, None)], columns], axis=1)
    features = jnp.where(valid[:, None], features, 0.0)
    return Tokens(features, valid, jnp.int32(_BEHIND))


def _here(board: Board, state: State) -> Float[Array, " F"]:
    """Returns what the actions would do, and how far the game has come."""
    instance, outcome = board.instance, state.outcome
    count = jnp.maximum(instance.num_accesses, 1)
    saved = 1.0 - game.seconds(instance, state) / instance.all_slow_seconds
    seen = [
        *state.legal_action_mask,
        outcome.offset >= 0,
        outcome.offset / instance.capacity,
        outcome.extends,
        outcome.enclosed,
        outcome.copy_late,
        outcome.evict_end > 0,
        outcome.evict_late,
        state.cursor / count,
        saved,
        board.to_go[state.cursor],
        jnp.log1p(state.num_backups),
        state.num_cross_program / jnp.maximum(instance.max_cross_program, 1),
        jnp.log1p(count) / 8,
    ]
    return jnp.stack([jnp.asarray(x, jnp.float32) for x in seen])


def _profile(board: Board, state: State) -> Float[Array, " F"]:
    """Returns the share of fast memory in use around the access's time, and if it would fit too."""
    instance, a = board.instance, board.instance.accesses
    access = instance.order[jnp.minimum(state.cursor, instance.order.shape[0] - 1)]
    time = a.time[access] + jnp.array(_PROFILE)
    last = instance.trip.shape[0] - 1
    used = state.heap.usage[jnp.clip(time, 0, last)] / instance.capacity
    used = jnp.where((time >= 0) & (time <= last), used, 0.0)
    fits = used + a.size[access] / instance.capacity <= 1.0
    return jnp.concatenate([used, fits.astype(jnp.float32)]).astype(jnp.float32)


__all__ = [
    "Board",
    "MemoryGame",
    "Position",
    "actions_of",
    "board",
    "make_task",
    "plan_of",
    "task",
    "task_of",
]
