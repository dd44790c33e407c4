"""Single changes of a plan: what a move of the improvement game does, and which moves can do something.

A change is of one access, or of all accesses of its buffer. Those of hill-climbing are all among them:
advice as it is; a rank by halving its distance to either end, again and again; an eagerness by doubling
and halving it. (To advise NO_COPY is to advise nothing: the cascade takes it wherever it is legal.)
N accesses, K kinds of change.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mallocgame import game, rollout
from mallocgame.climb import MAX_EAGERNESS, MIN_EAGERNESS, stakes
from mallocgame.rollout import Plan
from mallocgame.types import COPY, DROP, NUM_ACTIONS, UNDECIDED, Instance, State

# Of one access, then of its whole buffer.
_ADVICE = (UNDECIDED, COPY, DROP)
KINDS = (
    "free",
    "copy",
    "drop",
    "free buffer",
    "copy buffer",
    "drop buffer",
    "first",  # To the front of the order of play.
    "last",
    "forward",  # Half of the way there.
    "back",
    "eager",  # Its copies start earlier: twice the overlap.
    "lazy",
    "late",  # Its copies may be waited for; or no longer.
    "wanted",  # First, free, and its copies may be waited for: all at once.
)
NUM_KINDS = len(KINDS)
_WHOLE = KINDS.index("free buffer")  # From here on.
_FIRST = KINDS.index("first")
_EAGER = KINDS.index("eager")
_WANTED = KINDS.index("wanted")


class Played(NamedTuple):
    """A plan played out, with what it could have done at each access."""

    state: State
    seconds: Float[Array, ""]
    wait: Float[Array, " T"]  # In front of and behind each instruction, per execution.
    offered: Bool[Array, "N A"]  # Legal when the access had its turn.
    taken: Int[Array, " N"]  # Then; a Drop-backup may have undone it.


def play(instance: Instance, plan: Plan) -> Played:
    """Plays a plan as `rollout.play` does, one call of the simulator, and keeps what was legal."""
    ordered = rollout.apply(instance, plan)

    def turn(k: Int[Array, ""], carry: tuple[State, Array, Array]) -> tuple:
        state, offered, taken = carry
        action = rollout.policy(state, plan.advice[ordered.order[k]])
        offered = offered.at[k].set(state.legal_action_mask)
        taken = taken.at[k].set(action.astype(jnp.int8))
        return game.step(ordered, state, action), offered, taken

    n = plan.rank.shape[0]
    start = (
        game.init(ordered),
        jnp.zeros((n, NUM_ACTIONS), bool),
        jnp.zeros(n, jnp.int8),
    )
    state, offered, taken = jax.lax.fori_loop(0, instance.num_accesses, turn, start)
    timeline = rollout.timeline(ordered, state)
    place = jnp.argsort(ordered.order)
    return Played(
        state,
        timeline.total,
        timeline.wait + timeline.late,
        offered[place],
        taken[place],
    )


def change(
    instance: Instance, plan: Plan, access: Int[Array, ""], kind: Int[Array, ""]
) -> Plan:
    """Returns the plan with one change."""
    buffer = instance.accesses.buffer
    one = jnp.arange(buffer.shape[0]) == access
    whole = buffer == buffer[access]
    wanted = kind == _WANTED
    advised = jnp.array([*_ADVICE, *_ADVICE], jnp.int8)[jnp.minimum(kind, 5)]
    advised = jnp.where(wanted, UNDECIDED, advised).astype(jnp.int8)
    scope = ((kind < _WHOLE) & one) | (
        ((kind >= _WHOLE) & (kind < _FIRST)) | wanted
    ) & whole
    ranks = _ranks(instance, plan.rank[access])
    moved = ((kind >= _FIRST) & (kind < _EAGER)) | wanted
    rank = ranks[jnp.where(wanted, 0, jnp.clip(kind - _FIRST, 0, 3))]
    paces = _paces(plan.eagerness[access])
    paced = kind >= _EAGER
    pace = paces[jnp.clip(kind - _EAGER, 0, 3)]
    return Plan(
        rank=jnp.where(moved & whole, rank, plan.rank),
        eagerness=jnp.where(paced & whole, pace, plan.eagerness),
        advice=jnp.where(scope, advised, plan.advice),
    )


def useful(instance: Instance, plan: Plan, played: Played) -> Bool[Array, "N K"]:
    """Tells which changes of a plan may give another mapping.

    Up to the turn of the first access that it is told to, a changed plan plays as before, so that
    advice which the rules would not have followed there, or which says what was done anyway, is known
    to change nothing. What is done to whole buffers is offered once, at their first real access.
    """
    a = instance.accesses
    n = a.buffer.shape[0]
    slots = jnp.arange(n)
    real = (slots < instance.num_accesses) & ~a.forbid

    def by_buffer(column: Bool[Array, " N"]) -> Bool[Array, " N"]:
        return (
            jax.ops.segment_max((column & real).astype(jnp.int32), a.buffer, n)[
                a.buffer
            ]
            > 0
        )

    head = (
        slots == jax.ops.segment_min(jnp.where(real, slots, n), a.buffer, n)[a.buffer]
    )
    head &= real
    single = jax.ops.segment_sum(real.astype(jnp.int32), a.buffer, n)[a.buffer] == 1
    default = jnp.argmax(played.offered, axis=1)
    columns, whole = [], []
    for advice in _ADVICE:
        would = default
        if advice != UNDECIDED:
            would = jnp.where(played.offered[:, advice], advice, default)
        differs = (would != played.taken) & (plan.advice != advice) & ~a.must_drop
        columns.append(differs & real)
        whole.append(by_buffer(differs) & head & ~single)
    here = plan.rank
    ranks = _ranks(instance, here)
    moves = [head & (jnp.abs(rank - here) >= 1.0) for rank in ranks]
    copied = by_buffer(a.copyable & a.needs_value) & head
    paces = _paces(plan.eagerness)
    late = plan.eagerness < 0
    paced = [copied & (pace != plan.eagerness) for pace in paces[:3]]
    wanted = (moves[0] | ~late | whole[0] | columns[0]) & copied
    return jnp.stack([*columns, *whole, *moves, *paced, wanted], axis=1)


def prior(instance: Instance) -> Float[Array, "N K"]:
    """Returns by what logits hill-climbing would draw changes: the root of what is at stake, of an access or a buffer."""
    a = instance.accesses
    stake = jnp.sqrt(stakes(instance) / instance.all_slow_seconds)
    whole = jax.ops.segment_sum(stake, a.buffer, stake.shape[0])[a.buffer]
    one, all_of_it = jnp.log(stake + 1e-6), jnp.log(whole + 1e-6)
    return jnp.stack(
        [one if k < _WHOLE else all_of_it for k in range(NUM_KINDS)], axis=1
    )


def _ranks(instance: Instance, rank: Float[Array, "..."]) -> Float[Array, "4 ..."]:
    """Ranks behind FIRST, LAST, FORWARD and BACK."""
    total = instance.num_accesses.astype(jnp.float32)
    first, last = jnp.full_like(rank, -1.0), jnp.full_like(rank, total)
    return jnp.stack([first, last, (rank - 1) / 2, (rank + total) / 2])


def _paces(eagerness: Float[Array, "..."]) -> Float[Array, "4 ..."]:
    """Eagerness behind EAGER, LAZY, LATE and WANTED."""
    size, sign = jnp.abs(eagerness), jnp.sign(eagerness)
    more = jnp.minimum(size * 2, MAX_EAGERNESS)
    less = jnp.maximum(size / 2, MIN_EAGERNESS)
    return jnp.stack([sign * more, sign * less, -eagerness, -size])


__all__ = [
    "KINDS",
    "NUM_KINDS",
    "Played",
    "change",
    "play",
    "prior",
    "useful",
]
