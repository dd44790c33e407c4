"""The clock of XLA's heap simulator.

Heap algorithms in XLA, memory-space assignment among them, do not see logical
times but a count of the buffers allocated and freed so far. Where two buffers
tie in everything else, the one with the longer interval on this clock comes
first, so an exact replay needs it.
"""

from compiler.hlo.program import Program, Value


def heap_intervals(program: Program) -> list[tuple[int, int]]:
    """Returns when the heap simulator allocates and frees the first values.

    At each time first all values that start are allocated, then all that end
    are freed, in the order of their live ranges and ids; each event is one
    tick. Values without size make no events.

    Args:
        program: B buffers.

    Returns:
        `(allocated, freed)` in ticks for the first value of each buffer, [B];
        `(0, 0)` for one without size.
    """
    starting: dict[int, list[Value]] = {}
    ending: dict[int, list[Value]] = {}
    for value in sorted(program.values, key=lambda v: (v.live, v.id)):
        if value.size:
            starting.setdefault(value.live[0], []).append(value)
            ending.setdefault(value.live[1], []).append(value)
    tick, allocated, freed = 0, {}, {}
    for time in range(len(program.instructions) + 1):
        for value in starting.get(time, []):
            allocated[value.id] = tick
            tick += 1
        for value in ending.get(time, []):
            freed[value.id] = tick
            tick += 1
    first = [buffer.values[0].id for buffer in program.buffers]
    return [(allocated.get(value, 0), freed.get(value, 0)) for value in first]
