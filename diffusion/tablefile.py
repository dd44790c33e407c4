"""`schedule.json`: a sampler as plain numbers, for any framework; and back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion import noise as noises
from diffusion.noise import NoiseSchedule
from diffusion.schedule import Schedule
from diffusion.table import StepTable, problem

SCHEMA_VERSION = 1
_KIND = "diffusion.table"


def to_json(
    table: StepTable, noise: NoiseSchedule, schedule: Schedule | None = None
) -> dict[str, Any]:
    """Returns the JSON object of a sampler.

    Args:
        table: the numbers that are run; `StepTable` says what they mean.
        noise: the schedule whose time they are in.
        schedule: the decisions that they were lowered from, if there are any.
    """
    columns = {
        name: None if leaf is None else np.asarray(leaf, np.float64).tolist()
        for name, leaf in table._asdict().items()
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": _KIND,
        "noise": noise.to_json(),
        "evaluations": table.evaluations,
        "table": columns,
        "schedule": None if schedule is None else schedule.to_json(),
    }


def from_json(document: Any) -> tuple[StepTable, NoiseSchedule]:
    """Returns the sampler that `to_json` wrote.

    Raises:
        ValueError: in one line, what is wrong with it.
    """
    if not isinstance(document, Mapping) or document.get("kind") != _KIND:
        raise ValueError(f"not a sampler: its kind is not {_KIND!r}")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"schema version {document.get('schema_version')!r}; this reads {SCHEMA_VERSION}"
        )
    try:
        columns = document["table"]
        table = StepTable(
            **{
                name: None if leaf is None else np.asarray(leaf, np.float64)
                for name, leaf in columns.items()
            }
        )
        noise = noises.from_json(document["noise"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not a sampler: {type(error).__name__}: {error}") from None
    wrong = problem(table)
    if wrong is None and not np.all(np.diff(table.time) < 0):
        wrong = "the times of its evaluations do not fall"
    if wrong is not None:
        raise ValueError(f"not a sampler: {wrong}")
    return table, noise


def read(path: Path | str) -> tuple[StepTable, NoiseSchedule]:
    """Returns the sampler in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no sampler.
    """
    try:
        return from_json(json.loads(Path(path).read_text()))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
