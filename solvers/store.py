"""Measurements on disk: one SQLite file, keyed by what was measured.

A row is written whole or not at all, so a search may be killed at any moment. What is in the file
is never measured again, failures included; delete the file to start over.
"""

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from solvers.protocols import Measurement

_SCHEMA = """
CREATE TABLE IF NOT EXISTS measurements (
    key BLOB PRIMARY KEY,
    costs TEXT NOT NULL,      -- JSON; null after a failure
    failure TEXT NOT NULL,    -- empty if it did not fail
    attempts INTEGER NOT NULL,
    seconds REAL NOT NULL,
    at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
) WITHOUT ROWID
"""
_VERSION = 1


class Store:
    """The file. One process writes; its threads may share it.

    Args:
        path: of the file, made if it is not there; ":memory:" for none.

    Raises:
        ValueError: if the file is something else.
    """

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.Lock()
        if str(path) != ":memory:":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=60, check_same_thread=False)
        try:
            # Another process that reads does not hold up this one.
            self._db.execute("PRAGMA journal_mode=WAL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise ValueError(f"{path} holds measurements of format {version}")
            self._db.execute(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={_VERSION}")
            self._db.commit()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ValueError(
                f"{path} can't be used for measurements: {error}"
            ) from None
        except ValueError:
            self._db.close()
            raise

    def get(self, key: bytes) -> Measurement | None:
        """Returns what was measured under the key, or None."""
        with self._lock:
            row = self._db.execute(
                "SELECT costs, failure FROM measurements WHERE key = ?", (key,)
            ).fetchone()
        if row is None:
            return None
        costs = json.loads(row[0])
        return Measurement(
            tuple(float("inf") if cost is None else cost for cost in costs), row[1]
        )

    def put(
        self, key: bytes, measurement: Measurement, *, attempts: int, seconds: float
    ) -> None:
        """Adds a measurement; the first one under a key stays."""
        failed = bool(measurement.failure)
        costs = [None if failed else float(cost) for cost in measurement.costs]
        with self._lock, self._db:
            self._db.execute(
                "INSERT OR IGNORE INTO measurements"
                "(key, costs, failure, attempts, seconds) VALUES (?, ?, ?, ?, ?)",
                (key, json.dumps(costs), measurement.failure, attempts, seconds),
            )

    def __len__(self) -> int:
        with self._lock:
            count: int = self._db.execute(
                "SELECT count(*) FROM measurements"
            ).fetchone()[0]
        return count

    def close(self) -> None:
        """Closes the file."""
        self._db.close()


@contextlib.contextmanager
def opened(path: Path | str | None) -> Iterator[Store | None]:
    """Yields the store of a path, or None for none, and closes it."""
    if path is None:
        yield None
        return
    store = Store(path)
    try:
        yield store
    finally:
        store.close()
