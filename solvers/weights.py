"""Arrays as files: a safetensors file of numbers, and beside it a JSON card that says what they are.

The card has the digest of the numbers. Nothing is ever unpickled.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from solvers.command import Exit, write_bytes, write_json

SCHEMA_VERSION = 1


class WeightsError(ValueError):
    """Files that can't be used, in one line."""

    exit_status = int(Exit.INVALID)
    reason = "bad_weights"


def write(
    folder: Path,
    name: str,
    kind: str,
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
) -> tuple[Path, Path]:
    """Writes NAME.safetensors and its card NAME.json, of this kind; returns their paths."""
    numbers = safetensors.numpy.save(dict(arrays))
    path = write_bytes(folder / f"{name}.safetensors", numbers)
    card = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "sha256": hashlib.sha256(numbers).hexdigest(),
        **about,
    }
    return path, write_json(folder / f"{name}.json", card)


def read(card: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays of a card of this kind, and the card without what `write` adds.

    Raises:
        WeightsError: in one line, what is wrong with the files.
        OSError: one of them can't be read.
    """
    about = _card(card, kind)
    path = card.with_suffix(".safetensors")
    numbers = path.read_bytes()
    if hashlib.sha256(numbers).hexdigest() != about.get("sha256"):
        raise WeightsError(f"{path} is damaged: it has not the digest that {card} says")
    try:
        arrays = safetensors.numpy.load(numbers)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path}: {' '.join(str(error).split())}") from None
    known = {"schema_version", "kind", "sha256"}
    return arrays, {key: value for key, value in about.items() if key not in known}


def _card(path: Path, kind: str) -> dict[str, Any]:
    card = read_object(path)
    if card.get("kind") != kind:
        what = kind.rpartition(".")[2]
        raise WeightsError(f"{path} describes no {what}: its kind is not {kind!r}")
    if card.get("schema_version") != SCHEMA_VERSION:
        raise WeightsError(
            f"{path} has schema version {card.get('schema_version')!r}; "
            f"this reads {SCHEMA_VERSION}"
        )
    return card


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
        WeightsError: there is none in it.
        OSError: it can't be read.
    """
    try:
        found = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds no JSON object")
    return found
