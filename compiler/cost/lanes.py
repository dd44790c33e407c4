"""A timeline as a figure of a report: a lane for the computation and one for each group of links."""

from collections.abc import Iterable, Sequence

from compiler.cost.timeline import COMPUTE, Event, Timeline
from solvers.report import Interval, Lane, Lanes, TimeAxis

# Of the whole: shorter events can't be seen, and there are thousands.
_LEAST_SHARE = 2e-4


def lanes(title: str, found: Timeline) -> Lanes:
    """Returns the figure, what is waited for marked at the end of each collective."""
    least = _LEAST_SHARE * found.total
    streams = [COMPUTE, *sorted({e.stream for e in found.events} - {COMPUTE})]
    return Lanes(
        title=title,
        lanes=[
            Lane(name=stream, intervals=list(_intervals(found.events, stream, least)))
            for stream in streams
        ],
        axis=TimeAxis(unit="cycles", group="cycles"),
        amount_label="cycles",
        amount_unit="cycles",
        categories=sorted({event.kind for event in found.events}),
    )


def _intervals(
    events: Sequence[Event], stream: str, least: float
) -> Iterable[Interval]:
    for event in events:
        if event.stream == stream and event.end - event.start >= least:
            waited = min(event.exposed, event.end - event.start)
            yield Interval(
                label=event.name,
                start=event.start,
                end=event.end,
                amount=event.end - event.start,
                wait=(event.end - waited, event.end) if waited else None,
                category=event.kind,
            )
