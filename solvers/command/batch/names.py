"""What a batch's arguments name, and what the folder of each input is called."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

_RESERVED = frozenset({"config.json", "result.json", "traceback.txt"})


def expand(given: Sequence[str]) -> list[Path]:
    """Returns what the arguments name, patterns expanded, each once.

    A pattern that nothing matches stays, so that it fails by its name.
    """
    found: dict[Path, Path] = {}
    for text in given:
        paths = [Path(text)]
        if not paths[0].exists() and glob.has_magic(text):
            paths = [Path(p) for p in sorted(glob.glob(text, recursive=True))] or paths
        for path in paths:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def names(inputs: Sequence[Path]) -> list[str]:
    """Returns a folder name for each input: its own, with as many parents as tell it from others."""
    parts = [_parts(path) for path in inputs]
    depth = [1] * len(inputs)
    while True:
        tried = ["-".join(p[-d:]) for p, d in zip(parts, depth)]
        counts: dict[str, int] = {}
        for name in tried:
            counts[name.casefold()] = counts.get(name.casefold(), 0) + 1
        clashing = [
            k
            for k, name in enumerate(tried)
            if (counts[name.casefold()] > 1 or name in _RESERVED)
            and depth[k] < len(parts[k])
        ]
        if not clashing:
            return _numbered(tried)
        for k in clashing:
            depth[k] += 1


def _parts(path: Path) -> list[str]:
    resolved = path.resolve()
    name = resolved.name
    if not resolved.is_dir():
        # All endings, as in scheduled.hlo.pb.gz.
        name = re.sub(r"(?<=.)(\.[A-Za-z]{1,4})+$", "", name)
    return [*resolved.parent.parts[1:], name or "root"]


def _numbered(tried: list[str]) -> list[str]:
    """Tells apart what parents could not: a/b-c from a-b/c."""
    seen: dict[str, int] = {}
    result = []
    for name in tried:
        seen[name.casefold()] = count = seen.get(name.casefold(), 0) + 1
        result.append(name if count == 1 else f"{name}~{count}")
    return result
