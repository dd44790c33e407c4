"""Read a module from a file, whatever of the usual forms it has.

Accepted are the `*.hlo.pb` files of `--xla_dump_to ... --xla_dump_hlo_as_proto`
(`HloProto`) and a bare serialized `HloModuleProto`, either of them gzipped or
not. The form is told from the content, never from the name.
"""

import gzip
import io
import os
import stat
import zlib
from pathlib import Path

from google.protobuf.message import DecodeError

from compiler.hlo import hlo_pb2 as pb
from compiler.hlo.checks import check
from compiler.hlo.errors import FormatError, UnreadableError
from compiler.hlo.module import Module

MAX_FILE_BYTES = 1 << 30
_GZIP_MAGIC = b"\x1f\x8b"
_HEAD = 4096


def load(path: str | os.PathLike[str]) -> Module:
    """Reads and checks the module in a file.

    Args:
        path: a file; see the module's docstring for what it may hold.

    Returns:
        The module, every reference checked.

    Raises:
        UnreadableError: the file cannot be read.
        FormatError: the content is something else.
        ModuleError: the module contradicts itself.
    """
    where = os.fspath(path)
    return check(parse(_read(Path(path)), where), where)


def parse(data: bytes, where: str = "<bytes>") -> pb.Module:
    """Returns the unchecked message in the content of a file.

    Args:
        data: the content, gzipped or not.
        where: the name of the file, for the text of the error.

    Raises:
        FormatError: the content is not a module.
    """
    if data.startswith(_GZIP_MAGIC):
        data = _gunzip(data, where)
    _check_head(data[:_HEAD], where)
    file, module = pb.File(), pb.Module()
    if _parses(file, data) and file.hlo_module.computations:
        return file.hlo_module
    if _parses(module, data) and module.computations:
        return module
    raise FormatError(f"{where}: not a serialized HLO module, or a truncated one")


def _parses(message: pb.File | pb.Module, data: bytes) -> bool:
    try:
        message.ParseFromString(data)
    except (DecodeError, ValueError):
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableError(f"{path}: is a directory, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError(f"{path}: is not a regular file")
        if status.st_size == 0:
            raise FormatError(f"{path}: the file is empty")
        if status.st_size > MAX_FILE_BYTES:
            raise FormatError(
                f"{path}: {status.st_size} bytes, more than the limit of {MAX_FILE_BYTES} for a module"
            )
        with path.open("rb") as file:
            head = file.read(_HEAD)
            if not head.startswith(_GZIP_MAGIC):
                _check_head(head, str(path))
            return head + file.read()
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:  # A name with a null character.
        raise UnreadableError(f"{str(path)!r}: {error}") from error


def _gunzip(data: bytes, where: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            head = file.read(_HEAD)
            _check_head(head, where)
            content = head + file.read(MAX_FILE_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(f"{where}: damaged gzip file ({error})") from error
    if len(content) > MAX_FILE_BYTES:
        raise FormatError(f"{where}: unpacks to more than {MAX_FILE_BYTES} bytes")
    return content


def _check_head(head: bytes, where: str) -> None:
    """Refuses what cannot be a protobuf message, naming what it looks like."""
    if not head:
        raise FormatError(f"{where}: the file is empty")
    if head.lstrip().startswith(b"HloModule"):
        raise FormatError(
            f"{where}: this is HLO text; give the .hlo.pb file that the compiler writes beside it "
            "(option xla_dump_hlo_as_proto)"
        )
    if _is_text(head):
        raise FormatError(f"{where}: this is a text file, not a serialized HLO module")
    wire_type, number = head[0] & 7, head[0] >> 3
    if number == 0 or wire_type not in (0, 1, 2, 5):
        raise FormatError(f"{where}: this is not a protobuf file")


def _is_text(head: bytes) -> bool:
    printable = sum(32 <= byte < 127 or byte in b"\t\n\r" for byte in head)
    return printable == len(head)
