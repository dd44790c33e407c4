"""Makes the golden dumps of the offload tests: a training step with unrolled layers, by XLA:GPU and by XLA:CPU.

    python tests/mallocgame/offload/golden/make.py        # needs the [gpu] extra, no GPU; half a minute

`NAME.gpu_after_optimizations.hlo.pb.gz` and `NAME.cpu_after_optimizations.hlo.pb.gz` are what XLA dumped;
`memory.json` holds the compilers' own memory statistics, which the tests compare with, and the versions.
"""

import functools
import gzip
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]


def make_step(
    layers: int, batch: int, length: int, width: int, heads: int, vocabulary: int
) -> Any:
    """Returns a training step and its abstract arguments; each layer has names of its own."""
    import jax
    import jax.numpy as jnp
    from jax.ad_checkpoint import checkpoint_name

    def norm(x: Any) -> Any:
        square = jnp.mean(jnp.square(x.astype(jnp.float32)), -1, keepdims=True)
        return x * jax.lax.rsqrt(square + 1e-6).astype(x.dtype)

    def layer(w: Any, x: Any, number: int) -> Any:
        w = jax.tree.map(lambda a: a.astype(jnp.bfloat16), w)
        x = checkpoint_name(x, f"layer{number}.in")
        qkv = checkpoint_name(norm(x) @ w["qkv"], f"layer{number}.qkv")
        q, k, v = jnp.split(qkv.reshape(batch, length, 3 * heads, -1), 3, axis=2)
        a = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 8
        a = jnp.where(jnp.tril(jnp.ones((length, length), bool)), a, -1e9)
        a = jax.nn.softmax(a.astype(jnp.float32), -1).astype(jnp.bfloat16)
        o = jnp.einsum("bhqk,bkhd->bqhd", a, v).reshape(x.shape)
        x = checkpoint_name(x + o @ w["out"], f"layer{number}.mid")
        h = checkpoint_name(norm(x) @ w["up"], f"layer{number}.up")
        return x + jax.nn.gelu(h) @ w["down"]

    names = [f"layer{i}.{k}" for i in range(layers) for k in ("in", "qkv", "mid", "up")]
    policy = jax.checkpoint_policies.save_only_these_names(*names)

    def loss(params: Any, tokens: Any) -> Any:
        x = params["embed"].astype(jnp.bfloat16)[tokens]
        for number, w in enumerate(params["layers"]):
            x = jax.checkpoint(functools.partial(layer, number=number), policy=policy)(
                w, x
            )
        logits = (norm(x) @ params["embed"].astype(jnp.bfloat16).T).astype(jnp.float32)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)
        return -jnp.mean(picked)

    def step(state: Any, tokens: Any) -> Any:
        p, m, v = state["params"], state["m"], state["v"]
        value, g = jax.value_and_grad(loss)(p, tokens)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, v, g)
        p = jax.tree.map(lambda p, m, v: p - 1e-3 * m / (jnp.sqrt(v) + 1e-8), p, m, v)
        return {"params": p, "m": m, "v": v}, value

    def weights(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    stack = [
        {
            "qkv": weights(width, 3 * width),
            "out": weights(width, width),
            "up": weights(width, 4 * width),
            "down": weights(4 * width, width),
        }
        for _ in range(layers)
    ]
    params = {"embed": weights(vocabulary, width), "layers": stack}
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    return step, ({"params": params, "m": params, "v": params}, tokens)


def main() -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.path.insert(0, str(ROOT))
    import jax

    from compiler import backends
    from mallocgame import offload

    jax.config.update("jax_hlo_source_file_canonicalization_regex", f"{ROOT}/")
    step, arguments = make_step(
        layers=8, batch=16, length=512, width=1024, heads=16, vocabulary=8192
    )
    memory: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        cache = backends.Cache(Path(scratch))
        for topology, platform in (("h100", "gpu"), ("cpu", "cpu")):
            source = backends.from_function(
                step, *arguments, topology=topology, donate_argnums=0
            )
            compiled = backends.compile_source(source, topology, cache=cache)
            name = f"unrolled.{platform}_after_optimizations.hlo.pb.gz"
            data = gzip.decompress(compiled.final.read_bytes())
            (HERE / name).write_bytes(gzip.compress(data, 9, mtime=0))
            memory[name] = {
                **compiled.memory._asdict(),
                "version": compiled.version,
            }
    (HERE / "memory.json").write_text(
        json.dumps(memory, indent=1, sort_keys=True) + "\n"
    )
    offload.record(step, *arguments, out=HERE)


if __name__ == "__main__":
    main()
