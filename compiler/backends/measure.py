"""Runs a program on the device that this machine has, compiled in several ways, and takes the times.

The device is JAX's own choice (`JAX_PLATFORMS` decides otherwise): a TPU, a GPU, else the CPU, which
does all the same things and stands in for the others. Options that the device's compiler does not
know are left out and named.
"""

import contextlib
import dataclasses
import fcntl
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compiler.backends import jaxlib_adapter
from compiler.backends.base import Source
from compiler.backends.cache import default_folder
from compiler.backends.errors import CompilerError
from compiler.backends.process import Worker
from compiler.backends.timing import FEWEST_RUNS, Ratio, ratio

REPEATS = 21
ENOUGH = 120.0  # Seconds after which a slow program is not run more often.
TIMEOUT = 600.0  # Seconds for each way of compiling, with its runs.
_COMMAND = "compiler.backends.measure_worker"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timed:
    """One way of compiling, timed.

    Attributes:
        seconds: of each run, in the order taken; run k of all ways is taken in one sweep.
        left_out: options that the device's compiler does not know.
        difference: largest difference of a result from that of the first way, relative to the largest
            value of that result; infinite if one of them is not finite there.
        is_bitwise: whether all results are the same bit by bit.
    """

    seconds: tuple[float, ...]
    left_out: tuple[str, ...]
    difference: float
    is_bitwise: bool

    @property
    def median(self) -> float:
        """Median of the runs' seconds."""
        return statistics.median(self.seconds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Ways of compiling one program, timed side by side.

    Attributes:
        platform: `"tpu"`, `"gpu"` or `"cpu"`.
        device: its kind, such as `"TPU v5 lite"`.
        version: of the runtime that ran it.
        ways: as they were given.
    """

    platform: str
    device: str
    version: str
    ways: tuple[Timed, ...]

    @property
    def by(self) -> str:
        """Who measured, and how, in a few words."""
        runs = len(self.ways[0].seconds)
        kind = self.platform.upper() if self.device == self.platform else self.device
        return f"{kind}, {self.version}, median of {runs} interleaved runs"

    def ratio(self, way: int) -> Ratio:
        """Returns the time of a way over that of the first."""
        return ratio(self.ways[way].seconds, self.ways[0].seconds)


def measure(
    source: Source,
    ways: Sequence[Mapping[str, str]],
    *,
    repeats: int = REPEATS,
    seed: int = 0,
    timeout: float = TIMEOUT,
) -> Measured:
    """Compiles a program in several ways and times them by turns, on random arguments of its shapes.

    Integers are drawn from 0 to 3, so that indices and counts are in range. One process of a machine
    measures at a time: the others wait.

    Args:
        source: the program, for one device.
        ways: compile options; what comes first is compared with.
        repeats: runs of each way that are timed; fewer, not below `FEWEST_RUNS`, after `ENOUGH` seconds.
        seed: of the arguments.
        timeout: seconds for each way.

    Raises:
        CompilerError: the device's compiler refuses the program, or it can't be run.
        ValueError: too few repeats, or nothing to measure.
    """
    jaxlib_adapter.check()
    if repeats < FEWEST_RUNS:
        raise ValueError(f"{repeats} runs say too little: at least {FEWEST_RUNS}")
    if not ways:
        raise ValueError("nothing to measure")
    if source.partitions != 1:
        raise CompilerError(
            "failed", f"a program for {source.partitions} devices is not measured"
        )
    with tempfile.TemporaryDirectory(prefix="schedule-zero-") as scratch, _alone():
        (Path(scratch) / "module.bin").write_bytes(source.data)
        request = {
            "folder": scratch,
            "kind": source.kind,
            "ways": [dict(way) for way in ways],
            "repeats": repeats,
            "enough": ENOUGH,
            "seed": seed,
        }
        answer = _ask(request, timeout * len(ways))
    return Measured(
        platform=answer["platform"],
        device=answer["device"],
        version=answer["version"],
        ways=tuple(
            Timed(
                seconds=tuple(way["seconds"]),
                left_out=tuple(way["left_out"]),
                difference=way["difference"],
                is_bitwise=way["is_bitwise"],
            )
            for way in answer["ways"]
        ),
    )


def _ask(request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Has a child measure, which lets go of the device at its end."""
    worker = Worker({}, (sys.executable, "-m", _COMMAND))
    try:
        return worker.ask(request, timeout)
    finally:
        worker.close()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Waits until no other process of this user measures on this machine."""
    folder = default_folder().parent
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "measuring.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
