"""How long a scheduled multi-chip program takes: computing, and waiting for collectives.

One pass over the entry computation in schedule order. Instructions add the cycles that the compiler estimates for them.
A collective that is started queues for its links; who waits for it waits until it has passed them; one that is not
started apart is waited for at once. The same for collectives in fusions: those that start or end a transfer
(AsyncCollectiveStart, AsyncCollectiveDone), and those that are a reduce-scatter (an all-reduce and a slice).

Not counted: waiting for copies between memories, what a transfer and a computation cost each other, instructions
without an estimate.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from compiler.cost.links import Links, price
from compiler.hlo import Computation, Module, Node
from compiler.hlo.collectives import Collective, Groups, collective, groups, inside
from compiler.hlo.collectives import kind_of as collective_kind
from compiler.hlo.estimates import estimated_cycles
from compiler.hlo.loops import trip_count
from compiler.hlo.schedule import UNKNOWN_TRIP_COUNT

LinkModel = Literal["one", "per-axis"]

COMPUTE = "compute"
# What a value in flight is handed on through between its start and its end.
_HANDED = frozenset(
    {"get-tuple-element", "tuple", "bitcast", "fusion", "async-update", "copy"}
)


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something that takes time.

    Attributes:
        name: of the instruction; the trips of a loop behind the first are one event, `NAME x TRIPS`.
        kind: of collective, such as `"all-gather"`; else the opcode.
        stream: `"compute"`, or the links: `"links"`, or `"axis 0"`, `"axes 0, 1"`.
        start: in cycles; a collective's when it has the links.
        end: in cycles.
        exposed: cycles that the computation waits for it.
    """

    name: str
    kind: str
    stream: str
    start: float
    end: float
    exposed: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timeline:
    """What one run of a program on one device is predicted to take, in cycles.

    Attributes:
        total: of the run, compute + exposed.
        compute: the sum of estimated cycles.
        exposed: waiting for collectives.
        communication: the sum of the collectives' own times, hidden or not.
        events: in order of the schedule.
        unknown_loops: loops that do not say how often they run; they are taken to run 5 times.
    """

    total: float
    compute: float
    exposed: float
    communication: float
    events: tuple[Event, ...]
    unknown_loops: tuple[str, ...] = ()


def simulate(
    module: Module,
    links: Links,
    *,
    latency: float = 0.0,
    link_model: LinkModel = "one",
    coordinates: Sequence[Sequence[int]] = (),
    all_reduce_dimensions: int = 1,
) -> Timeline:
    """Returns the timeline of a compiled, scheduled module (`Compiled.module`).

    Args:
        module: the final module of a TPU compile, with estimates.
        links: of its generation.
        latency: cycles that each collective takes besides its bytes.
        link_model: whether all collectives share one link ("one"), or only those along the same axis ("per-axis").
        coordinates: of each partition, for "per-axis": `Compiled.coordinates`, or those in a mesh whose axes are
            taken to be axes of the torus (`grid`).
        all_reduce_dimensions: over how many axes at once an all-reduce runs at most. 1 is the ring that the compiler
            emits on v5e:2x4; its scheduler prices as many as there are.

    Raises:
        ValueError: "per-axis" without coordinates, or not those of this program.
    """
    if link_model == "per-axis" and not coordinates:
        raise ValueError('link_model "per-axis" needs the partitions\' coordinates')
    places = tuple(map(tuple, coordinates))
    rules = _Rules(links, latency, link_model, places, all_reduce_dimensions)
    state = _State()
    _run(module.entry, state, rules)
    return Timeline(
        total=state.time,
        compute=state.compute,
        exposed=state.exposed,
        communication=state.communication,
        events=tuple(state.events),
        unknown_loops=tuple(dict.fromkeys(state.unknown_loops)),
    )


def grid(shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Returns the coordinates of each partition in a mesh of this shape, last axis fastest."""
    rows: list[tuple[int, ...]] = [()]
    for size in shape:
        rows = [(*row, i) for row in rows for i in range(size)]
    return tuple(rows)


@dataclasses.dataclass(frozen=True)
class _Rules:
    links: Links
    latency: float
    link_model: LinkModel
    coordinates: tuple[tuple[int, ...], ...]
    all_reduce_dimensions: int


@dataclasses.dataclass
class _State:
    """The clock, and what is under way.

    Attributes:
        free: when each link is free again.
        flying: by instruction that started it, when a collective has passed and where its event is.
    """

    time: float = 0.0
    compute: float = 0.0
    exposed: float = 0.0
    communication: float = 0.0
    free: dict[str, float] = dataclasses.field(default_factory=dict)
    flying: dict[Node, tuple[float, int]] = dataclasses.field(default_factory=dict)
    events: list[Event] = dataclasses.field(default_factory=list)
    unknown_loops: list[str] = dataclasses.field(default_factory=list)

    def copy(self) -> "_State":
        return dataclasses.replace(
            self,
            free=dict(self.free),
            flying=dict(self.flying),
            events=list(self.events),
            unknown_loops=list(self.unknown_loops),
        )


def _run(computation: Computation, state: _State, rules: _Rules) -> None:
    for node in computation.nodes:
        _step(node, state, rules)


def _step(node: Node, state: _State, rules: _Rules) -> None:
    if node.opcode == "while":
        _loop(node, state, rules)
        return
    if node.opcode == "conditional":
        _branch(node, state, rules)
        return
    if node.opcode == "call":
        for called in node.runs:
            _run(called, state, rules)
        return
    if node.opcode == "async-start":
        for moved in _wrapped(node):
            _start(node, moved, state, rules)
        return
    found = collective_kind(node.opcode)
    if node.opcode == "async-done" or (found and found[1] == "done"):
        _wait(node, state)
        return
    if found and (moved := collective(node)):
        _start(node, moved, state, rules)
        if found[1] == "whole":
            _wait_for(node, state)
        return
    _compute(node, state, rules)


def _compute(node: Node, state: _State, rules: _Rules) -> None:
    """Runs an instruction that may be a fusion around collectives."""
    moved = inside(node)
    for phase, part in moved:
        if phase == "done":
            _wait(node, state)
        elif phase == "whole":
            _start(node, part, state, rules)
            _wait_for(node, state)
    cycles = estimated_cycles(node)
    if cycles:
        end = state.time + cycles
        state.events.append(Event(node.name, node.opcode, COMPUTE, state.time, end))
        state.time = end
        state.compute += cycles
    for phase, part in moved:
        if phase == "start":
            _start(node, part, state, rules)


def _wrapped(node: Node) -> list[Collective]:
    """Returns the collectives in what an async-start calls; slices and other cores' work have none."""
    nodes = [inner for called in node.called for inner in called.nodes]
    return [moved for inner in nodes if (moved := collective(inner))]


def _start(node: Node, moved: Collective, state: _State, rules: _Rules) -> None:
    """Queues a collective for its links."""
    members = groups(moved.node)
    axes = _axes(members, rules.coordinates)
    devices = _group_size(moved, members, rules.coordinates)
    dimensions = min(rules.all_reduce_dimensions, max(len(axes), 1))
    cycles = price(
        rules.links, moved.kind, moved.result_bytes, devices, rules.latency, dimensions
    )
    if rules.link_model == "one":
        used, stream = ["links"], "links"
    else:
        used = [str(axis) for axis in axes]
        stream = f"{'axis' if len(used) == 1 else 'axes'} {', '.join(used)}"
    begin = max([state.time, *(state.free.get(link, 0.0) for link in used)])
    end = begin + cycles
    for link in used:
        state.free[link] = end
    state.communication += cycles
    # A start inside a start (two in one fusion) ends when both have passed.
    if node in state.flying:
        end = max(end, state.flying[node][0])
    state.flying[node] = (end, len(state.events))
    state.events.append(Event(node.name, moved.kind, stream, begin, begin + cycles))


def _wait(node: Node, state: _State) -> None:
    """Waits for the collective in flight that an instruction ends: the first that its operands lead back to."""
    seen: set[Node] = set()
    stack = list(node.operands)
    found: list[Node] = []
    while stack:
        source = stack.pop()
        if source in seen:
            continue
        seen.add(source)
        if source in state.flying:
            found.append(source)
        elif source.opcode in _HANDED:
            stack.extend(source.operands)
    if found:
        _wait_for(min(found, key=lambda start: state.flying[start]), state)


def _wait_for(start: Node, state: _State) -> None:
    end, event = state.flying.pop(start)
    if end > state.time:
        waited = end - state.time
        state.exposed += waited
        state.time = end
        state.events[event] = dataclasses.replace(
            state.events[event], exposed=state.events[event].exposed + waited
        )


def _loop(node: Node, state: _State, rules: _Rules) -> None:
    """Runs a loop's body once, then once more for what all further trips take."""
    trips = trip_count(node)
    if trips is None:
        state.unknown_loops.append(node.name)
        trips = UNKNOWN_TRIP_COUNT
    body = node.called[0]
    if trips < 1:
        return
    _run(body, state, rules)
    more = trips - 1
    if not more:
        return
    before = state.copy()
    _run(body, state, rules)
    after = (state.time, state.compute, state.exposed, state.communication)
    start = (before.time, before.compute, before.exposed, before.communication)
    state.time, state.compute, state.exposed, state.communication = (
        a + more * (b - a) for a, b in zip(start, after, strict=True)
    )
    state.events = before.events
    state.events.append(
        Event(
            f"{node.name} x {more:g}",
            "while",
            COMPUTE,
            before.time,
            state.time,
            state.exposed - before.exposed,
        )
    )


def _branch(node: Node, state: _State, rules: _Rules) -> None:
    """Runs the branch of a conditional that takes longest."""
    results = []
    for called in node.runs:
        outcome = state.copy()
        _run(called, outcome, rules)
        results.append(outcome)
    if results:
        longest = max(results, key=lambda outcome: outcome.time)
        vars(state).update(vars(longest))


def _axes(members: Groups, coordinates: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Returns the axes along which the devices of a group differ; all axes where there are no groups."""
    if not coordinates:
        return ()
    everyone = (tuple(range(len(coordinates))),)
    try:
        rows = [[coordinates[i] for i in group] for group in members or everyone]
    except IndexError:
        raise ValueError(
            f"{len(coordinates)} coordinates; the program has device {max(map(max, members))}"
        ) from None
    return tuple(
        axis
        for axis in range(len(coordinates[0]))
        if any(len({place[axis] for place in row}) > 1 for row in rows)
    )


def _group_size(
    moved: Collective, members: Groups, coordinates: Sequence[Sequence[int]]
) -> int:
    if moved.kind == "collective-permute":
        return 2 if any(a != b for a, b in members) else 1
    if members:
        return max(map(len, members))
    return max(len(coordinates), 1)


def seconds(timeline: Timeline, links: Links) -> Mapping[str, float]:
    """Returns a timeline's figures in seconds, by name."""
    names = ("total", "compute", "exposed", "communication")
    return {name: getattr(timeline, name) / links.clock_hz for name in names}
