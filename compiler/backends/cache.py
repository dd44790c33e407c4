"""Results of compiles, kept on disk by content.

An entry is a folder named by the digest of everything that the result depends on: the module's bytes, the platform and
topology, the options, and the versions of jaxlib and the compiler. Entries are written beside their place and renamed,
so that a reader never sees half of one, and two writers of the same entry are harmless.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1  # Raise it when the content of an entry changes.
_MARK = "result.json"


def default_folder() -> Path:
    """Returns `$SCHEDULE_ZERO_CACHE/compiles`, or `schedule-zero/compiles` in the user's cache folder."""
    own = os.environ.get("SCHEDULE_ZERO_CACHE")
    if own:
        return Path(own) / "compiles"
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(base) if base else Path.home() / ".cache"
    return root / "schedule-zero" / "compiles"


def key(data: bytes, settings: Mapping[str, Any]) -> str:
    """Returns the name of an entry: a digest of the module and of all settings, in any order."""
    digest = hashlib.sha256(f"schedule-zero compile {FORMAT}\n".encode())
    digest.update(json.dumps(settings, sort_keys=True).encode())
    digest.update(b"\n")
    digest.update(data)
    return digest.hexdigest()[:40]


class Cache:
    """A folder of entries.

    Attributes:
        folder: where they are; made when first written to.
        limit: bytes; the entries used longest ago go when a new one makes the sum larger.
    """

    def __init__(self, folder: Path | None = None, limit: int = 4 << 30) -> None:
        self.folder = folder or default_folder()
        self.limit = limit

    def get(self, name: str) -> Path | None:
        """Returns the folder of a complete entry, or None."""
        entry = self.folder / name
        if not (entry / _MARK).is_file():
            return None
        with contextlib.suppress(OSError):
            os.utime(entry)  # Used now.
        return entry

    def put(self, name: str, files: Mapping[str, bytes]) -> Path:
        """Writes an entry and returns its folder; `files` must include `result.json`."""
        if _MARK not in files:
            raise ValueError(f"an entry needs {_MARK}")
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=self.folder))
        try:
            for file, data in files.items():
                (draft / file).write_bytes(data)
            entry = self.folder / name
            try:
                draft.rename(entry)
            except OSError:
                if self.get(name) is None:  # Not another writer's: a damaged entry.
                    shutil.rmtree(entry, ignore_errors=True)
                    draft.rename(entry)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        self._prune(keep=name)
        return entry

    def _prune(self, keep: str) -> None:
        entries = []
        for entry in self.folder.iterdir():
            with contextlib.suppress(OSError):
                size = sum(file.stat().st_size for file in entry.iterdir())
                entries.append((entry.stat().st_mtime, size, entry))
        total = sum(size for _, size, _ in entries)
        for _, size, entry in sorted(entries, key=lambda e: e[0]):
            if total <= self.limit:
                return
            if entry.name != keep:
                shutil.rmtree(entry, ignore_errors=True)
                total -= size
