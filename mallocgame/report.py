"""The page of one search: memory over time before and after, copies, costs, progress."""

from typing import TYPE_CHECKING

from compiler.hlo import tables
from mallocgame.instance import Problem
from mallocgame.mapping import Mapping
from mallocgame.verify import Verified, same_schedule
from solvers.command import Session
from solvers.report import (
    Bar,
    Bars,
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
    from mallocgame.result import Result

_MICRO = 1e6


def render(result: "Result", session: Session) -> str:
    """Returns the HTML of a result's report."""
    problem = result.problem
    program = problem.program
    axis = TimeAxis(label="logical time", names=[i.name for i in program.instructions])
    layers = _layers(result)
    memory = SpaceTimeMap(
        title="Fast memory over time",
        axis=axis,
        layers=layers,
        capacity=problem.capacity,
        categories=("NoCopy", "Copy", "compiler"),
    )
    sections = [
        Section(title="Result", components=_result_components(result)),
        Section(
            title="Fast memory",
            components=[memory, _copies(problem, result.mapping, axis)],
        ),
        Section(title="Where the time goes", components=[_costs(result)]),
    ]
    if len(result.history) > 1:
        sections.append(Section(title="Search", components=[_progress(result)]))
    return render_page(
        Page(
            title=program.name,
            subtitle=f"{result.target.name}, {len(problem.accesses)} decisions, "
            f"costs: {problem.costs.source}, seed {session.flags.seed}",
            facts=_facts(result),
            sections=sections,
            footer=f"{session.name} on {result.given.path.name}",
        )
    )


def _facts(result: "Result") -> list[Fact]:
    facts = []
    verified = result.verified()
    if verified is not None:
        gain = verified.baseline / verified.best
        facts.append(
            Fact(
                name="verified speed-up", value=round(gain, 4), unit="×", emphasis=True
            )
        )
        facts.append(Fact(name="compiler's own", value=verified.baseline, unit="s"))
        if result.chosen is not None and result.chosen.verified.decisions:
            facts.append(
                Fact(name="decisions honoured", value=f"{verified.honoured:.1%}")
            )
        facts.append(Fact(name="verified by", value=verified.by))
    else:
        facts.append(Fact(name="not verified", value="simulator only", emphasis=True))
    facts.append(Fact(name="handed over", value=result.best, unit="s"))
    if result.bound is not None:
        facts.append(Fact(name="lower bound", value=result.bound, unit="s"))
    return facts


def _result_components(result: "Result") -> list[Component]:
    named = [
        (name, value) for name, value in result.baselines.items() if value is not None
    ]
    rows = [*named, ("handed over", result.best)]
    if result.bound is not None:
        rows.append(("bound", result.bound))
    found: list[Component] = [
        Table(
            columns=["mapping", Column(name="time", unit="s")],
            rows=[[name, value] for name, value in rows],
            best=len(named),
        )
    ]
    columns, verified = result.verified_table()
    if verified:
        found.append(
            Table(title="Judged by the compiler", columns=list(columns), rows=verified)
        )
    if result.notes:
        found.append(Text(body="\n".join(result.notes)))
    return found


def _rectangles(problem: Problem, mapping: Mapping) -> list[Rectangle]:
    found = []
    for decision in mapping.fast():
        if decision.start is None or decision.end is None or decision.offset is None:
            continue
        access = problem.accesses[decision.access]
        buffer = problem.program.buffers[access.buffer]
        instruction = problem.program.instructions[access.end]
        why = "handed on" if decision.action == "NoCopy" else "prefetched"
        found.append(
            Rectangle(
                label=buffer.name,
                start=decision.start,
                end=decision.end + 1,
                offset=decision.offset,
                size=buffer.size,
                category=decision.action,
                details={
                    "for": instruction.name,
                    "decision": decision.action,
                    "why": why,
                    "saves µs": round(
                        float(problem.columns["saving"][decision.access]) * _MICRO, 3
                    ),
                    "uses": len(buffer.uses),
                },
            )
        )
    return found


def _layers(result: "Result") -> list[Layer]:
    """The maps to be compared: the compiler's own, and what the search came to."""
    problem, default, chosen = result.problem, result.default_verified, result.chosen
    layers = []
    # On another schedule (a knob changed it) its times are not those of this map.
    if default is not None and same_schedule(problem.program, default.compiled) is None:
        layers.append(_compilers_layer("the compiler's own", default, problem))
    if chosen is not None and chosen.mapping is None:
        name = f"handed over: {chosen.label}"
        layers.append(_compilers_layer(name, chosen.verified, problem))
    ours = (
        "handed over" if result.hand_over == "mapping" else "searched, not handed over"
    )
    layers.append(Layer(name=ours, rectangles=_rectangles(problem, result.mapping)))
    # Where nothing fits an empty map says so.
    return [layer for layer in layers if layer.rectangles] or layers[-1:]


def _compilers_layer(name: str, verified: Verified, problem: Problem) -> Layer:
    """The compiler's allocations, from its own tables; no rectangles if it wrote none."""
    files = verified.compiled.tables
    if not {"allocinfo", "bufferinfo"} <= files.keys():
        return Layer(name=name, rectangles=[])
    names = {
        row.buffer_id: row.name for row in tables.read_buffers(files["bufferinfo"])
    }
    last = len(problem.program.instructions)
    rectangles = [
        Rectangle(
            label=names.get(row.buffer_id, "cross-program prefetch"),
            start=max(row.start_time, 0),
            end=min(row.end_time + 1, last),
            offset=row.offset,
            size=row.size,
            category="compiler",
            details={"decision": "the compiler's"},
        )
        for row in tables.read_allocations(files["allocinfo"])
        if row.end_time >= row.start_time and row.start_time < last
    ]
    return Layer(name=name, rectangles=rectangles)


def _copies(problem: Problem, mapping: Mapping, axis: TimeAxis) -> Lanes:
    reads, writes = [], []
    for decision in mapping.fast():
        access = problem.accesses[decision.access]
        buffer = problem.program.buffers[access.buffer]
        if decision.copy_point is not None and not access.cross_program:
            reads.append(
                Interval(
                    label=buffer.name,
                    start=decision.copy_point,
                    end=max(access.time, decision.copy_point),
                    amount=buffer.size,
                    category="prefetch",
                )
            )
        if decision.evict_point is not None and decision.evict_due is not None:
            writes.append(
                Interval(
                    label=buffer.name,
                    start=decision.evict_point,
                    end=decision.evict_due,
                    amount=buffer.size,
                    category="write-back",
                )
            )
    return Lanes(
        title="Copies of the searched mapping",
        axis=axis,
        lanes=[
            Lane(name="slow to fast", intervals=reads),
            Lane(name="fast to slow", intervals=writes),
        ],
    )


def _costs(result: "Result") -> Bars:
    problem = result.problem
    costs, program = problem.costs, problem.program
    trip = costs.counts.trip_count
    saved = [0.0] * len(program.instructions)
    for decision in result.mapping.fast():
        access = problem.accesses[decision.access]
        saved[access.time] += float(problem.columns["saving"][decision.access])
    bars = []
    for instruction in program.instructions:
        t = instruction.time
        slow = float(costs.all_slow[t] * trip[t])
        if slow > 0:
            ours = float(max(costs.floor[t], costs.base[t] - saved[t]) * trip[t])
            bars.append(Bar(label=instruction.name, values=[slow, ours]))
    return Bars(
        title="Time by instruction, waits apart",
        series=["all in slow memory", "searched mapping"],
        bars=bars,
    )


def _progress(result: "Result") -> Line:
    x, y = zip(*result.history, strict=True)
    return Line(
        title="Best simulated time",
        series=[Series(name="search", x=list(x), y=list(y))],
        references={k: v for k, v in result.baselines.items() if v is not None}
        | ({} if result.bound is None else {"bound": result.bound}),
        x_label="simulator calls",
    )
