"""Padded sizes, against sizes that the compiler printed and against counting."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.hlo import ModuleError, Shape, padded_bytes
from compiler.hlo import hlo_pb2 as pb
from compiler.hlo.shapes import from_proto, num_parts


def array(
    kind: str, bits: int, dimensions: tuple[int, ...], tiles: tuple, order: tuple = ()
) -> Shape:
    order = order or tuple(reversed(range(len(dimensions))))
    return Shape(kind, dimensions, minor_to_major=order, tiles=tiles, element_bits=bits)


# As the TPU compiler printed them in its tables.
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        (array("bf16", 16, (4,), ((256,), (128,), (2, 1))), 512),
        (array("bf16", 16, (128, 1024), ((8, 128), (2, 1))), 262_144),
        (array("s32", 32, (), ((128,),)), 512),
        (array("pred", 8, (), ((512,),)), 512),
        (array("bf16", 16, (768,), ((1024,), (128,), (2, 1))), 2048),
        (array("f32", 32, (8,), ((128,),)), 512),
        (
            array("bf16", 16, (8, 14, 14, 256), ((8, 128), (2, 1)), (3, 0, 2, 1)),
            802_816,
        ),
        (array("f32", 32, (0, 4), ((8, 128),)), 0),
        (array("s4", 4, (16, 128), ((8, 128),)), 1024),
    ],
)
def test_sizes_of_the_compiler(shape: Shape, size: int) -> None:
    assert padded_bytes(shape) == size


def test_no_tiles_is_no_padding() -> None:
    assert padded_bytes(array("f32", 32, (3, 5), ())) == 60


def test_tail_and_prefix_are_added() -> None:
    shape = Shape("f32", (5,), element_bits=32, tail_alignment=4, prefix_bytes=16)
    assert padded_bytes(shape) == 8 * 4 + 16


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 20), min_size=2, max_size=3),
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
)
def test_one_tile_counts_the_tiles_touched(
    dimensions: list[int], tile: tuple[int, int]
) -> None:
    touched = {
        (*index[:-2], index[-2] // tile[0], index[-1] // tile[1])
        for index in itertools.product(*map(range, dimensions))
    }
    shape = array("u8", 8, tuple(dimensions), (tile,))
    assert padded_bytes(shape) == len(touched) * tile[0] * tile[1]


def test_parts_come_tuple_first() -> None:
    leaf = array("f32", 32, (2,), ())
    shape = Shape("tuple", elements=(leaf, Shape("tuple", elements=(leaf, leaf))))
    assert [index for index, _ in shape.parts()] == [(), (0,), (1,), (1, 0), (1, 1)]
    assert [index for index, _ in shape.leaves()] == [(0,), (1, 0), (1, 1)]
    assert num_parts(shape) == 5
    assert shape.at((1, 0)) is leaf


@pytest.mark.parametrize(
    "proto",
    [
        pb.Shape(element_type=0),
        pb.Shape(element_type=999),
        pb.Shape(element_type=11, dimensions=[-1]),
        pb.Shape(element_type=11, dimensions=[2**62, 2**62]),
        pb.Shape(element_type=11, dimensions=[2], layout=pb.Layout(minor_to_major=[1])),
        pb.Shape(
            element_type=11,
            dimensions=[2],
            layout=pb.Layout(tiles=[pb.Tile(dimensions=[0])]),
        ),
        pb.Shape(element_type=11, layout=pb.Layout(element_size_in_bits=-4)),
    ],
)
def test_impossible_shapes_are_refused(proto: pb.Shape) -> None:
    with pytest.raises(ModuleError, match="here"):
        from_proto(proto, "here")


def test_deep_tuples_are_refused() -> None:
    shape = pb.Shape(element_type=13)
    for _ in range(80):
        shape = pb.Shape(element_type=13, tuple_shapes=[shape])
    with pytest.raises(ModuleError, match="nested"):
        from_proto(shape, "here")
