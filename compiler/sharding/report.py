"""What a search for a plan leaves for a person: the front, how arrays are cut, timelines; a page, and a Perfetto trace."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from compiler.cost import links, perfetto
from compiler.cost.lanes import lanes as figure
from compiler.sharding.candidates import Candidate
from compiler.sharding.equal import Checked
from compiler.sharding.explore import Found
from compiler.sharding.plan import Leaf, Plan
from solvers.command import Session, write_text
from solvers.report import (
    Column,
    Component,
    Fact,
    Layer,
    Line,
    Page,
    Rectangle,
    Section,
    Series,
    SpaceTimeMap,
    Table,
    TimeAxis,
)
from solvers.report import render as render_page
from solvers.report.components import Cell

_PICTURES = 12  # Arrays that are drawn, the largest; a layer's repetitions once.
_MIB = 1 << 20


def write(
    session: Session,
    found: Found,
    compiled: Sequence[Candidate],
    shown: Sequence[Candidate],
    best: Candidate,
    front: Sequence[Candidate],
    checked: Sequence[Checked],
) -> dict[str, Path]:
    """Writes `report.html`, and `trace.json` of the best plan's compiled timeline."""
    page = _page(session, found, shown, best, front, checked)
    written = {"report": write_text(session.out / "report.html", render_page(page))}
    if best.judged:
        prices = links.of_topology(best.judged.compiled.topology)
        path = session.out / "trace.json"
        perfetto.write(best.judged.timeline.events, prices.clock_hz, path)
        written["trace"] = path
    return written


def words(one: Candidate) -> str:
    """Returns the cuts of a plan: classes, or arguments one by one, and the axes that each is cut over."""
    if one.plan is None:
        return ""
    sizes = dict(one.plan.mesh)
    cuts = [
        f"{cut.name} over {' '.join(f'{axis}{sizes[axis]}' for axis, _ in cut.axes)}"
        for cut in one.plan.cuts
    ]
    if not cuts:
        cuts = [
            f"{leaf.path}.{number} over {' '.join(f'{axis}{sizes[axis]}' for axis in axes)}"
            for leaf in one.plan.inputs
            for number, axes in enumerate(leaf.spec)
            if axes
        ]
    return ", ".join(cuts) or "nothing"


def _time(one: Candidate) -> float:
    return one.cycles if one.judged else one.predicted


def _page(
    session: Session,
    found: Found,
    shown: Sequence[Candidate],
    best: Candidate,
    front: Sequence[Candidate],
    checked: Sequence[Checked],
) -> Page:
    assert best.plan is not None
    by_hand = [one for one in shown if one.by_hand and math.isfinite(_time(one))]
    reference = min(by_hand, key=_time, default=best)
    sections = [
        Section(title="Result", components=[_plans(shown, best)]),
        Section(
            title="Memory against time",
            components=[_front(shown, front)],
            note="each step of the front is a plan in the folder front; plans by hand are reference lines",
        ),
        Section(
            title="How arrays are cut",
            components=[_cuts(best.plan), *_pictures(best.plan)],
            note="each rectangle is what one device holds, or several that hold the same",
        ),
    ]
    timed = [reference, best] if best is not reference else [best]
    lanes: list[Component] = [
        figure(one.name, one.judged.timeline) for one in timed if one.judged
    ]
    if lanes:
        sections.append(
            Section(
                title="Timelines",
                components=lanes,
                note="streams over time; hatched: the computation waits",
            )
        )
    if found.history:
        x, y = zip(*found.history, strict=True)
        name = session.flags.strategy
        sections.append(
            Section(
                title="Search on the model",
                components=[
                    Line(
                        series=[Series(name=name, x=list(x), y=list(y))],
                        y_unit="cycles",
                        references={one.name: one.predicted for one in by_hand},
                    )
                ],
            )
        )
    mesh = " × ".join(f"{name}{size}" for name, size in best.plan.mesh)
    return Page(
        title=f"{getattr(session.flags, 'input', '')} on {getattr(session.flags, 'topology', '')}",
        subtitle=f"mesh {mesh}, handed over: {best.name}; {_equality(checked)}",
        facts=[
            Fact(
                name="speed-up",
                value=round(_time(reference) / _time(best), 3),
                unit="×",
                emphasis=True,
            ),
            Fact(name=reference.name, value=round(_time(reference)), unit="cycles"),
            Fact(name=best.name, value=round(_time(best)), unit="cycles"),
            Fact(name="arguments", value=round(best.arguments * _MIB), unit="B"),
        ],
        sections=sections,
        footer=session.name,
    )


def _equality(checked: Sequence[Checked]) -> str:
    if checked and all(one.equal for one in checked):
        what = "smaller arrays" if checked[0].on == "small" else "virtual CPU devices"
        return f"computes the same ({what})"
    reason = next((one.reason for one in checked if one.reason), "not asked for")
    return f"results not compared: {reason}"


def _plans(shown: Sequence[Candidate], best: Candidate) -> Table:
    rows: list[list[Cell]] = []
    for one in shown:
        judged = one.judged
        rows.append(
            [
                one.name,
                round(one.predicted),
                round(judged.timeline.total) if judged else None,
                round(judged.timeline.exposed) if judged else None,
                round(one.arguments * _MIB),
                judged.compiled.memory.total if judged else None,
                words(one),
                one.failure or None,
            ]
        )
    return Table(
        title="Plans",
        columns=[
            "plan",
            Column(name="model", unit="cycles"),
            Column(name="compiled", unit="cycles"),
            Column(name="waiting for collectives", unit="cycles"),
            Column(name="arguments", unit="B"),
            Column(name="memory", unit="B"),
            "cuts",
            "failure",
        ],
        rows=rows,
        best=next(k for k, one in enumerate(shown) if one is best),
        note="cycles and bytes of one device: by the model, and as the compiler schedules it",
    )


def _front(shown: Sequence[Candidate], front: Sequence[Candidate]) -> Line:
    ordered = sorted(front, key=lambda one: one.arguments)
    known = [one for one in shown if math.isfinite(_time(one))]
    return Line(
        series=[
            Series(
                name="front",
                x=[one.arguments for one in ordered],
                y=[_time(one) for one in ordered],
            )
        ],
        title="Front",
        x_label="arguments",
        x_unit="MiB",
        y_label="time",
        y_unit="cycles",
        references={one.name: _time(one) for one in known if one.by_hand},
    )


def _cuts(plan: Plan) -> Table:
    sizes = dict(plan.mesh)
    rows: list[list[Cell]] = []
    for what, leaves in (("argument", plan.inputs), ("result", plan.outputs)):
        for leaf in leaves:
            held = math.prod(leaf.shape) // _parts(leaf, sizes)
            rows.append(
                [
                    what,
                    leaf.path,
                    " × ".join(map(str, leaf.shape)) or "number",
                    " × ".join("·".join(axes) or "-" for axes in leaf.spec) or None,
                    held,
                ]
            )
    return Table(
        title="Arguments and results",
        columns=["", "array", "shape", "axes", "elements of one device"],
        rows=rows,
    )


def _parts(leaf: Leaf, sizes: dict[str, int]) -> int:
    return math.prod(sizes[axis] for axes in leaf.spec for axis in axes)


def _pictures(plan: Plan) -> list[Component]:
    """Returns pictures of the largest arguments: their first and second dimension that are cut, or are long."""
    leaves = [leaf for leaf in plan.inputs if leaf.shape and max(leaf.shape) > 1]
    leaves.sort(key=lambda leaf: -math.prod(leaf.shape))
    different = {(leaf.shape, leaf.spec): leaf for leaf in reversed(leaves)}
    chosen = [leaf for leaf in leaves if leaf in different.values()]
    return [_picture(plan, leaf) for leaf in chosen[:_PICTURES]]


def _picture(plan: Plan, leaf: Leaf) -> SpaceTimeMap:
    sizes = dict(plan.mesh)
    order = sorted(
        range(len(leaf.shape)), key=lambda i: (not leaf.spec[i], -leaf.shape[i])
    )
    across, *rest = sorted(order[:2])
    down = rest[0] if rest else None
    others = [i for i in order[2:] if leaf.spec[i]]
    seen = [across, *([down] if down is not None else [])]
    axes = [axis for i in seen for axis in leaf.spec[i]]
    rectangles = []
    for place in itertools.product(*(range(sizes[axis]) for axis in axes)):
        at = dict(zip(axes, place))
        left, width = _slice(leaf, across, at, sizes)
        top, height = (0, 1) if down is None else _slice(leaf, down, at, sizes)
        name = " ".join(f"{axis}={at[axis]}" for axis in axes) or "all devices"
        rectangles.append(
            Rectangle(
                label=name,
                start=left,
                end=left + width,
                offset=top,
                size=height,
                category=name,
            )
        )
    held = math.prod(leaf.shape) // _parts(leaf, sizes)
    also = f", and dimension {others[0]} cut as well" if others else ""
    return SpaceTimeMap(
        title=f"{leaf.path} ({' × '.join(map(str, leaf.shape))})",
        note=f"{held:,} elements on each device{also}",
        layers=[Layer(name="devices", rectangles=rectangles)],
        axis=TimeAxis(label=f"dimension {across}", group=leaf.path),
        offset_label="" if down is None else f"dimension {down}",
        offset_unit="",
        size_label="elements",
    )


def _slice(
    leaf: Leaf, dim: int, at: dict[str, int], sizes: dict[str, int]
) -> tuple[int, int]:
    """Returns where a device's part of a dimension begins, and how long it is; the first axis is major."""
    index, parts = 0, 1
    for axis in leaf.spec[dim]:
        index = index * sizes[axis] + at[axis]
        parts *= sizes[axis]
    width = leaf.shape[dim] // parts
    return index * width, width
