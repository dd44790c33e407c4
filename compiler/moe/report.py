"""What a search for a plan leaves for a person: timelines as a page and for Perfetto."""

from pathlib import Path

from compiler.cost import links, perfetto
from compiler.cost.lanes import lanes as figure
from compiler.moe.explore import CLOSED_FORM, DEFAULT, Candidate, Simulated
from compiler.moe.machine import Setting
from compiler.moe.program import Passes
from solvers.command import Session, write_text
from solvers.report import (
    Column,
    Component,
    Fact,
    Line,
    Page,
    Section,
    Series,
    Table,
)
from solvers.report import render as render_page


def write(
    session: Session,
    setting: Setting,
    found: Simulated,
    compiled: list[Candidate],
    best: Candidate,
    passes: Passes,
) -> dict[str, Path]:
    """Writes `report.html`, and `trace.json` of the best plan's compiled timeline."""
    page = _page(session, setting, found, compiled, best, passes)
    written = {"report": write_text(session.out / "report.html", render_page(page))}
    if best.judged:
        prices = links.of_topology(best.judged.compiled.topology)
        path = session.out / "trace.json"
        perfetto.write(best.judged.timeline.events, prices.clock_hz, path)
        written["trace"] = path
    return written


def _page(
    session: Session,
    setting: Setting,
    found: Simulated,
    compiled: list[Candidate],
    best: Candidate,
    passes: Passes,
) -> Page:
    shown = compiled or list(found.candidates.values())
    table = Table(
        title="Plans",
        columns=[
            "plan",
            Column(name="simulated", unit="cycles"),
            Column(name="compiled", unit="cycles"),
            Column(name="waiting for exchanges", unit="cycles"),
            "experts over",
            "cut over",
            "exchange",
            "chunks there",
            "chunks back",
        ],
        rows=[
            [
                one.name,
                round(one.simulated),
                round(one.cycles) if one.judged else None,
                round(one.judged.timeline.exposed) if one.judged else None,
                " ".join(one.plan.expert_axes) or None,
                " ".join(one.plan.shard_axes) or None,
                one.plan.exchange,
                " ".join(map(str, one.plan.forward.chunks)),
                " ".join(map(str, one.plan.backward.chunks)),
            ]
            for one in shown
        ],
        best=next(k for k, one in enumerate(shown) if one.genes == best.genes),
        note="cycles of one device: simulated before compiling, and as the compiler schedules them",
    )
    sections = [Section(title="Result", components=[table])]
    lanes: list[Component] = [
        figure(one.name, one.judged.timeline)
        for one in (shown[0], best)
        if one.judged and (one is best or one.genes != best.genes)
    ]
    if lanes:
        sections.append(
            Section(
                title="Timelines",
                components=lanes,
                note="streams over time; hatched: the computation waits",
            )
        )
    x, y = zip(*found.history, strict=True)
    sections.append(
        Section(
            title="Search in the simulation",
            components=[
                Line(
                    series=[Series(name=session.flags.strategy, x=list(x), y=list(y))],
                    y_unit="cycles",
                    references={
                        name: found.candidates[name].simulated
                        for name in (DEFAULT, CLOSED_FORM)
                        if name in found.candidates
                    },
                )
            ],
        )
    )
    first = shown[0]
    before, after = (
        (first.cycles, best.cycles)
        if best.judged and first.judged
        else (first.simulated, best.simulated)
    )
    return Page(
        title=f"{setting.layers} expert layers on {' × '.join(str(n) for _, n in setting.mesh)} {setting.generation}",
        subtitle=f"{'forward pass' if passes == 'forward' else 'both passes'}, handed over: {best.name}",
        facts=[
            Fact(
                name="speed-up", value=round(before / after, 3), unit="×", emphasis=True
            ),
            Fact(name=first.name, value=round(before), unit="cycles"),
            Fact(name=best.name, value=round(after), unit="cycles"),
        ],
        sections=sections,
        footer=session.name,
    )
