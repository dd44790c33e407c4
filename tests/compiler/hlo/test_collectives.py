"""Replica groups in all their forms, written by XLA's own parser, against groups worked out by hand."""

import pytest
from jaxlib import _hlo

from compiler.hlo import Module
from compiler.hlo import hlo_pb2 as pb
from compiler.hlo.checks import check
from compiler.hlo.collectives import collective, groups, kind_of
from compiler.hlo.errors import ModuleError
from compiler.hlo.load import parse

PRELUDE = """HloModule m, is_scheduled=true, num_partitions=8
add { a = f32[] parameter(0)
 b = f32[] parameter(1)
 ROOT s = f32[] add(a, b) }
"""


def module_of(entry: str) -> Module:
    text = f"{PRELUDE}ENTRY e {{\n x = bf16[16,128] parameter(0)\n {entry} }}"
    data = _hlo.hlo_module_from_text(text).as_serialized_hlo_module_proto()
    return check(parse(data), "text")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{0,3},{1,2}}", ((0, 3), (1, 2))),
        ("{}", ()),
        ("[2,4]<=[8]", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("[4,2]<=[2,4]T(1,0)", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("[4,2]<=[2,2,2]T(2,1,0)", ((0, 4), (2, 6), (1, 5), (3, 7))),
        ("mesh['x'=2,'y'=4] {'y'}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("mesh['x'=2,'y'=4] {'x'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['x'=2,'y'=4] {'x','y'}", ((0, 1, 2, 3, 4, 5, 6, 7),)),
        ("mesh['x'=2,'y'=4] {'y','x'}", ((0, 4, 1, 5, 2, 6, 3, 7),)),
        # The half of y that jumps by two, and the half that steps by one.
        ("mesh['x'=2,'y'=4] {'y':(1)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("mesh['x'=2,'y'=4] {'y':(2)2}", ((0, 1), (2, 3), (4, 5), (6, 7))),
        ("mesh['x'=2,'y'=4] {'y':(2)2,'x'}", ((0, 4, 1, 5), (2, 6, 3, 7))),
        ("mesh['a'=8] {'a':(2)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("mesh['a'=8] {'a':(1)2,'a':(4)2}", ((0, 1, 4, 5), (2, 3, 6, 7))),
        ("mesh['x'=2,'y'=2], device_ids=([2,2]T(1,0)) {'y'}", ((0, 2), (1, 3))),
        ("mesh['x'=2,'y'=2], device_ids=(3,1,0,2) {'y'}", ((3, 1), (0, 2))),
    ],
)
def test_groups(text: str, expected: tuple[tuple[int, ...], ...]) -> None:
    module = module_of(
        f"ROOT r = bf16[16,128] all-reduce(x), replica_groups={text}, to_apply=add"
    )
    assert groups(module.entry.root) == expected


def test_a_permute_has_pairs() -> None:
    module = module_of(
        "ROOT r = bf16[16,128] collective-permute(x), source_target_pairs={{0,1},{1,2},{2,0}}"
    )
    assert groups(module.entry.root) == ((0, 1), (1, 2), (2, 0))


@pytest.mark.parametrize(
    ("text", "result_bytes"),
    [
        ("bf16[128,128] all-gather(x), dimensions={0}", 128 * 128 * 2),
        ("bf16[2,128] reduce-scatter(x), dimensions={0}, to_apply=add", 2 * 128 * 2),
        ("(bf16[16,128], bf16[128,128]) all-gather-start(x), dimensions={0}", 1 << 15),
        (
            "(bf16[16,128], bf16[16,128], u32[], u32[]) collective-permute-start(x), source_target_pairs={{0,1}}",
            16 * 128 * 2,
        ),
        ("bf16[16,128] all-reduce-start(x), to_apply=add", 16 * 128 * 2),
    ],
)
def test_bytes_are_those_of_the_result(text: str, result_bytes: int) -> None:
    entry = module_of(f"r = {text}\n ROOT y = bf16[16,128] copy(x)").entry
    node = next(node for node in entry.nodes if kind_of(node.opcode))
    moved = collective(node)
    assert moved and moved.result_bytes == result_bytes


def test_a_start_of_several_arrays_counts_all_results() -> None:
    shapes = "((bf16[16,128], bf16[16,128]), (bf16[128,128], bf16[128,128]))"
    entry = module_of(
        f"r = {shapes} all-gather-start(x, x), dimensions={{0}}\n ROOT y = bf16[16,128] copy(x)"
    ).entry
    node = next(node for node in entry.nodes if kind_of(node.opcode))
    moved = collective(node)
    assert moved and moved.result_bytes == 2 * 128 * 128 * 2


def test_what_is_no_collective() -> None:
    node = module_of("ROOT y = bf16[16,128] copy(x)").entry.root
    assert collective(node) is None
    assert kind_of("copy-start") is None
    assert kind_of("all-gather-done") == ("all-gather", "done")


def test_groups_that_contradict_themselves() -> None:
    module = module_of(
        "ROOT r = bf16[16,128] all-reduce(x), replica_groups=[2,4]<=[8], to_apply=add"
    )
    node = module.entry.root
    broken = pb.Instruction()
    broken.CopyFrom(node.attributes)
    broken.ClearField("collective_device_list")
    broken.iota_collective_device_list.num_replica_groups = 3
    broken.iota_collective_device_list.num_devices_per_group = 3
    broken.iota_collective_device_list.iota_reshape_dims.append(8)
    node.attributes.CopyFrom(broken)
    with pytest.raises(ModuleError, match=r"instruction .*: replica groups"):
        groups(node)
