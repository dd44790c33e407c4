"""Data: the shipped digits, and files in MNIST's format, good and bad."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from diffusion import datasets


def _idx(array: np.ndarray) -> bytes:
    head = b"\x00\x00\x08" + bytes([array.ndim])
    return head + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_the_digits_are_the_published_ones() -> None:
    images, labels = datasets.digits()
    assert images.shape == (1797, 64)
    assert (images.min(), images.max()) == (-1, 1)
    # Of the UCI test part: so many of each digit.
    counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    np.testing.assert_array_equal(np.bincount(labels), counts)
    first = ((images[0].reshape(8, 8) + 1) * 8).astype(int)
    np.testing.assert_array_equal(first[0], [0, 0, 5, 13, 9, 1, 0, 0])


def test_fashion_mnist_reads_as_published(tmp_path: Path) -> None:
    images = np.arange(5 * 6, dtype=np.uint8).reshape(5, 2, 3) * 8
    labels = np.array([0, 9, 3, 3, 1], np.uint8)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        (tmp_path / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(_idx(array)))
    read, classes = datasets.fashion_mnist(tmp_path)
    np.testing.assert_allclose((read + 1) * 127.5, images.reshape(5, 6), atol=1e-4)
    np.testing.assert_array_equal(classes, labels)
    with pytest.raises(FileNotFoundError):
        datasets.fashion_mnist(tmp_path, "t10k")


GOOD = _idx(np.zeros((2, 3), np.uint8))


@pytest.mark.parametrize(
    "raw, message",
    [
        (b"", "not an IDX file"),
        (b"\x89PNG\r\n", "not an IDX file"),
        (GOOD[:9], "cut short"),
        (GOOD[:-1], "should hold"),
        (GOOD + b"\x00", "should hold"),
        (gzip.compress(GOOD, mtime=0)[:-6], "damaged"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        datasets.read_idx(path)
