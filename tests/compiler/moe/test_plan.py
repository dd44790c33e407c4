"""The plan: read back as written, and refused in one line."""

import json

import pytest

from compiler.moe import plan as plans
from compiler.moe.plan import Pipeline, Plan


def _plan(**changes):
    fields = {
        "mesh": (("x", 2), ("y", 4)),
        "expert_axes": ("y",),
        "shard_axes": ("x",),
        "forward": Pipeline(chunks=(1, 2, 1), ahead=2),
        "compiler_options": {"xla_tpu_enable_async_all_to_all": True},
    }
    return Plan(**{**fields, **changes})


def test_is_read_back_as_written(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(_plan().to_json()))
    assert plans.read(path) == _plan()


def test_can_be_hashed_as_settings_of_a_module_are():
    assert len({_plan(), _plan(), _plan(exchange="ragged")}) == 2


def test_spans_and_copies():
    assert _plan().experts_span == 4
    assert _plan().shards_span == 2
    assert _plan(shard_axes=()).data_axes == ("x",)


def test_chunks_keep_their_proportions():
    assert Pipeline(chunks=(1, 2, 1)).sizes(64) == (16, 32, 16)
    with pytest.raises(ValueError, match="no multiple of 4"):
        Pipeline(chunks=(1, 2, 1)).sizes(66)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"expert_axes": ("z",)}, "no axis 'z'"),
        ({"expert_axes": ("x",)}, "used twice"),
        ({"exchange": "carrier pigeon"}, "none of"),
        ({"mesh": (("x", 0),)}, "positive sizes"),
        ({"gradient_share": (-1.0,)}, "not negative"),
    ],
)
def test_refuses(changes, says):
    with pytest.raises(ValueError, match=says):
        _plan(**changes)


@pytest.mark.parametrize(("chunks", "ahead"), [((), 1), ((0, 1), 1), ((1, 1), 3)])
def test_a_pipeline_refuses(chunks, ahead):
    with pytest.raises(ValueError, match="chunks"):
        Pipeline(chunks=chunks, ahead=ahead)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"kind": "moe.plan"}', '{"kind": "other"}']
)
def test_a_file_that_holds_none_is_named(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"plan\.json"):
        plans.read(path)
