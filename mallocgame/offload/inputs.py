"""Finds the module of a GPU or CPU dump, and says which of the two it is."""

import re
from pathlib import Path
from typing import NamedTuple

from solvers.command import Exit, Failure

_FILE = re.compile(r"(gpu|cpu)_after_optimizations\.hlo\.pb(\.gz)?$")
_TPU_FILE = re.compile(r"after_optimizations_before_buffer_assignment\.hlo\.pb(\.gz)?$")


class Located(NamedTuple):
    """A dumped module: the platform, `"gpu"` or `"cpu"`, its file, and other modules beside it."""

    platform: str
    path: Path
    others: int


def locate(path: Path, target: str) -> Located | None:
    """Returns what an input and a `--target` mean, or None if they are not for the GPU or CPU.

    The target decides; without one the dump's file names do.

    Raises:
        Failure: status 3: the target is a GPU or CPU, and the folder has no module for it.
    """
    asked = "cpu" if target == "cpu" else "gpu" if target.startswith("gpu-") else None
    if target and asked is None:
        return None
    if not path.is_dir():
        match = _FILE.search(path.name)
        platform = asked or (match[1] if match else None)
        return Located(platform, path, 0) if platform else None
    files = [entry for entry in path.iterdir() if entry.is_file()]
    found: dict[str, list[Path]] = {}
    for file in files:
        match = _FILE.search(file.name)
        if match:
            found.setdefault(match[1], []).append(file)
    if asked is None:
        if any(_TPU_FILE.search(file.name) for file in files) or not found:
            return None
        asked = "gpu" if "gpu" in found else "cpu"
    if asked not in found:
        raise Failure(
            "no_dump",
            f"{path} holds no *{asked}_after_optimizations.hlo.pb; make one with "
            "XLA_FLAGS='--xla_dump_to=DIR --xla_dump_hlo_as_proto'",
            Exit.NOT_FOUND,
        )
    # The module with most in it is the one that the user means.
    best = max(found[asked], key=lambda f: (f.stat().st_size, f.name))
    return Located(asked, best, len(found[asked]) - 1)
