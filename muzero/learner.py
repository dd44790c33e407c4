"""MuZero's loss and its gradient steps (Schrittwieser et al. 2020, equation 1 and appendix G)."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from muzero import replay as replays
from muzero import targets
from muzero.agents import Agent
from muzero.config import LearnConfig
from muzero.networks import call
from muzero.replay import Draw, Replay
from muzero.support import Support
from muzero.targets import Target, Window
from muzero.task import row
from solvers.planning import ILLEGAL

_DYNAMICS_GRADIENT = 0.5  # Of what flows from each unrolled step into the one before.


class Losses(NamedTuple):
    """Of one position, or means over many."""

    policy: Float[Array, ""]
    value: Float[Array, ""]
    reward: Float[Array, ""]
    legal: Float[Array, ""]


def optimizer(config: LearnConfig) -> optax.GradientTransformation:
    """Returns AdamW with clipped gradients."""
    rate: Any = config.learning_rate
    if config.decay_updates:
        rate = optax.cosine_decay_schedule(rate, config.decay_updates, alpha=0.1)
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(rate, weight_decay=config.weight_decay),
    )


def losses(
    agent: Agent, params: Any, window: Window, config: LearnConfig
) -> tuple[Losses, Float[Array, ""]]:
    """Returns the losses of one position, unrolled if the model is learnt, and its value as thought.

    Unrolled steps together count as much as the position itself. Behind the end rewards and
    values are learnt to be 0, so that imagined play stops earning where real play does.
    """
    networks = agent.networks
    ask = functools.partial(call, networks, params)
    hidden = ask("represent", window.observation)
    thought = networks.value_support.decode(ask("predict", hidden).value)
    here = _heads(agent, params, hidden, window.here)
    if not agent.is_learned:
        return here, thought

    def advance(hidden: Any, step: tuple[Any, ...]) -> tuple[Any, Losses]:
        action, reward, target = step
        hidden = _with_gradient(hidden, _DYNAMICS_GRADIENT)
        hidden, logits = ask("advance", hidden, action)
        found = _heads(agent, params, hidden, target)
        support: Support = networks.reward_support
        return hidden, found._replace(reward=support.loss(logits, reward))

    steps = (window.action, window.reward, window.behind)
    _, behind = jax.lax.scan(advance, hidden, steps)
    return jax.tree.map(lambda x, y: x + jnp.mean(y), here, behind), thought


def update(
    agent: Agent,
    params: Any,
    opt_state: Any,
    windows: Window,
    importance: Float[Array, " R"],
    config: LearnConfig,
) -> tuple[Any, Any, Losses, Float[Array, " R"]]:
    """Makes one gradient step on R positions.

    Returns:
        Parameters, optimiser state, mean losses, and the new priorities |value - target|.
    """

    def total(params: Any) -> tuple[Array, tuple[Losses, Array]]:
        one = functools.partial(losses, agent, params, config=config)
        each, thought = jax.vmap(one)(windows)
        mean = jax.tree.map(lambda x: jnp.mean(importance * x), each)
        loss = mean.policy + config.value_weight * mean.value
        loss += config.reward_weight * mean.reward + config.legal_weight * mean.legal
        return loss, (jax.tree.map(jnp.mean, each), thought)

    gradient, (mean, thought) = jax.grad(total, has_aux=True)(params)
    updates, opt_state = optimizer(config).update(gradient, opt_state, params)
    surprise = jnp.abs(thought - windows.here.value)
    return optax.apply_updates(params, updates), opt_state, mean, surprise


def learn(
    agent: Agent,
    params: Any,
    opt_state: Any,
    recent: Replay,
    best: Replay,
    key: PRNGKeyArray,
    config: LearnConfig,
) -> tuple[Any, Any, Replay, Losses]:
    """Makes `config.updates` steps on positions of both replays, and refreshes the priorities.

    Args:
        agent: who learns.
        params: its parameters.
        opt_state: of the optimiser.
        recent: self-play; drawn by priority.
        best: the best episodes, drawn evenly, to be imitated.
        key: consumed.
        config: rates and sizes.
    """
    copied = round(config.best_share * config.rows)
    fresh = config.rows - copied

    def windows(replay: Replay, drawn: Draw) -> Window:
        cut = functools.partial(
            targets.window, unroll=config.unroll, bootstrap=config.bootstrap
        )
        return jax.vmap(cut)(row(replay.episodes, drawn.slot), drawn.turn)

    def step(carry: Any, key: PRNGKeyArray) -> tuple[Any, Losses]:
        params, opt_state, recent = carry
        one_key, other_key = jax.random.split(key)
        parts, importance = [], []
        if fresh:
            drawn = replays.draw(
                recent, one_key, fresh, alpha=config.alpha, beta=config.beta
            )
            parts.append(windows(recent, drawn))
            importance.append(drawn.importance)
        if copied:
            imitated = replays.draw(best, other_key, copied, alpha=0.0, beta=0.0)
            parts.append(windows(best, imitated))
            importance.append(imitated.importance)
        joined = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
        params, opt_state, mean, surprise = update(
            agent, params, opt_state, joined, jnp.concatenate(importance), config
        )
        if fresh:
            priority = recent.priority.at[drawn.slot, drawn.turn].set(surprise[:fresh])
            recent = recent._replace(priority=priority)
        return (params, opt_state, recent), mean

    keys = jax.random.split(key, config.updates)
    carry, history = jax.lax.scan(step, (params, opt_state, recent), keys)
    return (*carry, jax.tree.map(jnp.mean, history))


def _heads(agent: Agent, params: Any, hidden: Any, target: Target) -> Losses:
    """Returns the losses of what is thought of a hidden state; among legal actions alone."""
    networks = agent.networks
    seen = call(networks, params, "predict", hidden)
    logits = jax.nn.log_softmax(jnp.where(target.legal, seen.policy, ILLEGAL))
    policy = -jnp.sum(jnp.where(target.legal, target.weights * logits, 0.0))
    value = networks.value_support.loss(seen.value, target.value)
    zero = jnp.float32(0)
    legal = zero
    if agent.is_learned:
        said = call(networks, params, "legality", hidden)
        wrong = optax.sigmoid_binary_cross_entropy(said, target.legal)
        legal = jnp.where(target.alive, jnp.mean(wrong), 0.0)
    return Losses(jnp.where(target.alive, policy, 0.0), value, zero, legal)


def _with_gradient(hidden: Any, share: float) -> Any:
    """Returns the hidden state; only a share of the gradient flows through it."""

    def damped(x: Array) -> Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return share * x + (1 - share) * jax.lax.stop_gradient(x)

    return jax.tree.map(damped, hidden)
