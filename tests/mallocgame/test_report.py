"""Figures of a mapping: every stay is drawn once, the page's figures agree with the mapping, files are complete."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from compiler.backends import Compiled
from compiler.backends.base import MemoryStats
from compiler.cost.judge import judge
from compiler.hlo import build, load
from compiler.hlo.tables import read_allocations
from mallocgame import mapping, picture, report, rollout, timeline
from mallocgame.account import Account, account
from mallocgame.inputs import Input
from mallocgame.instance import Problem
from mallocgame.mapping import Mapping, all_slow
from mallocgame.result import Result
from mallocgame.verify import Verified
from solvers.command import Flags, Interrupt, Session
from solvers.command.console import Console
from solvers.report import Lanes
from tests.mallocgame.programs import GOLDEN, V5E, golden

_play = jax.jit(rollout.play)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return golden("moe_block", 0.25)


@pytest.fixture(scope="module")
def found(problem: Problem) -> Mapping:
    instance = problem.instance
    plan = rollout.plan(instance, jnp.arange(instance.order.shape[0]))
    return mapping.from_state(problem, _play(instance, plan).state)


@pytest.fixture(scope="module")
def ours(problem: Problem, found: Mapping) -> Account:
    return account(problem, found)


def test_every_stay_is_a_rectangle(
    problem: Problem, found: Mapping, ours: Account
) -> None:
    layer = picture.layer("ours", problem, found, ours)
    stays = [d for d in found.fast() if not d.enclosed]
    assert stays and len(layer.rectangles) == len(stays)
    for decision, drawn in zip(stays, layer.rectangles, strict=True):
        access = problem.accesses[decision.access]
        buffer = problem.program.buffers[access.buffer]
        assert (drawn.offset, drawn.size) == (decision.offset, buffer.size)
        assert (drawn.start, drawn.end - 1) == (decision.start, decision.end)
        assert decision.action in str(drawn.details["decision"])
        assert drawn.details["why"] and drawn.details["uses"]
    copied = [d for d in stays if d.action == "Copy"]
    assert any(
        "its copy takes" in str(layer.rectangles[stays.index(d)].details["why"])
        for d in copied
    )


def test_shares_of_bandwidth_stack_below_the_chips(
    problem: Problem, ours: Account
) -> None:
    chart = timeline.bandwidth(problem, [("ours", ours)])
    rectangles = chart.layers[0].rectangles
    top = max(r.offset + r.size for r in rectangles)
    assert 0 < top <= V5E.slow_bandwidth * (1 + 1e-3)
    last = max(r.end for r in rectangles)
    assert last <= ours.span.sum() * (1 + 1e-6)
    moved = sum(
        r.size * (r.end - r.start) for r in rectangles if r.category == "prefetched"
    )
    assert moved == pytest.approx(ours.reads.sum() * V5E.slow_bandwidth, rel=0.02)


def test_a_timeline_is_whole(problem: Problem, found: Mapping, ours: Account) -> None:
    lanes = picture.copies(problem, found, ours)
    line = timeline.timeline(problem, lanes, ours)
    by_name = {lane.name: lane.intervals for lane in line.lanes}
    running = sum(i.end - i.start for i in by_name["instructions"])
    assert running == pytest.approx(ours.elapsed.sum(), rel=1e-5)
    waited = sum(i.end - i.start for i in by_name["waiting"])
    assert waited == pytest.approx(ours.waits.sum(), rel=1e-2, abs=1e-9)
    assert len(by_name["slow to fast"]) == len(_copies(lanes))
    document = json.loads(
        timeline.trace(
            picture.memory(problem, [picture.layer("ours", problem, found, ours)]),
            line,
            ours,
            "program",
        )
    )
    assert sum(e["ph"] == "X" for e in document["traceEvents"]) == sum(
        map(len, by_name.values())
    )
    assert any(e["ph"] == "C" for e in document["traceEvents"])


def _copies(lanes: Lanes) -> list[object]:
    return list(lanes.lanes[0].intervals)


def test_the_compilers_tables_are_a_layer(compiled: Verified) -> None:
    """As many rectangles as `allocinfo` has rows on this schedule, at the rows' places."""
    drawn = picture.compilers_layer("xla", compiled, golden("moe_block")).rectangles
    rows = read_allocations(GOLDEN / "moe_block" / "allocinfo.csv.gz")
    assert len(drawn) == len(rows) > 20
    places = [[(r.offset, r.size) for r in some] for some in (drawn, rows)]
    assert sorted(places[0]) == sorted(places[1])
    assert {"stays", "prefetched"} == {r.category for r in drawn}
    assert any(r.details.get("uses") for r in drawn)


@pytest.fixture(scope="module")
def compiled() -> Verified:
    """The compiler's own compile of the program, as tests/golden has it."""
    folder = GOLDEN / "moe_block"
    program = build(load(folder / "compiled.hlo.pb.gz"))
    return Verified(
        compiled=Compiled(
            key="",
            backend="tpu",
            topology="v5e:1x1",
            options={},
            version="libtpu",
            folder=folder,
            memory=MemoryStats(0, 0, 0, 0, 0),
            seconds=1.0,
            is_cached=True,
        ),
        program=program,
        verdict=judge(program, V5E),
        options={},
        decisions=0,
        honoured=0,
        instead=(),
    )


@pytest.mark.parametrize("beside", ["nothing", "heuristic", "compiler"])
def test_files(
    problem: Problem,
    found: Mapping,
    compiled: Verified,
    tmp_path: Path,
    beside: str,
) -> None:
    result = Result(
        given=Input(
            path=Path("moe.pb"),
            program=problem.program,
            compiled=None,
            source=None,
            target_name=None,
            notes=(),
        ),
        target=V5E,
        problem=problem,
        mapping=all_slow(problem) if beside == "nothing" else found,
        hand_over="default" if beside == "compiler" else "mapping",
        best=2e-3,
        by="climb",
        baselines={"all_slow": 4e-3, "msa": 3e-3, "xla": 2.5e-3, "greedy": None},
        default="xla",
        bound=1e-3,
        simulator_bound=1e-3,
        default_verdict=None,
        default_verified=compiled if beside == "compiler" else None,
        candidates=[],
        chosen=None,
        heuristic=None if beside == "nothing" else found,
        history=[(1, 3e-3), (20, 2e-3)],
        notes=["A note with <b>markup</b>."],
    )
    console = Console(None, quiet=True)
    session = Session(
        "mallocgame.search",
        Flags(),
        out=tmp_path,
        interrupt=Interrupt(lambda: None, lambda: None),
        console=console,
    )
    written = report.write(result, session)
    page = written["report"].read_text()
    for part in ("Fast memory over time", "Slow memory", "Timeline", "consists of"):
        assert part in page
    assert "A note with &lt;b&gt;" in page
    data = json.loads(page.split('id="report-data">')[1].split("</script>")[0])
    layers = [view["name"] for view in data["figures"][0]["views"]]
    expected = {
        "nothing": ["handed over"],
        "heuristic": ["XLA's heuristic, re-implemented", "handed over"],
        "compiler": ["the compiler's own", "searched, not handed over"],
    }
    assert layers == expected[beside]
    assert ET.parse(written["map"]).getroot().tag.endswith("svg")
    assert json.loads(written["trace"].read_text())["traceEvents"]
    if "picture" in written:
        assert written["picture"].read_bytes().startswith(b"\x89PNG")
