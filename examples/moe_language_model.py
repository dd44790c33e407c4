"""Trains a small mixture-of-experts language model as a plan says, on the Python sources that came with the interpreter.

    python -m examples.moe_language_model                       # A pipelined plan, on eight virtual CPU devices.
    python -m examples.moe_language_model --plan plan.json      # What a search found; as many devices as it is for.
    python -m examples.moe_language_model --compare --steps 100

`--compare` trains once more without a pipeline, from the same seed: a plan changes when things are sent, and nothing
that is learned. Losses are in nats per byte.
"""

import argparse
import math
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from compiler.moe import Pipeline, Plan
from compiler.moe import plan as plans
from compiler.moe.layer import MoE, declare, make_parts
from compiler.moe.parts import Metrics

BYTES = 256
SIZES = argparse.Namespace(
    steps=300, seed=0, batch=16, length=64, width=64, layers=2, experts=8, rate=3e-3
)
EVERY = 10  # Steps between those that are printed.
# Weights of the gate's losses: Switch Transformer's (Fedus et al. 2021) and ST-MoE's (Zoph et al. 2022).
BALANCE, Z = 1e-2, 1e-3
PIPELINED = Plan(
    mesh=(("data", 2), ("expert", 2), ("shard", 2)),
    expert_axes=("expert",),
    shard_axes=("shard",),
    reduce="ring",
    forward=Pipeline(chunks=(1, 2, 1), ahead=2),
    backward=Pipeline(chunks=(1, 1), ahead=2),
)


class Block(nnx.Module):
    """Attention to what came before, then experts."""

    def __init__(self, sizes: argparse.Namespace, plan: Plan, mesh: Any, rngs: Any):
        width = sizes.width
        self.before_attention = nnx.RMSNorm(width, rngs=rngs)
        self.before_experts = nnx.RMSNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            width // 16, width, use_bias=False, decode=False, keep_rngs=False, rngs=rngs
        )
        self.moe = MoE(width, 2 * width, sizes.experts, plan, mesh=mesh, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B T M"], key: PRNGKeyArray | None
    ) -> tuple[Float[Array, "B T M"], Metrics]:
        mask = nnx.make_causal_mask(x[:, :, 0])
        x = x + self.attention(self.before_attention(x), mask=mask)
        y, metrics = self.moe(self.before_experts(x), key=key)
        return x + y, metrics


class LanguageModel(nnx.Module):
    """A decoder of bytes."""

    def __init__(self, sizes: argparse.Namespace, plan: Plan, mesh: Any, rngs: Any):
        self.embed = nnx.Embed(BYTES, sizes.width, rngs=rngs)
        self.place = nnx.Embed(sizes.length, sizes.width, rngs=rngs)
        self.blocks = nnx.List(
            [Block(sizes, plan, mesh, rngs) for _ in range(sizes.layers)]
        )
        self.norm = nnx.RMSNorm(sizes.width, rngs=rngs)
        self.head = nnx.Linear(sizes.width, BYTES, rngs=rngs)

    def __call__(
        self, text: Int[Array, "B T"], key: PRNGKeyArray | None
    ) -> tuple[Float[Array, "B T 256"], Metrics]:
        x, seen = self.embed(text) + self.place(jnp.arange(text.shape[1])), []
        for index, block in enumerate(self.blocks):
            noise = None if key is None else jax.random.fold_in(key, index)
            x, metrics = block(x, noise)
            seen.append(metrics)
        mean = jax.tree.map(lambda *parts: jnp.mean(jnp.stack(parts), 0), *seen)
        return self.head(self.norm(x)), mean


def read_sources() -> tuple[np.ndarray, np.ndarray]:
    """Returns the standard library's modules as bytes, in order of their names: nine of ten, and the tenth ones."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = [path.read_bytes() for path in sorted(folder.glob("*.py"))]
    if len(files) < 10:
        raise ValueError(f"{folder} holds no sources to learn from")
    held_out = np.frombuffer(b"".join(files[9::10]), np.uint8)
    del files[9::10]
    return np.frombuffer(b"".join(files), np.uint8), held_out


def batches(text: np.ndarray, sizes: argparse.Namespace) -> Iterator[np.ndarray]:
    """Yields pieces [B T+1] from anywhere, the same ones for the same seed."""
    random = np.random.default_rng(sizes.seed)
    while True:
        start = random.integers(0, len(text) - sizes.length, (sizes.batch, 1))
        yield text[start + np.arange(sizes.length + 1)].astype(np.int32)


def entropies(text: np.ndarray) -> tuple[float, float, float]:
    """Returns the nats per byte that are left if one knows nothing, how often bytes are, and pairs of them."""

    def entropy(counts: np.ndarray) -> float:
        share = counts[counts > 0] / counts.sum()
        return -float(np.sum(share * np.log(share)))

    pairs = np.bincount(text[:-1] * np.int64(BYTES) + text[1:], minlength=BYTES**2)
    single = entropy(np.bincount(text))
    return math.log(BYTES), single, entropy(pairs) - single


def train(
    plan: Plan, sizes: argparse.Namespace, learned: np.ndarray, held_out: np.ndarray
) -> list[float]:
    """Returns the loss of each step, and at last that of text that was held out."""
    axes, shape = zip(*plan.mesh)
    mesh = jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * len(axes))
    graph, weights = nnx.split(LanguageModel(sizes, plan, mesh, nnx.Rngs(sizes.seed)))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(sizes.rate))

    def loss(weights: Any, text: Array, key: PRNGKeyArray | None) -> Any:
        logits, gates = nnx.merge(graph, weights)(text[:, :-1], key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, text[:, 1:])
        entropy = losses.mean()
        total = entropy + BALANCE * gates.balance_loss + Z * gates.z_loss
        return total, (entropy, gates.dropped)

    def update(weights: Any, state: Any, text: Array, key: PRNGKeyArray) -> Any:
        gradients, figures = jax.grad(loss, has_aux=True)(weights, text, key)
        changes, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, changes), state, figures

    # The layers' weights are born spread out; the others are copied to all devices.
    spread = nnx.get_named_sharding(weights, mesh)
    weights = jax.device_put(weights, spread)
    state = optimizer.init(weights)
    # On a TPU, with compiler_options=plan.compiler_options: CPUs' compiler refuses them.
    update = jax.jit(update, donate_argnums=(0, 1), out_shardings=(spread, None, None))
    tokens = NamedSharding(mesh, PartitionSpec(axes))
    curve, key = [], jax.random.key(sizes.seed)
    for step, text in zip(range(sizes.steps), batches(learned, sizes)):
        inputs = jax.device_put(text, tokens), jax.random.fold_in(key, step)
        weights, state, (entropy, dropped) = update(weights, state, *inputs)
        curve.append(float(entropy))
        if step % EVERY == 0:
            print(f"step {step} loss {entropy:.4f} dropped {dropped:.3f}", flush=True)
    judged = jax.jit(lambda *args: loss(*args)[1][0])
    text = jax.device_put(next(batches(held_out, sizes)), tokens)
    curve.append(float(judged(weights, text, None)))
    print(f"held out {curve[-1]:.4f}", flush=True)
    return curve


def main() -> None:
    """Trains, and compares."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plan", type=Path, help="a plan's JSON; by default, our own")
    parser.add_argument("--compare", action="store_true", help="with one chunk, too")
    for name, default in vars(SIZES).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    sizes = parser.parse_args()
    try:
        plan = plans.read(sizes.plan) if sizes.plan else PIPELINED
        devices = math.prod(size for _, size in plan.mesh)
        if sizes.batch % devices:
            raise ValueError(f"{sizes.batch} sequences, but {devices} devices")
        declare(make_parts(plan), plan, sizes.width, 2 * sizes.width, sizes.experts)
        learned, held_out = read_sources()
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    # Before JAX looks for devices, which it does once.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    print("uniform {:.4f} bytes {:.4f} pairs {:.4f}".format(*entropies(learned)))
    ours = train(plan, sizes, learned, held_out)
    if sizes.compare:
        print("one chunk, one all-to-all, one reduce-scatter:")
        layout: Any = {"expert_axes": plan.expert_axes, "shard_axes": plan.shard_axes}
        theirs = train(Plan(mesh=plan.mesh, **layout), sizes, learned, held_out)
        for step in range(0, sizes.steps, EVERY):
            print(f"step {step} plan {ours[step]:.6f} one chunk {theirs[step]:.6f}")
        apart = max(abs(a - b) for a, b in zip(ours, theirs))
        print(f"largest difference {apart:.3g}")


if __name__ == "__main__":
    main()
