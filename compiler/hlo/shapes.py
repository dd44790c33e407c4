"""Array and tuple shapes, and the bytes that a layout makes of them.

A shape index is a tuple of integers: `()` is the shape itself, `(1, 0)` the
first element of its second element. A shape has *parts*: itself and, if it is
a tuple, the parts of its elements; the parts that are not tuples are its
*leaves*.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from compiler.hlo import hlo_pb2 as pb
from compiler.hlo.errors import ModuleError

ShapeIndex: TypeAlias = tuple[int, ...]

MAX_BYTES = 2**62
_MAX_TUPLE_DEPTH = 64
_MAX_RANK = 256
_COMBINE = -(2**63)  # A tile entry that merges its dimension into the next.

# PrimitiveType of xla_data.proto: number -> (name, bits). 0 bits: no array.
_TYPES: dict[int, tuple[str, int]] = {
    1: ("pred", 8),
    2: ("s8", 8),
    3: ("s16", 16),
    4: ("s32", 32),
    5: ("s64", 64),
    6: ("u8", 8),
    7: ("u16", 16),
    8: ("u32", 32),
    9: ("u64", 64),
    10: ("f16", 16),
    11: ("f32", 32),
    12: ("f64", 64),
    13: ("tuple", 0),
    14: ("opaque", 0),
    15: ("c64", 64),
    16: ("bf16", 16),
    17: ("token", 0),
    18: ("c128", 128),
    19: ("f8e5m2", 8),
    20: ("f8e4m3fn", 8),
    21: ("s4", 4),
    22: ("u4", 4),
    23: ("f8e4m3b11fnuz", 8),
    24: ("f8e5m2fnuz", 8),
    25: ("f8e4m3fnuz", 8),
    26: ("s2", 2),
    27: ("u2", 2),
    28: ("f8e4m3", 8),
    29: ("f8e3m4", 8),
    30: ("s1", 1),
    31: ("u1", 1),
    32: ("f4e2m1fn", 4),
    33: ("f8e8m0fnu", 8),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """An array with its layout, a token or opaque handle, or a tuple.

    Attributes:
        element_type: XLA's name of the element type, such as `"bf16"`;
            `"tuple"`, `"token"` and `"opaque"` for what is not an array.
        dimensions: logical sizes, major first as the program wrote them.
        elements: the shapes of a tuple's elements.
        minor_to_major: order of the dimensions in memory.
        tiles: tiling, outermost first; each entry is one tile's sizes.
        element_bits: bits that one element occupies in memory.
        memory_space: 0 is the default memory; 1 the fast memory of a TPU.
        tail_alignment: elements to which the padded array is rounded up.
        prefix_bytes: metadata in front of a dynamically shaped array.
        is_dynamic: whether a dimension is only a bound.
    """

    element_type: str
    dimensions: tuple[int, ...] = ()
    elements: tuple["Shape", ...] = ()
    minor_to_major: tuple[int, ...] = ()
    tiles: tuple[tuple[int, ...], ...] = ()
    element_bits: int = 0
    memory_space: int = 0
    tail_alignment: int = 1
    prefix_bytes: int = 0
    is_dynamic: bool = False

    @property
    def is_tuple(self) -> bool:
        return self.element_type == "tuple"

    @property
    def is_array(self) -> bool:
        return self.element_bits > 0

    @property
    def num_elements(self) -> int:
        """Logical elements of an array, 0 for everything else."""
        return math.prod(self.dimensions) if self.is_array else 0

    @property
    def is_effective_scalar(self) -> bool:
        """Whether this is an array whose every dimension has size 1."""
        return self.is_array and all(size == 1 for size in self.dimensions)

    def at(self, index: ShapeIndex) -> "Shape":
        """Returns the shape at `index`, an index that exists."""
        shape = self
        for i in index:
            shape = shape.elements[i]
        return shape

    def parts(self, prefix: ShapeIndex = ()) -> Iterator[tuple[ShapeIndex, "Shape"]]:
        """Yields `(index, shape)` of all parts, a tuple before its elements."""
        yield prefix, self
        for i, element in enumerate(self.elements):
            yield from element.parts((*prefix, i))

    def leaves(self, prefix: ShapeIndex = ()) -> Iterator[tuple[ShapeIndex, "Shape"]]:
        """Yields `(index, shape)` of all leaves, in order."""
        if not self.is_tuple:
            yield prefix, self
        for i, element in enumerate(self.elements):
            yield from element.leaves((*prefix, i))


def num_parts(shape: Shape) -> int:
    """Returns how many parts a shape has."""
    return 1 + sum(num_parts(element) for element in shape.elements)


def padded_bytes(shape: Shape) -> int:
    """Returns the bytes that an array takes in memory as its layout pads it.

    Dimensions are rounded up to the tiles, tile after tile, in the way of
    XLA's tiled layouts: a tile of rank r covers the r most minor dimensions
    and leaves, for each of them, the number of tiles and the tile's size.
    Tokens and opaque handles take nothing; a tuple counts its leaves.

    Args:
        shape: any shape.

    Returns:
        Bytes, at most `MAX_BYTES` for a shape that was made by `from_proto`.
    """
    if shape.is_tuple:
        return sum(padded_bytes(leaf) for _, leaf in shape.leaves())
    if not shape.is_array:
        return 0
    return _padded_array_bytes(shape)


@functools.lru_cache(maxsize=16_384)
def _padded_array_bytes(shape: Shape) -> int:
    order = shape.minor_to_major or tuple(reversed(range(len(shape.dimensions))))
    extents = [shape.dimensions[d] for d in reversed(order)]
    for tile in shape.tiles:
        extents = _tile(extents, tile)
    elements = _round_up(math.prod(extents), max(shape.tail_alignment, 1))
    return -(-elements * shape.element_bits // 8) + shape.prefix_bytes


def _tile(extents: Sequence[int], tile: Sequence[int]) -> list[int]:
    rank = len(tile)
    extents = [1] * (rank - len(extents)) + list(extents)
    outer, covered = extents[: len(extents) - rank], extents[len(extents) - rank :]
    counts, sizes, merged = [], [], 1
    for extent, size in zip(covered, tile, strict=True):
        if size == _COMBINE:
            merged *= extent
            continue
        counts.append(-(-extent * merged // size))
        sizes.append(size)
        merged = 1
    return [*outer, *counts, *sizes]


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def from_proto(proto: pb.Shape, where: str, depth: int = 0) -> Shape:
    """Returns the checked shape of a message.

    Args:
        proto: the message.
        where: what the shape belongs to, for the text of the error.
        depth: how many tuples enclose this shape.

    Raises:
        ModuleError: unknown element type, negative, inconsistent or absurdly
            large sizes, or tuples nested too deeply.
    """
    if proto.element_type not in _TYPES:
        raise ModuleError(f"{where}: unknown element type number {proto.element_type}")
    name, bits = _TYPES[proto.element_type]
    if name == "tuple":
        if depth >= _MAX_TUPLE_DEPTH:
            raise ModuleError(
                f"{where}: tuples nested more than {_MAX_TUPLE_DEPTH} deep"
            )
        elements = tuple(from_proto(e, where, depth + 1) for e in proto.tuple_shapes)
        return Shape(element_type=name, elements=elements)
    if bits == 0:
        return Shape(element_type=name)
    return _array(proto, name, bits, where)


def _array(proto: pb.Shape, name: str, bits: int, where: str) -> Shape:
    layout = proto.layout
    dimensions = tuple(proto.dimensions)
    order = tuple(layout.minor_to_major)
    tiles = tuple(tuple(tile.dimensions) for tile in layout.tiles)
    if len(dimensions) > _MAX_RANK or any(size < 0 for size in dimensions):
        raise ModuleError(f"{where}: bad dimensions {list(dimensions)[:8]}")
    if order and sorted(order) != list(range(len(dimensions))):
        raise ModuleError(
            f"{where}: layout {list(order)[:8]} does not order {len(dimensions)} dimensions"
        )
    for tile in tiles:
        if (
            len(tile) > _MAX_RANK
            or tile[-1:] in ((), (_COMBINE,))
            or any(s < 1 and s != _COMBINE for s in tile)
        ):
            raise ModuleError(f"{where}: bad tile {list(tile)[:8]}")
    if (
        not 0 <= layout.element_size_in_bits <= 1024
        or layout.tail_padding_alignment_in_elements < 0
    ):
        raise ModuleError(f"{where}: bad element size or padding in the layout")
    if layout.dynamic_shape_metadata_prefix_bytes < 0:
        raise ModuleError(f"{where}: negative metadata size in the layout")
    shape = Shape(
        element_type=name,
        dimensions=dimensions,
        minor_to_major=order,
        tiles=tiles,
        element_bits=layout.element_size_in_bits or bits,
        memory_space=layout.memory_space,
        tail_alignment=max(layout.tail_padding_alignment_in_elements, 1),
        prefix_bytes=layout.dynamic_shape_metadata_prefix_bytes,
        is_dynamic=any(proto.is_dynamic_dimension),
    )
    if padded_bytes(shape) > MAX_BYTES:
        raise ModuleError(f"{where}: an array of more than 2^62 bytes")
    return shape
