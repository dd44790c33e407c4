"""Rows of results in files of JSON lines: what was measured stays, and a benchmark goes on where it stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """Returns the rows of a file, oldest first; none if there is no file."""
    return (
        [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
    )


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Adds a row to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def latest(rows: list[Row], *keys: str) -> dict[tuple[Any, ...], Row]:
    """Returns the last row of each combination of values of some keys; rows without one of them are left out."""
    return {
        tuple(row[key] for key in keys): row
        for row in rows
        if all(key in row for key in keys)
    }
