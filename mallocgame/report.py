"""The page of one search: memory over time before and after, bandwidth, copies, costs, progress."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mallocgame import picture, timeline
from mallocgame.account import Account, account
from mallocgame.instance import Problem
from mallocgame.mapping import Mapping
from mallocgame.verify import same_schedule
from solvers.command import Session, write_bytes, write_text
from solvers.report import (
    Bar,
    Bars,
    Cell,
    Column,
    Component,
    Fact,
    Line,
    Page,
    Section,
    Series,
    Table,
    Text,
    can_png,
    to_png,
    to_svg,
)
from solvers.report import render as render_page

if TYPE_CHECKING:
    from mallocgame.result import Result

_SHOWN = 16  # Instructions of a breakdown; the rest is summed.
_SHOWN_DROPPED = 12
_ROUNDING = 1e-6  # Of a program's time.
_NAMES = {
    "all_slow": "everything in slow memory",
    "msa": "XLA's heuristic, re-implemented",
    "greedy": "greedy in program order",
    "xla": "the compiler's own",
}
_OURS = "searched mapping"


def write(result: "Result", session: Session) -> dict[str, Path]:
    """Writes the page, the map alone as a picture, and a trace; returns their paths by kind."""
    problem, ours = result.problem, account(result.problem, result.mapping)
    accounts = [(_OURS, ours)]
    peer = result.heuristic
    # Of another schedule's accesses it is no peer.
    if peer is not None and len(peer.decisions) == len(problem.accesses):
        accounts.insert(0, (_NAMES["msa"], account(problem, peer)))
    else:
        peer = None
    chart = picture.memory(problem, _layers(result, peer, accounts))
    lanes = picture.copies(problem, result.mapping, ours)
    line = timeline.timeline(problem, lanes, ours)
    over_time: list[Component] = [timeline.bandwidth(problem, accounts), line]
    page = _page(result, session, [chart, lanes], over_time, accounts)
    out = session.out
    written = {
        "report": write_text(out / "report.html", render_page(page)),
        "map": write_text(out / "map.svg", to_svg(chart)),
        "trace": write_text(
            out / "trace.json",
            timeline.trace(chart, line, ours, problem.program.name),
        ),
    }
    if can_png():
        written["picture"] = write_bytes(out / "map.png", to_png(chart))
    return written


def _page(
    result: "Result",
    session: Session,
    figures: Sequence[Component],
    over_time: Sequence[Component],
    accounts: list[tuple[str, Account]],
) -> Page:
    problem = result.problem
    sections = [
        Section(title="Result", components=_result_components(result)),
        Section(
            title="Fast memory",
            components=[*figures, *_dropped(problem, result.mapping)],
        ),
        Section(
            title="Where the time goes",
            note="As simulated, in one run of the program: an instruction's time by its executions.",
            components=[*over_time, *_costs(problem, accounts)],
        ),
    ]
    if len(result.history) > 1:
        sections.append(Section(title="Search", components=[_progress(result)]))
    return Page(
        title=problem.program.name,
        subtitle=f"{result.target.name}, {len(problem.accesses)} decisions, "
        f"costs: {problem.costs.source}, seed {session.flags.seed}",
        facts=_facts(result),
        sections=sections,
        footer=f"{session.name} on {result.given.path.name}",
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
        facts.append(Fact(name=_NAMES["xla"], value=verified.baseline, unit="s"))
        if result.chosen is not None and result.chosen.verified.decisions:
            facts.append(
                Fact(name="decisions honoured", value=f"{verified.honoured:.1%}")
            )
        facts.append(Fact(name="verified by", value=verified.by))
    else:
        facts.append(
            Fact(name="not verified by a compiler", value="simulated", emphasis=True)
        )
    facts.append(Fact(name="handed over", value=result.best, unit="s", emphasis=True))
    default = result.baselines.get(result.default)
    if verified is None and default is not None:
        facts.append(Fact(name=_NAMES[result.default], value=default, unit="s"))
    if result.bound is not None:
        facts.append(Fact(name="lower bound", value=result.bound, unit="s"))
    return facts


def _result_components(result: "Result") -> list[Component]:
    named = [
        (_NAMES.get(name, name), value)
        for name, value in result.baselines.items()
        if value is not None
    ]
    rows = [*named, ("handed over", result.best)]
    if result.bound is not None:
        rows.append(("proved lower bound", result.bound))
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


def _layers(
    result: "Result", peer: Mapping | None, accounts: list[tuple[str, Account]]
) -> list[picture.Layer]:
    """The maps to be compared: the compiler's own or its heuristic, and what the search came to."""
    problem, default, chosen = result.problem, result.default_verified, result.chosen
    layers = []
    # On another schedule (a knob changed it) its times are not those of this map.
    if default is not None and same_schedule(problem.program, default.compiled) is None:
        layers.append(picture.compilers_layer(_NAMES["xla"], default, problem))
    if chosen is not None and chosen.mapping is None:
        name = f"handed over: {chosen.label}"
        layers.append(picture.compilers_layer(name, chosen.verified, problem))
    layers = [layer for layer in layers if layer.rectangles]
    if not layers and peer is not None:
        layers.append(picture.layer(_NAMES["msa"], problem, peer, accounts[0][1]))
    handed_over = result.hand_over == "mapping"
    ours = "handed over" if handed_over else "searched, not handed over"
    layers.append(picture.layer(ours, problem, result.mapping, accounts[-1][1]))
    # Where nothing fits an empty map says so.
    return [layer for layer in layers if layer.rectangles] or layers[-1:]


def _dropped(problem: Problem, mapping: Mapping) -> list[Component]:
    """What stays in slow memory although fast memory would save time, the most first."""
    trip = problem.costs.counts.trip_count
    lost: dict[int, float] = {}
    for decision in mapping.decisions:
        access = problem.accesses[decision.access]
        saving = float(problem.columns["saving"][decision.access] * trip[access.time])
        if decision.action == "Drop" and saving > 0:
            lost[access.buffer] = lost.get(access.buffer, 0.0) + saving
    worst = sorted(lost, key=lambda number: -lost[number])[:_SHOWN_DROPPED]
    if not worst:
        return []
    rows: list[list[Cell]] = []
    for number in worst:
        buffer = problem.program.buffers[number]
        rows.append([buffer.name, buffer.size, len(buffer.uses), lost[number]])
    return [
        Table(
            title="Left in slow memory",
            note="What fast memory would save if it had room and copies were free, the largest first.",
            columns=[
                "value",
                Column(name="size", unit="B"),
                "uses",
                Column(name="would save", unit="s"),
            ],
            rows=rows,
        )
    ]


def _costs(problem: Problem, accounts: list[tuple[str, Account]]) -> list[Component]:
    names = [instruction.name for instruction in problem.program.instructions]
    trip = accounts[-1][1].trip
    slow = float((problem.costs.all_slow * trip).sum())
    rows: list[list[Cell]] = [[_NAMES["all_slow"], slow, 0.0, slow, 0, 0]]
    rows += [[name, *_sums(problem, one)] for name, one in accounts]
    found: list[Component] = [
        Table(
            title="In all",
            columns=[
                "mapping",
                Column(name="instructions", unit="s"),
                Column(name="waits", unit="s"),
                Column(name="together", unit="s"),
                Column(name="copied in", unit="B"),
                Column(name="copied out", unit="B"),
            ],
            rows=rows,
        )
    ]
    if len(accounts) == 2:
        before, after = (one.span * one.trip for _, one in accounts)
        if not np.allclose(before, after, atol=_ROUNDING * slow):
            found.append(
                Bars(
                    title="Instructions that differ most, waits included",
                    label="instruction",
                    series=[name for name, _ in accounts],
                    bars=_bars(names, before, after),
                    top=_SHOWN,
                    by_change=True,
                )
            )
    ours = accounts[-1][1]
    floor = (ours.floor * trip).clip(max=ours.elapsed * trip)
    moving = (ours.elapsed * trip - floor).clip(min=0)
    found.append(
        Bars(
            title="What the searched mapping's time consists of",
            note="Arithmetic is what no placement shortens.",
            label="instruction",
            series=["arithmetic", "data beyond it", "waiting for copies"],
            bars=_bars(names, floor, moving, ours.waits * trip),
            top=_SHOWN,
        )
    )
    return found


def _sums(problem: Problem, one: Account) -> list[float]:
    rate = problem.costs.target.slow_bandwidth
    instructions = float((one.elapsed * one.trip).sum())
    waits = float((one.waits * one.trip).sum())
    reads, writes = (
        round(float((column * one.trip).sum()) * rate)
        for column in (one.reads, one.writes)
    )
    return [instructions, waits, one.total, reads, writes]


def _bars(names: list[str], *columns: NDArray[np.float64]) -> list[Bar]:
    return [
        Bar(label=name, values=[float(value) for value in values])
        for name, *values in zip(names, *columns, strict=True)
        if any(value > 0 for value in values)
    ]


def _progress(result: "Result") -> Line:
    x, y = zip(*result.history, strict=True)
    references = {
        _NAMES.get(name, name): value
        for name, value in result.baselines.items()
        if value is not None and name != "all_slow"
    }
    return Line(
        title="Best simulated time",
        note="With a compiler in the loop costs are corrected from round to round, so the curve may rise.",
        series=[Series(name="search", x=list(x), y=list(y))],
        references=references
        | ({} if result.bound is None else {"lower bound": result.bound}),
        x_label="simulator calls",
        y_label="best",
    )
