"""Exact search by rounds: several orders of branching, node limits that grow.

Finds a packing under a capacity, or proves that there is none, or gives up for now; without a
capacity it closes in on the lowest height. Components that share no time are searched one by one.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from solvers.packing import canonical, sections
from solvers.packing.fit import Order
from solvers.packing.problem import Buffer, Packing, lower_bound, packing
from solvers.packing.sections import Component
from solvers.packing.step import Step

_STATIC = ("WAT", "TAW", "TWA")  # As in the paper: width, area, total; descending.
_FIRST = 2  # Node limit of the first round over the number of buffers; it doubles.
_DRAWN = (
    5  # The same of a drawn order; it doubles from the round on that is named next.
)
_PATIENT = 6
_SHARE = 2  # Nodes of drawn orders over those of static ones; a lucky draw needs few.
_CHUNK = 20_000  # Placements between two looks at the clock: about 0.1 s.
_TABLES = 12  # Kept at once: 4 MB each.


def search(
    buffers: Sequence[Buffer],
    capacity: int | None,
    seed: int,
    done: Callable[[], bool],
    known: Packing | None,
) -> Iterator[Step]:
    """Yields what is known, again and again, until it is decided or time is up.

    Args:
        buffers: what to pack.
        capacity: a packing that fits is enough; None for the lowest.
        seed: of the orders drawn.
        done: whether to stop.
        known: a packing to start from; None only with a capacity.
    """
    offsets = (
        np.zeros(len(buffers), np.int64) if known is None else known.offsets.copy()
    )
    parts = sections.components(buffers)
    # A component's own bound may be higher: its buffers may share a coarser alignment.
    bound = max(
        lower_bound([buffers[n] for n in part])
        for part in [*parts, range(len(buffers))]
    )
    sizes = np.array([b.size for b in buffers], np.int64)

    def height(part: Sequence[int]) -> int:
        return int((offsets[part] + sizes[part]).max(initial=0))

    packed = known is not None
    yield Step(0, known, bound)
    if packed:  # The highest first: the others need not get below it.
        parts = sorted(parts, key=height, reverse=True)
    for number, part in enumerate(parts):
        high = height(part)
        if packed and high <= max(bound, capacity or 0):
            continue
        one = Search([buffers[n] for n in part], seed + number)
        goal = bound if capacity is None else max(bound, capacity)
        found = one.lowest(goal, high) if capacity is None else one.under(goal)
        for tried in found:
            if tried.offsets is not None:
                offsets[part] = tried.offsets
                known = packing(buffers, offsets, tried.by) if packed else known
            bound = max(bound, tried.bound)
            yield Step(tried.nodes, known, bound)
            if done():
                return
        if capacity is not None and bound > capacity:
            return
    if not packed:
        yield Step(0, packing(buffers, offsets, "exact"), bound)


@dataclasses.dataclass(frozen=True, eq=False)
class Attempt:
    """A chunk of one round.

    Attributes:
        nodes: placements tried.
        offsets: a packing of the component, bytes, or None.
        bound: bytes that no packing of the component undercuts.
        by: the order of branching.
    """

    nodes: int
    offsets: NDArray[np.int64] | None
    bound: int
    by: str


class Search:
    """The search of one component; it learns from round to round."""

    def __init__(self, buffers: Sequence[Buffer], seed: int) -> None:
        """
        Args:
            buffers: connected by overlaps in time.
            seed: of the orders drawn.
        """
        self._buffers = buffers
        self._component = sections.component(buffers)
        self._keys = _keys(buffers, self._component)
        self._random = np.random.default_rng(seed)
        self._static = {
            word: sections.arranged(self._component, _descending(self._keys, word))
            for word in _STATIC
        }
        self._failed: dict[tuple[str, int], NDArray[np.int64]] = {}
        self._rounds = self._owed = 0  # Static rounds; nodes owed to drawn orders.
        self._bound = lower_bound(buffers)
        # A part with a base is searched as if all below it were taken, so nothing is proved.
        self._proves = not any(p.base for b in buffers for p in b.parts)

    def under(self, capacity: int) -> Iterator[Attempt]:
        """Yields chunks until one has a packing or a bound above the capacity."""
        while True:
            for chunk in self._attempt(capacity):
                yield chunk
                if chunk.offsets is not None or chunk.bound > capacity:
                    return

    def lowest(self, goal: int, high: int) -> Iterator[Attempt]:
        """Yields chunks until a packing is proved to be lowest, or none needs to be lower.

        Args:
            goal: no need to get below this.
            high: of a known packing.
        """
        reach, bold = 0.5, True
        while (low := max(goal, self._bound)) < high:
            # By turns the bound itself, which is often reached, and something between.
            between = low + int(reach * (high - low))
            capacity = low if bold else min(between, high - 1)
            paused = True
            for chunk in self._attempt(capacity):
                yield chunk
                if chunk.offsets is not None:
                    high = max(
                        int(o) + b.size for o, b in zip(chunk.offsets, self._buffers)
                    )
                paused = chunk.offsets is None and chunk.bound <= capacity
            if not bold:
                reach = (reach + 1) / 2 if paused else 0.5
            bold = not bold

    def _attempt(self, capacity: int) -> Iterator[Attempt]:
        """Yields the chunks of one round."""
        name, component, limit = self._next()
        state = canonical.start(component, capacity, self._table(name, capacity))
        if name:
            self._failed[name, capacity] = state.failed
        status = canonical.PAUSED
        while status == canonical.PAUSED and limit > 0:
            status, nodes = canonical.search(component, state, min(_CHUNK, limit))
            limit -= _CHUNK
            offsets = None
            if status == canonical.SOLVED:
                offsets = np.zeros(len(self._buffers), np.int64)
                offsets[component.number] = state.floor * component.unit
            if status == canonical.EXHAUSTED and self._proves:
                self._bound = max(self._bound, self._above(capacity))
            yield Attempt(nodes, offsets, self._bound, f"exact, {name or 'drawn'}")

    def _table(self, name: str, capacity: int) -> NDArray[np.int64] | None:
        """What failed before in this order: under this capacity or a larger one."""
        while len(self._failed) > _TABLES:
            del self._failed[next(iter(self._failed))]
        usable = [key for key in self._failed if key[0] == name and key[1] >= capacity]
        return self._failed.pop(min(usable)) if usable else None

    def _above(self, capacity: int) -> int:
        """Returns the smallest larger capacity that lets any buffer lie higher."""
        unit = self._component.unit
        steps = [(int(np.lcm(unit, b.alignment)), b.size) for b in self._buffers]
        return min(
            ((capacity - size) // step + 1) * step + size for step, size in steps
        )

    def _next(self) -> tuple[str, Component, int]:
        """Returns the order of the next round, "" for a drawn one, and its node limit."""
        num = len(self._buffers)
        turn, place = divmod(self._rounds, len(_STATIC))
        if self._owed > 0:
            limit = _DRAWN * num << max(turn - _PATIENT, 0)
            self._owed -= limit
            order = _drawn(self._keys, self._random)
            return "", sections.arranged(self._component, order), limit
        limit = _FIRST * num << turn
        self._rounds += 1
        self._owed += _SHARE * limit
        word = _STATIC[place]
        return word, self._static[word], limit


def _keys(buffers: Sequence[Buffer], c: Component) -> dict[str, NDArray[np.float64]]:
    """What orders go by: width, area, size, and the largest total of a section; [B] each."""
    width = np.array([b.upper - b.lower for b in buffers], np.float64)
    area = np.array([b.area for b in buffers], np.float64)
    section = np.repeat(np.arange(len(c.of_start) - 1), np.diff(c.of_start))
    sums = np.bincount(section, weights=c.members[:, 1])
    total = np.zeros(len(buffers))
    np.maximum.at(total, c.members[:, 0], sums[section])
    return {"W": width, "A": area, "T": total, "Z": c.size.astype(np.float64)}


def _descending(keys: dict[str, NDArray[np.float64]], word: str) -> Order:
    return np.lexsort([-keys[letter] for letter in reversed(word)])


def _drawn(keys: dict[str, NDArray[np.float64]], random: np.random.Generator) -> Order:
    """An order by a random product of powers of width, total and size, with noise."""

    def level(key: str) -> NDArray[np.float64]:
        log = np.log(keys[key])
        spread = log.std()
        return (log - log.mean()) / (spread if spread > 0 else 1.0)

    width, total, size = random.random(3)
    score = width * level("W") + 2 * total * level("T")
    score += size * random.choice([-0.3, 0.0, 1.0]) * level("Z")
    noise = random.normal(0.0, random.exponential(0.3), len(score))
    return np.argsort(-(score + noise), kind="stable")
