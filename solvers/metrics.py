"""Metrics as JSON lines, one object per iteration, readable by anything; for TensorBoard too, if asked."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from solvers.command import Exit, Failure, write_text


class Metrics:
    """Appends to a file.

    Args:
        path: of the file.
        before: iterations from here on are dropped: a run that goes on from a checkpoint plays
            them again.
        tensorboard: whether to write them for TensorBoard as well, into a folder of that name beside the file.

    Raises:
        Failure: status 2, if that is asked for and its library is not installed.
    """

    def __init__(self, path: Path, *, before: int, tensorboard: bool = False) -> None:
        self._board: Any = None
        if tensorboard:
            self._board = _board(path.parent / "tensorboard", before)
        lines = path.read_text().splitlines() if path.exists() else []
        write_text(path, "".join(f"{x}\n" for x in lines if _iteration(x) < before))
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, iteration: int, values: Mapping[str, Any]) -> None:
        """Writes a line.

        Raises:
            ValueError: if a number is not finite, since JSON has no word for it.
        """
        row = {"iteration": iteration, **values}
        self._file.write(json.dumps(row, sort_keys=True, allow_nan=False) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, iteration)


def _board(folder: Path, before: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise Failure(
            "no_tensorboard",
            "--tensorboard needs tensorboardX: pip install 'schedule-zero[tensorboard]'",
            Exit.USAGE,
        ) from None
    # Only one who goes on has anything to take back.
    return SummaryWriter(
        str(folder), purge_step=before or None, filename_suffix=f".{before}"
    )


def _iteration(line: str) -> float:
    """Returns the iteration of a line; infinite if it was cut short."""
    try:
        return int(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
