"""Real images to build models from: digits of 8 x 8, shipped; files in MNIST's format, read."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
Labels = NDArray[np.int32]


def digits() -> tuple[Images, Labels]:
    """Returns the 1797 handwritten digits, [1797, 64] in -1..1, and what they are, [1797]."""
    path = Path(__file__).with_name("digits.npz")
    with np.load(path, allow_pickle=False) as stored:
        images, labels = stored["images"], stored["labels"]
    flat = images.reshape(len(images), -1).astype(np.float32)
    return flat / 8 - 1, labels.astype(np.int32)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Returns the array of an IDX file, gzipped or not: MNIST's and Fashion-MNIST's format.

    Raises:
        OSError: it can't be read.
        ValueError: it is not IDX, not of bytes, or cut short.
    """
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of bytes")
    axes, body = raw[3], 4 + 4 * raw[3]
    if len(raw) < body:
        raise ValueError(f"{path} is cut short")
    shape = struct.unpack(f">{axes}I", raw[4:body])
    if len(raw) - body != int(np.prod(shape)):
        raise ValueError(f"{path} should hold {shape} bytes, not {len(raw) - body}")
    return np.frombuffer(raw, np.uint8, offset=body).reshape(shape)


def fashion_mnist(folder: Path, part: str = "train") -> tuple[Images, Labels]:
    """Returns the clothes of Fashion-MNIST, [n, 784] in -1..1, and their classes, [n].

    Args:
        folder: with the four files as published; Debian's package dataset-fashion-mnist has them.
        part: "train" (60,000) or "t10k" (10,000).

    Raises:
        OSError: a file can't be read.
        ValueError: a file is not what it should be.
    """
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz")
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"{folder}: {images.shape} images and {labels.shape} labels")
    flat = images.reshape(len(images), -1).astype(np.float32)
    return flat / 127.5 - 1, labels.astype(np.int32)
