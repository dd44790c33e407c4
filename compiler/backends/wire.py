"""The two protobuf details that the backends need, without a schema: unwrap and wrap a module."""

import gzip
import zlib
from collections.abc import Iterator

from compiler.backends.errors import CompilerError


def unzip(data: bytes) -> bytes:
    """Returns the content of a file that may be gzipped."""
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise CompilerError("invalid-module", f"damaged gzip data ({error})") from error


def module_bytes(data: bytes) -> bytes:
    """Returns the serialized `HloModuleProto` in the content of a `.hlo.pb` file, byte for byte.

    Args:
        data: an `HloProto` (what XLA dumps) or a bare `HloModuleProto`, gzipped or not.

    Raises:
        CompilerError: "invalid-module", the bytes are neither.
    """
    data = unzip(data)
    if _is_module(data):
        return data
    wrapped = [value for number, value in _read(data) if number == 1 and value]
    if len(wrapped) == 1 and _is_module(wrapped[0]):
        return wrapped[0]
    raise CompilerError("invalid-module", "not a serialized HLO module")


def _is_module(data: bytes) -> bool:
    """An `HloModuleProto` has its entry computation's name in field 2 and computations in 3; `HloProto` has no field 2."""
    return {2, 3} <= {number for number, _ in _read(data)}


def _read(data: bytes) -> list[tuple[int, bytes | None]]:
    """Returns the fields of a message; none if the bytes are not a message."""
    try:
        return list(_fields(data))
    except (IndexError, ValueError):
        return []


def _fields(data: bytes) -> Iterator[tuple[int, bytes | None]]:
    """Yields the number and, if it is length-delimited, the content of each field of a message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("field number 0")
        if kind == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise IndexError("truncated")
            yield number, data[at : at + size]
            at += size
        elif kind == 0:
            _, at = _varint(data, at)
            yield number, None
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
            yield number, None
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("varint too long")
