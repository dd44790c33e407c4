"""Files a command reads and writes: whole or not at all, and no tracebacks."""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from solvers.command.result import Exit, Failure

_in_flight: set[Path] = set()


def read_bytes(path: str | Path) -> bytes:
    """Returns the whole input; `-` is standard input.

    Raises:
        Failure: status 3, if it is not there or can't be read.
    """
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise Failure(
            "input_not_found", f"no such file: {path}", Exit.NOT_FOUND
        ) from None
    except OSError as error:
        raise Failure(
            "input_unreadable", f"can't read {path}: {error.strerror}", Exit.NOT_FOUND
        ) from None


def prepare_out(path: Path) -> Path:
    """Makes the folder `path` and checks, before any work, that it can be written.

    Raises:
        Failure: status 2, since no input could make such a `--out` work.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise Failure(
            "out_unwritable", f"--out {path}: {error.strerror}", Exit.USAGE
        ) from None
    return path


def write_bytes(path: Path, data: bytes) -> Path:
    """Writes `data` so that a reader sees the old file or the new one, never a part.

    Raises:
        Failure: status 1, if the file can't be written (a full disk, say).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _in_flight.add(temporary)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise Failure(
            "write_failed", f"can't write {path}: {error.strerror}", Exit.INTERNAL
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        _in_flight.discard(temporary)
    return path


def write_text(path: Path, text: str) -> Path:
    """Writes `text` as UTF-8, as `write_bytes` does."""
    return write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> Path:
    """Writes `value` as `to_json` puts it, as `write_bytes` does."""
    return write_text(path, to_json(value))


def to_json(value: Any) -> str:
    """Returns `value` as JSON text: sorted keys, two spaces, a final newline.

    Paths become strings, array scalars and arrays become numbers and lists.

    Raises:
        ValueError: if a number is not finite, since JSON has no word for it.
        TypeError: if a value has no JSON form.
    """
    text = json.dumps(
        value,
        sort_keys=True,
        indent=2,
        allow_nan=False,
        ensure_ascii=False,
        default=_plain,
    )
    return text + "\n"


def read_json(path: Path) -> Any:
    """Returns the JSON document in `path`.

    Raises:
        Failure: status 3 if the file can't be read, 4 if it is not JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise Failure(
            "not_json", f"{path} is not JSON: {error}", Exit.INVALID
        ) from None


def cache_dir() -> Path:
    """Returns the user's cache folder of this toolkit, not made yet.

    `SCHEDULE_ZERO_CACHE` names it; else it is `schedule-zero` in `XDG_CACHE_HOME` or in
    `~/.cache`.
    """
    own = os.environ.get("SCHEDULE_ZERO_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "schedule-zero"


def remove_in_flight() -> None:
    """Removes temporary files of unfinished writes, before an exit at once."""
    for temporary in list(_in_flight):
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # NumPy and JAX, without importing either.
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} has no JSON form")
