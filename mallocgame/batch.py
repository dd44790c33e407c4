"""Which dumps the arguments of the search name, and how to tell whether one has changed."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from mallocgame.inputs import is_dump, module_file
from mallocgame.offload.inputs import locate
from solvers.command.batch import expand


def inputs(given: Sequence[str]) -> list[Path]:
    """Returns the dumps; a folder that holds no module stands for the dumps below it."""
    found: dict[Path, Path] = {}
    for path in expand(given):
        below = _dumps(path) if path.is_dir() and not is_dump(path) else []
        for dump in below or [path]:
            found.setdefault(dump.resolve(), dump)
    return list(found.values())


def content(path: Path, target: str) -> str:
    """Returns the digest of the module that would be searched.

    Raises:
        Failure: status 3: there is none.
        OSError: it can't be read.
    """
    located = locate(path, target)
    file = module_file(path) if located is None else located.path
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _dumps(folder: Path) -> list[Path]:
    found = []
    for name, below, _ in os.walk(folder):
        below.sort()
        if is_dump(Path(name)):
            found.append(Path(name))
            below.clear()
    return found
