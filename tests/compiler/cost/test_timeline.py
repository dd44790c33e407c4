"""Timelines of small modules, worked out by hand, and of real ones, against an independent simulator's figures."""

import itertools
import json
from pathlib import Path

import pytest
from jaxlib import _hlo

from compiler import hlo
from compiler.cost.links import LINKS, all_gather, reduce_scatter
from compiler.cost.timeline import COMPUTE, Timeline, grid, simulate
from compiler.hlo import Module
from compiler.hlo.checks import check
from compiler.hlo.collectives import groups, inside
from compiler.hlo.estimates import estimated_cycles
from compiler.hlo.load import parse

V5E = LINKS["v5e"]
C = V5E.cycles_per_mib
GOLDEN = Path(__file__).parents[2] / "golden" / "sharded"
NAMES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())

PRELUDE = """HloModule m, is_scheduled=true, num_partitions=8
add { a = f32[] parameter(0)
 b = f32[] parameter(1)
 ROOT s = f32[] add(a, b) }
"""
MIB = "f32[256,1024]"
PAIR = "source_target_pairs={{0,1},{1,0}}"
ACROSS = "source_target_pairs={{0,4},{4,0}}"


def work(name: str, operand: str, cycles: int) -> str:
    config = f'{{"window_config":{{"estimated_cycles":"{cycles}"}}}}'
    return f"{name} = {MIB} negate({operand}), backend_config={config}"


def start(name: str, operand: str, pairs: str = PAIR) -> str:
    return f"{name} = ({MIB}, {MIB}, u32[], u32[]) collective-permute-start({operand}), {pairs}"


def done(name: str, operand: str) -> str:
    return f"{name} = {MIB} collective-permute-done({operand})"


def module_of(*entry: str, before: str = "") -> Module:
    lines = "\n".join([f"x = {MIB} parameter(0)", *entry])
    text = f"{PRELUDE}{before}\nENTRY e {{\n{lines}\n}}"
    data = _hlo.hlo_module_from_text(text).as_serialized_hlo_module_proto()
    return check(parse(data), "text")


def figures(timeline: Timeline) -> tuple[float, float, float, float]:
    return (
        timeline.total,
        timeline.compute,
        timeline.exposed,
        timeline.communication,
    )


def test_work_hides_a_transfer_as_long_as_it_lasts() -> None:
    short = module_of(start("s", "x"), work("y", "x", 1000), done("d", "s"))
    assert figures(simulate(short, V5E)) == pytest.approx((C, 1000, C - 1000, C))
    long = module_of(start("s", "x"), work("y", "x", 50_000), done("d", "s"))
    assert figures(simulate(long, V5E)) == pytest.approx((50_000, 50_000, 0, C))


def test_a_synchronous_collective_blocks() -> None:
    module = module_of(
        work("y", "x", 1000),
        f"r = {MIB} all-reduce(y), replica_groups={{{{0,1,2,3}},{{4,5,6,7}}}}, to_apply=add",
    )
    assert figures(simulate(module, V5E)) == pytest.approx((1000 + C, 1000, C, C))
    late = simulate(module, V5E, latency=77)
    assert figures(late) == pytest.approx((1077 + C, 1000, C + 77, C + 77))


def test_no_groups_are_all_devices() -> None:
    text = f"r = {MIB} all-gather(p), dimensions={{0}}"
    module = module_of("p = f32[32,1024] slice(x), slice={[0:32],[0:1024]}", text)
    timeline = simulate(module, V5E, coordinates=grid((2, 4)))
    assert timeline.total == pytest.approx(all_gather(V5E, 1 << 17, 8))


def test_transfers_queue_for_one_link_and_not_for_two() -> None:
    module = module_of(
        start("s", "x"),
        start("t", "x", ACROSS),
        work("y", "x", 1000),
        done("c", "s"),
        done("d", "t"),
    )
    assert simulate(module, V5E).total == pytest.approx(2 * C)
    apart = simulate(
        module, V5E, link_model="per-axis", coordinates=grid((2, 4)), latency=5
    )
    assert apart.total == pytest.approx(C + 5)
    assert {event.stream for event in apart.events} == {COMPUTE, "axis 0", "axis 1"}
    # Where both pairs lie along one axis they queue again.
    line = simulate(module, V5E, link_model="per-axis", coordinates=grid((8,)))
    assert line.total == pytest.approx(2 * C)


def test_an_all_reduce_may_use_both_axes() -> None:
    module = module_of(
        f"r = {MIB} all-reduce(x), replica_groups=[1,8]<=[8], to_apply=add"
    )
    both = simulate(module, V5E, coordinates=grid((2, 4)), all_reduce_dimensions=2)
    assert both.total == pytest.approx(C / 2)
    line = simulate(module, V5E, coordinates=grid((8, 1)), all_reduce_dimensions=2)
    assert line.total == pytest.approx(C)


def body_of(x: str, tag: str) -> tuple[str, ...]:
    return (
        start(f"go{tag}", x),
        work(f"y{tag}", x, 9000),
        done(f"end{tag}", f"go{tag}"),
        work(f"z{tag}", f"end{tag}", 300),
    )


@pytest.mark.parametrize("trips", [0, 1, 2, 7])
@pytest.mark.parametrize("before", [0, 60_000])
def test_a_loop_is_its_body_written_out(trips: int, before: int) -> None:
    """Also with a transfer under way that the loop's own must wait for."""
    pair = f"(s32[], {MIB})"
    loop = f"""
body {{ p = {pair} parameter(0)
 i = s32[] get-tuple-element(p), index=0
 x = {MIB} get-tuple-element(p), index=1
 one = s32[] constant(1)
 j = s32[] add(i, one)
 {chr(10).join(body_of("x", "b"))}
 ROOT t = {pair} tuple(j, zb) }}
condition {{ p = {pair} parameter(0)
 i = s32[] get-tuple-element(p), index=0
 k = s32[] constant({trips})
 ROOT c = pred[] compare(i, k), direction=LT }}"""
    around = start("s", "x"), work("w", "x", before or 1), done("d", "s")
    rolled = module_of(
        *around[:2],
        "zero = s32[] constant(0)",
        f"t = {pair} tuple(zero, x)",
        f"l = {pair} while(t), condition=condition, body=body",
        around[2],
        before=loop,
    )
    unrolled = module_of(
        *around[:2],
        *itertools.chain.from_iterable(
            body_of(f"z{i - 1}" if i else "x", str(i)) for i in range(trips)
        ),
        around[2],
    )
    found, expected = simulate(rolled, V5E), simulate(unrolled, V5E)
    assert figures(found) == pytest.approx(figures(expected))
    assert found.unknown_loops == ()
    assert sum(event.exposed for event in found.events) == pytest.approx(found.exposed)


def test_a_loop_that_does_not_say() -> None:
    pair = f"(pred[], {MIB})"
    loop = f"""
body {{ p = {pair} parameter(0)
 c = pred[] get-tuple-element(p), index=0
 x = {MIB} get-tuple-element(p), index=1
 {work("y", "x", 1000)}
 ROOT t = {pair} tuple(c, y) }}
condition {{ q = {pair} parameter(0)
 ROOT c = pred[] get-tuple-element(q), index=0 }}"""
    module = module_of(
        "c = pred[] constant(true)",
        f"t = {pair} tuple(c, x)",
        f"endless = {pair} while(t), condition=condition, body=body",
        before=loop,
    )
    timeline = simulate(module, V5E)
    assert timeline.unknown_loops == ("endless",)
    assert timeline.total == 5000


def test_a_conditional_takes_its_longest_branch() -> None:
    branches = "".join(
        f"{name} {{ p = {MIB} parameter(0)\n ROOT {work(f'{name}_y', 'p', cycles)} }}\n"
        for name, cycles in (("yes", 400), ("no", 900))
    )
    module = module_of(
        "c = pred[] constant(true)",
        f"r = {MIB} conditional(c, x, x), true_computation=yes, false_computation=no",
        work("z", "r", 10),
        before=branches,
    )
    assert simulate(module, V5E).total == 910


def test_an_async_wrapper_around_a_collective() -> None:
    scatter = "f32[32,1024]"
    called = f"""
called {{ p = {MIB} parameter(0)
 ROOT r = {scatter} reduce-scatter(p), dimensions={{0}}, replica_groups=[1,8]<=[8], to_apply=add }}"""
    module = module_of(
        f"s = (({MIB}), {scatter}, u32[]) async-start(x), calls=called",
        work("y", "x", 100),
        f"d = {scatter} async-done(s)",
        before=called,
    )
    took = reduce_scatter(V5E, 1 << 17, 8)
    assert figures(simulate(module, V5E)) == pytest.approx(
        (took, 100, took - 100, took)
    )


def test_per_axis_needs_to_know_where_devices_are() -> None:
    module = module_of(start("s", "x", ACROSS), done("d", "s"))
    with pytest.raises(ValueError, match="needs the partitions' coordinates"):
        simulate(module, V5E, link_model="per-axis")
    with pytest.raises(ValueError, match="needs the partitions' coordinates"):
        simulate(module, V5E, all_reduce_dimensions=2)
    with pytest.raises(ValueError, match="4 coordinates; the program has device 4"):
        simulate(module, V5E, link_model="per-axis", coordinates=grid((4,)))


# ---- Real compiles, kept ------------------------------------------------------


def golden(name: str) -> tuple[Module, dict[str, float]]:
    folder = GOLDEN / name
    options = json.loads((folder / "options.json").read_text())
    return hlo.load(folder / "compiled.hlo.pb.gz"), options["reference"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", ["one", "per-axis"])
def test_what_holds_of_every_timeline(name: str, model: str) -> None:
    module, _ = golden(name)
    link_model = "one" if model == "one" else "per-axis"
    timeline = simulate(module, V5E, link_model=link_model, coordinates=grid((2, 4)))
    assert timeline.total == pytest.approx(timeline.compute + timeline.exposed)
    exposed = sum(event.exposed for event in timeline.events)
    assert exposed == pytest.approx(timeline.exposed)
    assert timeline.total >= max(event.end for event in timeline.events) - 1e-6
    streams: dict[str, float] = {}
    for event in timeline.events:
        assert streams.get(event.stream, 0.0) <= event.start + 1e-6
        streams[event.stream] = event.end


@pytest.mark.parametrize("name", NAMES)
def test_figures_of_an_independent_simulator(name: str) -> None:
    module, reference = golden(name)
    timeline = simulate(module, V5E)
    found = dict(
        zip(("total", "compute", "exposed"), figures(timeline)[:3], strict=True)
    )
    assert {k: round(v) for k, v in found.items()} == reference


def test_the_golden_modules_have_every_disguise() -> None:
    phases = {
        (phase, moved.kind)
        for name in NAMES
        for node in golden(name)[0].nodes()
        for phase, moved in inside(node)
    }
    assert {
        ("start", "all-gather"),
        ("done", "all-gather"),
        ("whole", "reduce-scatter"),
    } <= phases
    opcodes = {node.opcode for name in NAMES for node in golden(name)[0].nodes()}
    assert {"async-start", "reduce-scatter", "all-reduce", "while"} <= opcodes


def test_a_scanned_program_in_closed_form() -> None:
    module, _ = golden("scan_fsdp")
    loop = next(node for node in module.entry.nodes if node.opcode == "while")
    body = loop.called[0].nodes
    cycles = sum(estimated_cycles(node) or 0 for node in body)
    outside = sum(estimated_cycles(node) or 0 for node in module.entry.nodes)
    gather = next(node for node in body if node.opcode == "all-gather")
    assert groups(gather) == (tuple(range(8)),)
    # Six layers of 1024 x 1024 bf16, of which each device holds an eighth.
    wait = all_gather(V5E, 2 * 1024 * 1024 / 8, 8)
    timeline = simulate(module, V5E)
    assert timeline.compute == 6 * cycles + outside
    assert timeline.exposed == pytest.approx(6 * wait)


def test_latency_counts_once_for_each_exposed_call() -> None:
    module, reference = golden("experts_8_r8")
    late = simulate(module, V5E, latency=V5E.cycles(20e-6))
    assert (reference["total"], round(late.total)) == (5_044_346, 5_104_346)
