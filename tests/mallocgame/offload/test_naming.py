"""Names: from a function to source places, from there to the tensors of the compiled program."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import checkpoint_name

from compiler.hlo import build, load
from compiler.hlo.buffers import load_buffers
from compiler.hlo.frames import load_places
from compiler.targets import TARGETS
from mallocgame import offload
from mallocgame.offload import naming
from mallocgame.offload import problem as problems

ROOT = Path(__file__).parents[3]
UNROLLED = Path(__file__).parent / "golden/unrolled.gpu_after_optimizations.hlo.pb.gz"
SCANNED = next((ROOT / "examples/gpu_offload/dump").glob("*gpu_after*"))


def labelled(path: Path) -> tuple[list[problems.Candidate], tuple[str, ...]]:
    program = build(load(path))
    problem = problems.build(program, TARGETS["gpu-h100"], 1 << 40, load_buffers(path))
    named = naming.load(path)
    assert named is not None
    candidates, missed = naming.label(
        program, problem.candidates, named, load_places(path)
    )
    return [c for c in candidates if c.name is not None], missed


def test_trace_follows_values_into_scans_and_checkpoints(tmp_path: Path) -> None:
    def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
        x = checkpoint_name(x, "carry")
        h = checkpoint_name(x @ w, "hidden")
        return jnp.sin(h), None

    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        y, _ = jax.lax.scan(jax.checkpoint(layer), jnp.cos(x), w)
        return jnp.sum(y)

    x = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    w = jax.ShapeDtypeStruct((3, 8, 8), jnp.float32)
    path = offload.record(loss, x, w, out=tmp_path)
    found = naming.load(tmp_path / "anything.hlo.pb")
    assert path.name == naming.FILE
    assert found is not None
    assert [entry.name for entry in found] == ["carry", "hidden"]
    assert [entry.elements for entry in found] == [32, 32]
    source = Path(__file__).read_text().splitlines()
    lines = [[source[m.place.line - 1] for m in entry.makers] for entry in found]
    # A carry comes from the body's end, and in the first trip from before the loop.
    assert any("jnp.sin(h)" in line for line in lines[0])
    assert any("jnp.cos(x)" in line for line in lines[0])
    assert "x @ w" in lines[1][0]


def test_scanned_residuals_get_their_names() -> None:
    candidates, missed = labelled(SCANNED)
    assert not missed
    # Sizes follow from the shapes in train_step.py: 8 layers of 16 x 512 bf16 rows of 1, 3, 1 or 4 x 1024.
    rows = 8 * 16 * 512 * 2 * 1024
    sizes = {
        (c.name, c.size) for c in candidates if c.kind == "stack" and c.name is not None
    }
    assert sizes == {
        ("layer_in", rows),
        ("qkv", 3 * rows),
        ("attention_out", rows),
        ("mlp_hidden", 4 * rows),
    }
    arguments = {c.name: c.size for c in candidates if c.kind == "argument"}
    assert arguments["state['m']['layers']['up']"] == 8 * 1024 * 4096 * 4


def test_unrolled_layers_get_theirs_in_order() -> None:
    candidates, missed = labelled(UNROLLED)
    assert not missed
    for kind, columns in (("up", 4), ("mid", 1), ("qkv", 3), ("in", 1)):
        first = [
            next(c for c in candidates if c.name == f"layer{i}.{kind}")
            for i in range(8)
        ]
        assert {c.size for c in first} == {16 * 512 * 2 * 1024 * columns}
        # Made in the order of the layers, used in the reverse one.
        assert sorted(first, key=lambda c: c.first) == first
        assert sorted(first, key=lambda c: -c.last) == first


def test_names_of_a_plan(tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.json"
    names = {"offload": ["up"], "save": ["in"], "pinned_host": ["state['m'][0]"]}
    mapping.write_text(json.dumps({"kind": "offload", "names": names}))
    found = offload.names(mapping)
    assert (found.offload, found.save) == (("up",), ("in",))
    mask = found.on_host("state", {"m": [1.0, 2.0], "v": [3.0]})
    assert mask == {"m": [True, False], "v": [False]}
    assert callable(found.policy())
    mapping.write_text(json.dumps({"kind": "packing"}))
    with pytest.raises(ValueError, match="no offload plan"):
        offload.names(mapping)


def test_a_policy_of_names_offloads_them() -> None:
    """JAX itself moves what the policy names: it shows in the backward pass of the jaxpr."""
    names = offload.Names(offload=("up",), save=("in",), pinned_host=())

    def layer(x: jax.Array) -> jax.Array:
        x = checkpoint_name(jnp.sin(x), "in")
        return jnp.sum(jnp.sin(checkpoint_name(jnp.cos(x), "up")))

    wrapped = jax.checkpoint(layer, policy=names.policy())
    text = str(jax.make_jaxpr(jax.grad(wrapped))(jnp.ones(3)))
    assert text.count("device_put") == 2
