"""Figures of a mapping over simulated seconds: bandwidth, instructions and waits, and a trace of them."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mallocgame.account import Account
from mallocgame.instance import Problem
from mallocgame.picture import (
    CATEGORIES,
    INSTRUCTION,
    LEAST_WAIT,
    PREFETCHED,
    UNITS,
    WAITING,
    WRITTEN_BACK,
)
from solvers.report import (
    Cell,
    Interval,
    Lane,
    Lanes,
    Layer,
    Rectangle,
    SpaceTimeMap,
    TimeAxis,
    to_trace,
)

# Figures over simulated seconds zoom together.
_AXIS = TimeAxis(label="time", unit="s", group="seconds")
_UNITS = {
    **UNITS,
    "takes": "s",
    "waits": "s",
    "of it arithmetic": "s",
    "size": "B",
}
# Of the bandwidth: less can't be seen.
_LEAST_SHARE = 2e-3


def bandwidth(
    problem: Problem, accounts: Sequence[tuple[str, Account]]
) -> SpaceTimeMap:
    """Returns who has the slow memory's bandwidth, over simulated seconds."""
    return SpaceTimeMap(
        title="Slow memory's bandwidth",
        note="What instructions read and write there themselves, and copies: the mean over each instruction and the waits "
        "around it. Where there is room below the line, the program is bound by something else.",
        axis=_AXIS,
        layers=[
            Layer(name=name, rectangles=[*_loads(problem, account)])
            for name, account in accounts
        ],
        capacity=problem.costs.target.slow_bandwidth,
        capacity_label="all of it",
        offset_unit="B/s",
        size_label="bandwidth",
        is_stack=True,
        categories=CATEGORIES,
        detail_units=_UNITS,
    )


def _loads(problem: Problem, account: Account) -> Iterator[Rectangle]:
    peak = problem.costs.target.slow_bandwidth
    columns = (account.own, account.reads, account.writes)
    categories = (INSTRUCTION, PREFETCHED, WRITTEN_BACK)
    span, waits = account.span, account.waits
    edge = _edges(account)
    for time, instruction in enumerate(problem.program.instructions):
        if span[time] <= 0:
            continue
        level = 0.0
        for column, category in zip(columns, categories, strict=True):
            share = min(float(column[time] / span[time]), 1.0)
            if share < _LEAST_SHARE:
                continue
            yield Rectangle(
                label=instruction.name,
                start=float(edge[time]),
                end=float(edge[time + 1]),
                offset=level,
                size=share * peak,
                category=category,
                details={
                    "share": f"{share:.1%}",
                    "takes": float(account.elapsed[time]),
                    "waits": float(waits[time]) or None,
                    "logical time": time,
                    "runs": int(account.trip[time]),
                },
            )
            level += share * peak


def timeline(problem: Problem, lanes: Lanes, account: Account) -> Lanes:
    """Returns instructions, waits and copies over simulated seconds; loop bodies once, as on the schedule.

    Args:
        problem: the problem.
        lanes: made by `copies`.
        account: of the same mapping.
    """
    edge = _edges(account)

    def at(time: float) -> float:
        return float(edge[int(np.clip(time, 0, len(edge) - 1))])

    running, waiting = [], []
    for time, instruction in enumerate(problem.program.instructions):
        begin = at(time) + float(account.wait[time])
        end = begin + float(account.elapsed[time])
        details: dict[str, Cell] = {
            "logical time": time,
            "runs": int(account.trip[time]),
            "of it arithmetic": min(
                float(account.floor[time]), float(account.elapsed[time])
            ),
        }
        if end > begin:
            running.append(
                Interval(
                    label=instruction.name,
                    start=begin,
                    end=end,
                    amount=end - begin,
                    category=INSTRUCTION,
                    details=details,
                )
            )
        for start, stop in ((at(time), begin), (end, at(time + 1))):
            if stop - start > LEAST_WAIT * account.total:
                waiting.append(
                    Interval(
                        label=instruction.name,
                        start=start,
                        end=stop,
                        amount=stop - start,
                        category=WAITING,
                        details=details,
                    )
                )
    copying = [
        Lane(
            name=lane.name,
            intervals=[
                dataclasses.replace(
                    i,
                    start=at(i.start),
                    end=at(i.end),
                    amount=at(i.end) - at(i.start),
                    wait=None,
                    details={"size": i.amount, **i.details},
                )
                for i in lane.intervals
            ],
        )
        for lane in lanes.lanes
        if lane.name != WAITING
    ]
    return Lanes(
        title="Timeline of the searched mapping",
        note="Simulated. Copies are drawn from where they may start to where they are needed.",
        lanes=[
            Lane(name="instructions", intervals=running),
            Lane(name=WAITING, intervals=waiting),
            *copying,
        ],
        axis=_AXIS,
        amount_label="length",
        amount_unit="s",
        wait_label="",
        categories=CATEGORIES,
        detail_units=_UNITS,
    )


def trace(chart: SpaceTimeMap, line: Lanes, account: Account, process: str) -> str:
    """Returns a Perfetto trace: a timeline's lanes, and fast memory in use.

    Args:
        chart: made by `memory`.
        line: made by `timeline`.
        account: of the mapping that `line` shows; layers of the map are laid on its seconds.
        process: the name that the viewer shows.
    """
    edge = _edges(account)

    def at(time: float) -> float:
        return float(edge[int(np.clip(time, 0, len(edge) - 1))])

    layers = [
        Layer(
            name=shown.name,
            rectangles=[
                dataclasses.replace(r, start=at(r.start), end=at(r.end))
                for r in shown.rectangles
            ],
        )
        for shown in chart.layers
    ]
    in_use = dataclasses.replace(chart, axis=_AXIS, layers=layers)
    return to_trace(lanes=[line], maps=[in_use], process=process)


def _edges(account: Account) -> NDArray[np.float64]:
    """Returns when each instruction begins to be waited for, in seconds, and the end."""
    return np.concatenate([[0.0], np.cumsum(account.span)])
