"""A mixture-of-experts layer without a mesh, slots or communication: every expert computes every token."""

import jax
import jax.numpy as jnp
import numpy as np


def capacity(kind, tokens, experts, k, factor):
    return min(tokens, int(np.ceil(k * factor * tokens / experts)))


def chosen(logits, kind, k, slots):
    """A 0/1 matrix of tokens and experts: who is served, first choices before second ones, tokens in order."""
    logits = np.asarray(logits)
    served = np.zeros(logits.shape)
    if kind == "by_expert":
        for expert in range(logits.shape[1]):
            served[np.argsort(-logits[:, expert], kind="stable")[:slots], expert] = 1
        return served, served.sum(1) == 0
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    for choice in range(k):
        for token, expert in enumerate(best[:, choice]):
            if served[:, expert].sum() < slots:
                served[token, expert] = 1
    wanted = np.zeros(logits.shape)
    np.put_along_axis(wanted, best, 1, axis=1)
    return served, wanted


def scores(kind, weights, x, noise):
    if kind == "xmoe":
        low = x @ weights["project"]
        low = low / jnp.linalg.norm(low, axis=1, keepdims=True)
        heads = weights["score"] / jnp.linalg.norm(weights["score"], axis=0)
        return low @ heads / jnp.exp(weights["log_temperature"])
    logits = x @ weights["score"]
    if noise is not None:
        logits = logits + noise * jnp.log1p(jnp.exp(x @ weights["noise"]))
    return logits


def feed_forward(weights, x, gated):
    """Every expert's answer to every token, (n, E, M)."""
    hidden = jnp.einsum("nm,emh->neh", x, weights["in"])
    if gated:
        gate = jnp.einsum("nm,emh->neh", x, weights["gate"])
        hidden = hidden * gate / (1 + jnp.exp(-gate))
    else:
        hidden = jax.nn.gelu(hidden)
    return jnp.einsum("neh,ehm->nem", hidden, weights["out"])


def layer(x, gate, experts, *, kind, k, factor, groups, gated, key=None):
    """Returns answers, balance loss, z-loss and the share dropped, for (n, M) tokens of so many devices."""
    count, own = gate["score"].shape[1], len(x) // groups
    noise = None
    if key is not None and kind == "gshard":
        keys = [jax.random.fold_in(key, group) for group in range(groups)]
        noise = jnp.concatenate([jax.random.normal(one, (own, count)) for one in keys])
    clean, noisy = scores(kind, gate, x, None), scores(kind, gate, x, noise)
    slots = capacity(kind, own, count, k, factor)
    fixed = np.split(np.asarray(jax.lax.stop_gradient(noisy)), groups)
    served, other = zip(*(chosen(one, kind, k, slots) for one in fixed))
    served, other = np.concatenate(served), np.concatenate(other)
    share = jax.nn.softmax(clean, axis=1)
    if kind == "gshard":
        weight = jnp.exp(noisy - noisy.max()) * other
        weight = weight / weight.sum(1, keepdims=True)
    elif kind == "sigmoid":
        weight = 1 / (1 + jnp.exp(-clean))
        share = weight / weight.sum(1, keepdims=True)
    elif kind == "xmoe":
        weight = share
    else:
        weight = (jnp.exp(clean) * served).reshape(groups, own, count)
        weight = (weight / weight.sum(1, keepdims=True)).reshape(clean.shape)
    answers = (weight * served)[:, :, None] * feed_forward(experts, x, gated)
    if kind == "by_expert":
        load, dropped = np.full(count, 1 / count), other.mean()
    else:
        load, dropped = other.mean(0) / k, 1 - served.sum() / other.sum()
    z = jnp.log(jnp.exp(clean).sum(1))
    balance = count * (load * share.mean(0)).sum()
    return answers.sum(1), balance, (z**2).mean(), dropped
