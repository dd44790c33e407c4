"""Says what is wrong with a packing. Shares no code with what makes packings.

One sweep over time keeps the occupied ranges sorted, so neighbours are all that can clash.
"""

import bisect
from collections.abc import Sequence

from solvers.packing.problem import Buffer

_MOST = 20  # Reasons named.


def violations(
    buffers: Sequence[Buffer], offsets: Sequence[int], capacity: int | None = None
) -> list[str]:
    """Returns what is wrong, nothing if all is right.

    Args:
        buffers: the problem.
        offsets: of each buffer, bytes.
        capacity: bytes that nothing may exceed, or None.
    """
    if len(offsets) != len(buffers):
        return [f"there are {len(buffers)} buffers but {len(offsets)} offsets"]
    reasons = []
    events: list[tuple[int, int, int, int, str]] = []
    for buffer, given in zip(buffers, offsets):
        offset, name = int(given), buffer.id
        if offset < 0:
            reasons.append(f"{name} lies at {offset}, below 0")
        if offset % buffer.alignment:
            reasons.append(
                f"{name} lies at {offset}, no multiple of {buffer.alignment}"
            )
        if buffer.offset is not None and offset != buffer.offset:
            reasons.append(f"{name} lies at {offset}, but must lie at {buffer.offset}")
        for part in buffer.parts:
            low, high = offset + part.base, offset + part.size
            if capacity is not None and high > capacity:
                reasons.append(f"{name} ends at {high}, beyond {capacity}")
            events.append((part.lower, 1, low, high, name))
            events.append((part.upper, 0, low, high, name))
    occupied: list[tuple[int, int, str]] = []
    for time, begins, low, high, name in sorted(events):
        at = bisect.bisect_left(occupied, (low, high, name))
        if not begins:
            if at < len(occupied) and occupied[at] == (low, high, name):
                del occupied[at]
            continue
        beside = occupied[max(at - 1, 0) : at + 1]
        clash = [other for begin, end, other in beside if begin < high and low < end]
        if clash:
            # Left out of the table, so that its ranges stay apart.
            reasons.append(f"{name} and {clash[0]} overlap at time {time}")
        else:
            occupied.insert(at, (low, high, name))
    return reasons[:_MOST]
