"""The improvement game: a whole mapping is changed move by move, and what is not slower is kept.

A position is a plan with its simulated mapping. A move is a change of the plan (`mallocgame.changes`),
played out: one call of the simulator. The plan that comes of it replaces the one before unless it is
slower, as in hill-climbing, and earns the share of the all-slow time by which it is faster. So an
episode's return is by how much the simulator says that its last plan is faster than its first, and no
move is ever regretted; a move that was made once is not made again in the episode. Several moves may be
made at once (`ImprovementGame.leap`), since plans that no single change makes faster are common.

What is seen is a token per access: what it is, what the plan says of it, and what the simulation says
that came of it. All figures are relative to the program's totals, and the networks share their weights
over tokens (`muzero.pointer`): one network knows programs of any size. N accesses, K kinds of change,
T instructions, S moves.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mallocgame import changes, climb, moves, relaxation
from mallocgame.agent import static_features
from mallocgame.changes import NUM_KINDS, Played
from mallocgame.climb import MAX_EAGERNESS, MIN_EAGERNESS
from mallocgame.instance import Problem
from mallocgame.rollout import Plan
from mallocgame.types import DROP, NUM_ACTIONS, UNDECIDED, Instance, State
from muzero.pointer import Choices

NUM_MOVES = 16
# A smaller gain, relative to the time, is rounding.
_ROUNDING = 1e-6


class Start(NamedTuple):
    """What is played on: a problem and a plan to begin with."""

    instance: Instance
    plan: Plan
    static: Float[Array, "N F"]  # Features that no move changes.
    prior: Float[Array, "N K"]  # Logits of the changes, of `changes.prior`.
    moves: Int[
        Array, " S"
    ]  # Its length is the number of moves; the values don't matter.
    times: Int[Array, ""]  # Instructions.


class Standing(NamedTuple):
    """A state of the game, and what is seen of it."""

    plan: Plan
    mapping: State  # Of the plan, played to its end.
    seconds: Float[Array, ""]
    turn: Int[Array, ""]
    tried: Bool[Array, "N K"]
    useful: Bool[Array, "N K"]
    observation: Choices
    legal_action_mask: Bool[Array, " A"]  # Of access a // K, kind a % K.
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]


@dataclasses.dataclass(frozen=True)
class ImprovementGame:
    """Memory mapping, a change of the plan a move.

    Attributes:
        num_accesses: N, padding included.
        backs_up: whether a plan may run into dead ends, out of which Drop-backup leads; else a change
            that leads into one is taken back.
    """

    num_accesses: int
    backs_up: bool = True

    @property
    def num_actions(self) -> int:
        """Any change of any access."""
        return self.num_accesses * NUM_KINDS

    def num_decisions(self, instance: Start) -> int:
        """The number of moves."""
        return int(instance.moves.shape[0])

    def init(self, instance: Start, key: PRNGKeyArray) -> Standing:
        """Plays the first plan out; there is no chance in the game."""
        played = changes.play(instance.instance, instance.plan)
        nothing = jnp.zeros((self.num_accesses, NUM_KINDS), bool)
        useful = changes.useful(instance.instance, instance.plan, played)
        return _standing(
            instance,
            instance.plan,
            played.state,
            played.seconds,
            jnp.int32(0),
            nothing,
            useful,
            _features(instance, instance.plan, played),
            jnp.float32(0),
        )

    def step(
        self, instance: Start, state: Standing, action: Int[Array, ""]
    ) -> Standing:
        """Changes the plan and plays it out; takes the change back if that is slower."""
        return self.leap(instance, state, action[None], jnp.int32(1))

    def leap(
        self,
        instance: Start,
        state: Standing,
        actions: Int[Array, " M"],
        count: Int[Array, ""],
    ) -> Standing:
        """Makes the first `count` of several moves at once, for one call of the simulator.

        What single changes can't leave, since each by itself is slower, several together may. All of
        them are taken back if the plan that they make is slower. Only a single one counts as tried.
        """
        over = state.terminated

        def one(k: Int[Array, ""], plan: Plan) -> Plan:
            access, kind = actions[k] // NUM_KINDS, actions[k] % NUM_KINDS
            after = changes.change(instance.instance, plan, access, kind)
            return jax.tree.map(
                lambda new, old: jnp.where(k < count, new, old), after, plan
            )

        plan = jax.lax.fori_loop(0, actions.shape[0], one, state.plan)
        played = changes.play(instance.instance, plan)
        gain = state.seconds - played.seconds
        least = _ROUNDING * state.seconds
        kept = (gain >= -least) & ~over
        if not self.backs_up:
            kept &= played.state.num_backups == 0
        earned = jnp.where((gain > least) & kept, gain, 0.0)
        useful = changes.useful(instance.instance, plan, played)
        features = _features(instance, plan, played)
        plan, mapping, useful, features = jax.tree.map(
            lambda new, old: jnp.where(kept, new, old),
            (plan, played.state, useful, features),
            (
                state.plan,
                state.mapping,
                state.useful,
                state.observation.features[:, :-1],
            ),
        )
        made = jnp.arange(self.num_actions) == actions[0]
        made = made.reshape(state.tried.shape) & (count == 1)
        return _standing(
            instance,
            plan,
            mapping,
            state.seconds - earned,
            state.turn + jnp.where(over, 0, 1),
            state.tried | (made & ~over),
            useful,
            features,
            earned / instance.instance.all_slow_seconds,
        )


def start(problem: Problem, plan: Plan, num_moves: int = NUM_MOVES) -> Start:
    """Returns the game that begins with a plan."""
    instance = problem.instance
    count = len(problem.accesses)
    order = np.arange(instance.order.shape[0], dtype=np.int32)
    to_go = relaxation.value_to_go(problem, order) / float(instance.all_slow_seconds)
    own = static_features(instance._replace(order=jnp.asarray(order)), to_go)
    return Start(
        instance=instance,
        plan=plan,
        static=jnp.asarray(
            np.concatenate([own, _static(problem, instance)], axis=1), jnp.float32
        ),
        prior=changes.prior(instance),
        moves=jnp.arange(num_moves, dtype=jnp.int32),
        times=jnp.int32(max(len(problem.program.instructions), count > 0)),
    )


def replayed(game: ImprovementGame, one: Start, actions: Int[Array, " S"]) -> Standing:
    """Returns the last position of an episode from its actions."""
    first = game.init(one, jax.random.key(0))
    return jax.lax.scan(
        lambda state, action: (game.step(one, state, action), None), first, actions
    )[0]


def renewed(one: Start, state: Standing) -> Standing:
    """Returns the position with all its moves ahead again; what was tried stays tried."""
    return _standing(
        one,
        state.plan,
        state.mapping,
        state.seconds,
        jnp.int32(0),
        state.tried,
        state.useful,
        state.observation.features[:, :-1],
        jnp.float32(0),
    )


def _static(problem: Problem, instance: Instance) -> np.ndarray:
    """Returns more features of each access [N, F]: its buffer's, and the time around it."""
    a = jax.tree.map(np.asarray, instance.accesses)
    n, count = len(a.size), len(problem.accesses)
    total = float(instance.all_slow_seconds)
    real = np.arange(n) < count
    stake = np.where(real, np.asarray(climb.stakes(instance)), 0.0) / total
    of_buffer = np.bincount(a.buffer, weights=stake, minlength=n)[a.buffer]
    number = np.bincount(a.buffer[:count], minlength=n)[a.buffer]
    picker = np.asarray(instance.picker_ticks, np.float64)
    behind = np.where(a.previous >= 0, a.end[np.maximum(a.previous, 0)] + 1, a.earliest)
    room = (picker[a.time] - picker[np.minimum(behind, a.time)]) / a.nest_scale
    columns = [
        np.sqrt(stake),
        np.sqrt(of_buffer),
        np.log1p(number) / 4,
        # Whether what runs since the last access could hide a copy, and how often over.
        np.log((room + 1e3) / (a.copy_ticks + 1e3)) / 8,
        np.log1p(a.time - np.minimum(behind, a.time)) / 6,
        a.time / max(len(problem.program.instructions), 1),
        np.log(np.asarray(instance.trip)[a.time].clip(1.0)) / 8,
    ]
    return np.stack(
        [np.where(real, x, 0.0).astype(np.float32) for x in columns], axis=1
    )


def _standing(
    instance: Start,
    plan: Plan,
    mapping: State,
    seconds: Float[Array, ""],
    turn: Int[Array, ""],
    tried: Bool[Array, "N K"],
    useful: Bool[Array, "N K"],
    features: Float[Array, "N F"],
    reward: Float[Array, ""],
) -> Standing:
    over = turn >= instance.moves.shape[0]
    legal = useful & ~tried
    # Where all has been tried that may help, it may be tried again; where there is nothing, anything.
    legal = jnp.where(jnp.any(legal), legal, useful)
    legal = jnp.where(jnp.any(legal), legal, True)
    n = tried.shape[0]
    real = jnp.arange(n) < instance.instance.num_accesses
    count = jnp.sum(tried, axis=1, keepdims=True) / NUM_KINDS
    size = instance.instance.num_accesses
    summary = jnp.stack(
        [
            seconds / instance.instance.all_slow_seconds,
            1.0 - turn / instance.moves.shape[0],
            jnp.log1p(size) / 8,
            jnp.log1p(jnp.sum(useful)) / 8,
            jnp.sum(tried & useful) / jnp.maximum(jnp.sum(useful), 1),
        ]
    )
    return Standing(
        plan=plan,
        mapping=mapping,
        seconds=seconds,
        turn=turn,
        tried=tried,
        useful=useful,
        observation=Choices(
            jnp.concatenate([features, count.astype(features.dtype)], axis=1),
            real,
            summary.astype(jnp.float32),
            instance.prior.astype(jnp.bfloat16),
        ),
        legal_action_mask=legal.reshape(-1) | over,
        reward=reward,
        terminated=over,
    )


def _features(start: Start, plan: Plan, played: Played) -> Float[Array, "N F"]:
    """Returns what is seen of each access, in half precision: a replay holds many."""
    instance, a, state = start.instance, start.instance.accesses, played.state
    n = a.buffer.shape[0]
    total = instance.all_slow_seconds
    trip = instance.trip[a.time]
    count = jnp.maximum(instance.num_accesses, 1)

    def share(seconds: Array) -> Array:
        return jnp.sqrt(jnp.maximum(seconds, 0.0) / total)

    def by_buffer(column: Array) -> Array:
        return jax.ops.segment_sum(column.astype(jnp.float32), a.buffer, n)[a.buffer]

    fast = moves.is_fast(state.action)
    saved = state.saved[a.time]
    floor, base = instance.floor_seconds[a.time], instance.base_seconds[a.time]
    elapsed = jnp.maximum(floor, base - saved)
    # What this access's being fast saves now, or would.
    other = jnp.where(fast, saved - a.saving, saved + a.saving)
    flipped = jnp.abs(jnp.maximum(floor, base - other) - elapsed) * trip
    missed = jnp.where(fast | a.forbid, 0.0, flipped)
    waited = played.wait[a.time] * trip
    copied = (state.copy_point >= 0) & fast
    # Fast memory in use over the time from the access before to this one.
    times = jnp.arange(instance.trip.shape[0])
    behind = jnp.where(a.previous >= 0, a.end[jnp.maximum(a.previous, 0)], a.time)
    stay = (times >= behind[:, None]) & (times <= a.end[:, None])
    usage = state.heap.usage / instance.capacity
    most = jnp.max(jnp.where(stay, usage, 0.0), axis=1)
    size = a.size / instance.capacity
    before = instance.before_ticks
    hidden = before[a.time] - before[jnp.maximum(state.copy_point, 0)]
    spread = jnp.where(copied, jnp.log((hidden + 1e3) / (a.copy_ticks + 1e3)), 0.0)
    columns = [
        *(played.taken == action for action in range(NUM_ACTIONS)),
        *(played.offered[:, action] for action in range(NUM_ACTIONS)),
        *(plan.advice == action for action in (*range(1, NUM_ACTIONS), UNDECIDED)),
        plan.rank / count,
        # It is 0 where a compiler's copy overlaps with nothing (`adopt`).
        jnp.log(jnp.clip(jnp.abs(plan.eagerness), MIN_EAGERNESS, MAX_EAGERNESS)) / 3,
        plan.eagerness < 0,
        fast,
        (state.action == DROP) & (played.taken != DROP),
        copied,
        state.copy_late,
        state.evict_point >= 0,
        state.evict_late,
        spread / 8,
        share(waited),
        share(jnp.where(copied, waited, 0.0)),
        share(elapsed * trip),
        share((elapsed - floor) * trip),
        share(flipped),
        share(missed),
        share(by_buffer(missed)),
        share(by_buffer(jnp.where(fast, flipped, 0.0))),
        share(by_buffer(jnp.where(copied, waited, 0.0))),
        share(by_buffer(jnp.where(copied, a.copy_ticks * instance.tick_seconds, 0.0))),
        by_buffer(fast) / jnp.maximum(by_buffer(jnp.ones(n)), 1),
        usage[a.time],
        most,
        most + jnp.where(fast, 0.0, size) <= 1.0,
    ]
    dynamic = jnp.stack([jnp.asarray(x, jnp.float32) for x in columns], axis=1)
    features = jnp.concatenate([start.static, dynamic], axis=1)
    real = jnp.arange(n) < instance.num_accesses
    return jnp.where(real[:, None], features, 0.0).astype(jnp.bfloat16)


__all__ = [
    "NUM_MOVES",
    "ImprovementGame",
    "Standing",
    "Start",
    "renewed",
    "replayed",
    "start",
]
