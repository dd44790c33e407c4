"""How the TPU compiler divides a prefetched array: not published, read off its dumps.

Along the most major dimension that is longer than 1, in up to `max_slices` pieces of equal length,
which is rounded up to whole tiles where that dimension is tiled.
"""

from compiler.hlo import Shape, padded_bytes
from mallocgame.msa.settings import Settings


def slice_sizes(shape: Shape, settings: Settings) -> tuple[int, ...] | None:
    """Returns the bytes of the pieces by offset, or None if an array is not sliced."""
    whole = padded_bytes(shape)
    if settings.max_slices < 2 or whole < settings.min_sliced_bytes:
        return None
    majors = [d for d in reversed(shape.minor_to_major) if shape.dimensions[d] > 1]
    if not majors:
        return None
    dimension = majors[0]
    extent = shape.dimensions[dimension]
    unit = _tile_extent(shape, dimension)
    length = -(-extent // settings.max_slices)
    length += -length % unit
    padded = extent + -extent % unit
    count = -(-extent // length)
    row = whole // padded
    sizes = [row * length] * (count - 1)
    sizes.append(whole - sum(sizes))
    aligned = all(size % settings.alignment == 0 for size in sizes[:-1])
    return tuple(sizes) if count > 1 and aligned else None


def _tile_extent(shape: Shape, dimension: int) -> int:
    """Elements along a dimension that lie in one tile."""
    if not shape.tiles:
        return 1
    place = shape.minor_to_major.index(dimension)
    tile = shape.tiles[0]
    return abs(tile[-1 - place]) if place < len(tile) else 1
