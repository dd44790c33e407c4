"""Hill-climbing over plans: mutate what the cascade is told, keep what is not slower.

The strong baseline, and the workhorse at small budgets: every evaluation is a whole game with its
simulated time. B lanes climb side by side; now and then the worse half starts again from the best.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mallocgame import rollout
from mallocgame.rollout import Outcome, Plan
from mallocgame.types import COPY, DROP, NO_COPY, UNDECIDED, Instance

MIN_EAGERNESS, MAX_EAGERNESS = 1.0, 32.0
_RESTART_EVERY = 12


class Lanes(NamedTuple):
    """B climbers."""

    plan: Plan  # Leading axis B.
    seconds: Float[Array, " B"]
    rounds: Int[Array, ""]


def climb(instance: Instance, lanes: Lanes, key: PRNGKeyArray) -> tuple[Lanes, Outcome]:
    """One round: every lane tries one mutant. B evaluations. The key is consumed.

    Returns:
        The lanes afterwards, and the best of the mutants played out.
    """
    keys = jax.random.split(key, lanes.seconds.shape[0])
    mutants = jax.vmap(lambda key, plan: mutate(instance, key, plan))(keys, lanes.plan)
    outcomes = jax.vmap(lambda plan: rollout.play(instance, plan))(mutants)
    seconds = outcomes.timeline.total
    better = seconds <= lanes.seconds
    plan = jax.tree.map(
        lambda new, old: jnp.where(
            better.reshape((-1,) + (1,) * (new.ndim - 1)), new, old
        ),
        mutants,
        lanes.plan,
    )
    after = Lanes(plan, jnp.where(better, seconds, lanes.seconds), lanes.rounds + 1)
    winner = jnp.argmin(seconds)
    after = jax.lax.cond(
        after.rounds % _RESTART_EVERY == 0, _restart, lambda lanes: lanes, after
    )
    return after, jax.tree.map(lambda column: column[winner], outcomes)


def best(lanes: Lanes) -> tuple[Plan, Float[Array, ""]]:
    """Returns the best plan and its time."""
    index = jnp.argmin(lanes.seconds)
    return jax.tree.map(lambda column: column[index], lanes.plan), lanes.seconds[index]


def mutate(instance: Instance, key: PRNGKeyArray, plan: Plan) -> Plan:
    """Returns the plan with one to four buffers treated otherwise. The key is consumed.

    Buffers are drawn by what is at stake: the larger of the time saved and the time copied.
    """
    count_key, loop_key = jax.random.split(key)
    count = 1 + jnp.sum(jax.random.uniform(count_key, (3,)) < 0.4)
    accesses = instance.accesses
    logits = jnp.log(jnp.sqrt(stakes(instance)) + 1e-12)

    def change(k: Int[Array, ""], plan: Plan) -> Plan:
        keys = jax.random.split(jax.random.fold_in(loop_key, k), 6)
        chosen = jax.random.categorical(keys[0], logits)
        one = jnp.arange(logits.shape[0]) == chosen
        whole = accesses.buffer == accesses.buffer[chosen]
        kind = jax.random.categorical(keys[1], jnp.log(jnp.array([0.25, 0.3, 0.45])))
        total = instance.num_accesses.astype(jnp.float32)
        rank = jax.random.uniform(keys[2], (), minval=-1.0, maxval=total)
        factor = jnp.exp(jax.random.normal(keys[3]))
        eagerness = jnp.clip(
            jnp.abs(plan.eagerness) * factor, MIN_EAGERNESS, MAX_EAGERNESS
        )
        # Whether copies may be late changes now and then.
        turns = jnp.where(jax.random.bernoulli(keys[5], 0.3), -1.0, 1.0)
        eagerness *= turns * jnp.sign(plan.eagerness)
        options = jnp.array([UNDECIDED, DROP, COPY, NO_COPY], jnp.int8)
        weights = jnp.array([0.4, 0.4, 0.15, 0.05])
        advice = options[jax.random.categorical(keys[4], jnp.log(weights))]
        scope = jnp.where(jax.random.bernoulli(keys[3]), whole, one)
        return Plan(
            rank=jnp.where((kind == 0) & whole, rank, plan.rank),
            eagerness=jnp.where((kind == 1) & whole, eagerness, plan.eagerness),
            advice=jnp.where((kind == 2) & scope, advice, plan.advice),
        )

    return jax.lax.fori_loop(0, count, change, plan)


def stakes(instance: Instance) -> Float[Array, " N"]:
    """Returns what is at stake at each access, seconds: its saving, or a share of its copy's time."""
    a = instance.accesses
    copying = a.copy_ticks * instance.tick_seconds * 0.3
    stake = jnp.maximum(a.saving * instance.trip[a.time], copying)
    return jnp.where(a.forbid | a.must_drop, 0.0, stake)


def _restart(lanes: Lanes) -> Lanes:
    worse = lanes.seconds > jnp.median(lanes.seconds)
    winner, seconds = best(lanes)
    plan = jax.tree.map(
        lambda one, many: jnp.where(
            worse.reshape((-1,) + (1,) * (many.ndim - 1)), one, many
        ),
        winner,
        lanes.plan,
    )
    return Lanes(plan, jnp.where(worse, seconds, lanes.seconds), lanes.rounds)
