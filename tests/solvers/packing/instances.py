"""Small problems: drawn, cut from a full rectangle, and the brute-force answer."""

import itertools
import random
from collections.abc import Sequence

from hypothesis import strategies as st

from solvers.packing import Buffer, Part


@st.composite
def problems(draw: st.DrawFn, most: int = 5) -> list[Buffer]:
    """Few small buffers: gaps in lives, sizes that change, alignments, fixed offsets."""
    unit = draw(st.sampled_from([1, 1, 2, 3]))
    mixed = draw(st.booleans())
    found = []
    for number in range(draw(st.integers(1, most))):
        cuts = sorted(draw(st.sets(st.integers(0, 8), min_size=2, max_size=4)))
        spans = (
            [(cuts[0], cuts[1]), (cuts[2], cuts[3])] if len(cuts) == 4 else [cuts[:2]]
        )
        parts = tuple(Part(a, b, draw(st.integers(1, 4))) for a, b in spans)
        alignment = draw(st.sampled_from([1, unit])) if mixed else unit
        fixed = draw(st.sampled_from([None] * 5 + [0, 1]))
        offset = None if fixed is None or number else fixed * alignment
        found.append(Buffer(f"b{number}", parts, alignment, offset))
    return found


def optimum(buffers: Sequence[Buffer]) -> int:
    """The least height, by trying all offsets of all buffers."""
    return next(height for height in itertools.count(0) if fits(buffers, height))


def fits(buffers: Sequence[Buffer], height: int) -> bool:
    """Whether any offsets at all keep the buffers apart below a height."""

    def clash(a: Buffer, at: int, b: Buffer, bt: int) -> bool:
        return any(
            p.lower < q.upper
            and q.lower < p.upper
            and at + p.base < bt + q.size
            and bt + q.base < at + p.size
            for p, q in itertools.product(a.parts, b.parts)
        )

    def go_on(placed: list[int]) -> bool:
        if len(placed) == len(buffers):
            return True
        b = buffers[len(placed)]
        choices = range(0, height - b.size + 1, b.alignment)
        if b.offset is not None:
            choices = range(b.offset, min(b.offset, height - b.size) + 1)
        return any(
            go_on([*placed, at])
            for at in choices
            if not any(clash(b, at, o, ot) for o, ot in zip(buffers, placed))
        )

    return go_on([])


def cut_up(seed: int, pieces: int, time: int = 60, height: int = 48) -> list[Buffer]:
    """A rectangle of `time` by `height` cut into buffers, so that they fit without any gap."""
    source = random.Random(seed)
    rectangles = [(0, time, 0, height)]
    while len(rectangles) < pieces:
        rectangles.sort(key=lambda r: (r[1] - r[0]) * (r[3] - r[2]))
        a, b, low, high = rectangles.pop()
        if source.random() < 0.5 and b - a > 1:
            cut = source.randint(a + 1, b - 1)
            rectangles += [(a, cut, low, high), (cut, b, low, high)]
        elif high - low > 1:
            cut = source.randint(low + 1, high - 1)
            rectangles += [(a, b, low, cut), (a, b, cut, high)]
        else:
            rectangles.append((a, b, low, high))
    source.shuffle(rectangles)
    return [
        Buffer(f"b{n}", (Part(a, b, high - low),))
        for n, (a, b, low, high) in enumerate(rectangles)
    ]
