"""The page of one offload search: HBM over time, the link, the heap against XLA's."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mallocgame.offload import plan as plans
from mallocgame.offload.heap import Heap
from mallocgame.offload.packing import Packing
from mallocgame.offload.problem import IN, Problem
from mallocgame.offload.search import usage
from mallocgame.offload.timeline import copies_of
from solvers.command import Session
from solvers.report import (
    Cell,
    Column,
    Component,
    Fact,
    Interval,
    Lane,
    Lanes,
    Layer,
    Line,
    Page,
    Rectangle,
    Section,
    Series,
    SpaceTimeMap,
    Table,
    Text,
    TimeAxis,
)
from solvers.report import render as render_page

if TYPE_CHECKING:
    from mallocgame.offload.command import Result

_MOST_RECTANGLES = 4000  # In one map: the largest.


def render(
    result: "Result",
    problem: Problem | None,
    document: Mapping[str, Any],
    session: Session,
) -> str:
    """Returns the HTML of a result's report.

    Args:
        result: of the search.
        problem: of what goes to the host, None for a CPU.
        document: content of `mapping.json`.
        session: of the command.
    """
    sections = []
    if problem is not None and result.plan is not None:
        sections += _plan_sections(result, problem, document)
    sections.append(Section(title="XLA's heap, packed anew", components=_heap(result)))
    if len(result.history) > 1:
        sections.append(
            Section(title="Search", components=[_progress(result, problem)])
        )
    target = result.target.name if result.target else "cpu"
    return render_page(
        Page(
            title=problem.program.name if problem else result.located.path.name,
            subtitle=f"{target}, seed {session.flags.seed}",
            facts=_facts(result, problem),
            sections=sections,
            footer=f"{session.name} on {result.located.path.name}",
        )
    )


def _facts(result: "Result", problem: Problem | None) -> list[Fact]:
    facts = []
    if problem is not None and result.plan is not None:
        facts += [
            Fact(
                name="HBM of the plan", value=result.plan.peak, unit="B", emphasis=True
            ),
            Fact(name="budget", value=problem.budget, unit="B"),
            Fact(name="time", value=result.plan.plan.total, unit="s"),
            Fact(
                name="over the link in one run", value=result.plan.plan.moved, unit="B"
            ),
        ]
    return [
        *facts,
        Fact(name="XLA's peak", value=result.peaks["xla"], unit="B"),
        Fact(
            name="the same, packed anew",
            value=result.peaks["ours"],
            unit="B",
            emphasis=problem is None,
        ),
        Fact(name="alive at once", value=result.peaks["bound"], unit="B"),
    ]


def _plan_sections(
    result: "Result", problem: Problem, document: Mapping[str, Any]
) -> list[Section]:
    assert result.plan is not None
    program = problem.program
    axis = TimeAxis(label="logical time", names=[i.name for i in program.instructions])
    decisions: list[list[Cell]] = [
        [row["name"] or "", row["site"], row["kind"], row["bytes"], row["moved_bytes"]]
        for row in plans.summary(document)
    ]
    costs: list[list[Cell]] = [
        [name, cost] for name, cost in result.plan.baselines.items() if cost is not None
    ]
    first: list[Component] = [
        Table(
            columns=["plan", Column(name="time", unit="s")],
            rows=[*costs, ["handed over", result.plan.plan.total]],
            best=len(costs),
        )
    ]
    if decisions:
        first.append(
            Table(
                title="To the host",
                columns=[
                    "name",
                    "made at",
                    "kind",
                    Column(name="size", unit="B"),
                    Column(name="moved in one run", unit="B"),
                ],
                rows=decisions,
            )
        )
    if result.notes:
        first.append(Text(body="\n".join(result.notes)))
    memory: list[Component] = [
        _level(problem, result.plan, axis),
        SpaceTimeMap(
            title="HBM heap under the plan",
            axis=axis,
            layers=[
                Layer(
                    name="plan", rectangles=_largest(list(_plan_rectangles(document)))
                )
            ],
            note="Arguments and results that stay for the whole run lie outside this heap.",
        ),
        _link(problem, result.plan, axis),
    ]
    return [
        Section(title="Result", components=first),
        Section(title="Under the plan", components=memory),
    ]


def _plan_rectangles(document: Mapping[str, Any]) -> Iterator[Rectangle]:
    for entry in document["heap"]["rectangles"]:
        for start, end, size in entry["parts"]:
            yield Rectangle(
                label=entry["tensor"],
                start=start,
                end=end,
                offset=entry["offset"],
                size=size,
                category="staging" if entry["staging"] is not None else "tensor",
            )


def _level(problem: Problem, outcome: plans.Outcome, axis: TimeAxis) -> Line:
    x = list(range(len(problem.usage)))

    def series(name: str, level: NDArray[np.int64]) -> Series:
        return Series(name=name, x=x, y=[float(v) for v in level])

    return Line(
        title="Bytes alive in HBM",
        series=[
            series("everything in HBM", problem.usage),
            series("plan", usage(problem, outcome.plan)),
        ],
        references={"budget": float(problem.budget)},
        x_label=axis.label,
        y_label="bytes",
        y_unit="B",
    )


def _link(problem: Problem, outcome: plans.Outcome, axis: TimeAxis) -> Lanes:
    lanes: tuple[list[Interval], list[Interval]] = ([], [])
    for decision in outcome.plan.decisions:
        candidate = problem.candidates[decision.candidate]
        name = candidate.name or problem.program.buffers[candidate.buffer].name
        for copy in copies_of(problem, [decision]):
            lanes[copy.lane].append(
                Interval(
                    label=name,
                    start=copy.push,
                    end=max(copy.due, copy.push),
                    amount=candidate.size,
                    category=candidate.kind,
                )
            )
        for piece in candidate.slices:
            region = problem.program.regions[piece.region]
            inward = piece.lane == IN
            lanes[piece.lane].append(
                Interval(
                    label=f"{name}, a slice each trip",
                    start=region.start if inward else piece.time,
                    end=piece.time if inward else region.end,
                    amount=piece.bytes,
                    category=candidate.kind,
                )
            )
    return Lanes(
        title="Host link: from the start of a copy to where it is waited for",
        axis=axis,
        lanes=[
            Lane(name="to the device", intervals=lanes[0]),
            Lane(name="to the host", intervals=lanes[1]),
        ],
    )


def _heap(result: "Result") -> list[Component]:
    simple: list[list[Cell]] = [[name, size] for name, size in result.simple.items()]
    found: list[Component] = [
        Table(
            columns=["packing", Column(name="peak", unit="B")],
            rows=[
                ["XLA's buffer assignment", result.peaks["xla"]],
                *simple,
                ["handed over", result.peaks["ours"]],
                ["alive at once, at least", result.peaks["bound"]],
            ],
            best=1 + len(result.simple),
        )
    ]
    for heap in result.heaps:
        found.append(
            SpaceTimeMap(
                title=f"Allocation {heap.allocation.number}",
                axis=TimeAxis(
                    label="tick of the heap simulator",
                    group=f"heap {heap.allocation.number}",
                ),
                capacity=heap.bound,
                capacity_label="alive at once",
                layers=[
                    Layer(name="XLA", rectangles=_heap_rectangles(heap, heap.xla)),
                    Layer(
                        name=f"ours: {heap.ours.by}",
                        rectangles=_heap_rectangles(heap, heap.ours),
                    ),
                ],
            )
        )
    return found


def _heap_rectangles(heap: Heap, packing: Packing) -> list[Rectangle]:
    return _largest(
        [
            Rectangle(
                label=rectangle.names[0],
                start=part.start,
                end=part.end,
                offset=int(offset),
                size=part.size,
            )
            for rectangle, offset in zip(heap.rectangles, packing.offsets)
            for part in rectangle.parts
        ]
    )


def _largest(rectangles: list[Rectangle]) -> list[Rectangle]:
    return sorted(rectangles, key=lambda r: -r.size)[:_MOST_RECTANGLES]


def _progress(result: "Result", problem: Problem | None) -> Line:
    x, y = zip(*result.history, strict=True)
    return Line(
        title="Best so far",
        series=[Series(name="search", x=list(x), y=list(y))],
        x_label="evaluations",
        y_label="peak" if problem is None else "time",
        y_unit="B" if problem is None else "s",
    )
