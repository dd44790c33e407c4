"""Budgets and byte sizes as a person writes them: `30s`, `2000evals`, `64MiB`."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

EndedBy = Literal["seconds", "simulations", "measurements", "interrupt"]

_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_COUNTS = {
    "eval": "simulations",
    "evaluation": "simulations",
    "sim": "simulations",
    "simulation": "simulations",
    "compile": "measurements",
    "measurement": "measurements",
}
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_BUDGET_HELP = "write 30s, 5m, 1h, 2000evals, 8compiles, or several as 5m,8compiles"
_QUANTITY = re.compile(r"(\d[\d_]*(?:\.\d+)?)\s*([A-Za-z]*)")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a search may spend; it ends at whichever limit comes first.

    Attributes:
        seconds: wall time.
        simulations: evaluations by the simulator.
        measurements: calls of the oracle (compiles, real runs).
    """

    seconds: float | None = None
    simulations: int | None = None
    measurements: int | None = None

    def __post_init__(self) -> None:
        limits = (self.seconds, self.simulations, self.measurements)
        if all(limit is None for limit in limits):
            raise ValueError(f"the budget is empty: {_BUDGET_HELP}")
        if any(limit is not None and not limit > 0 for limit in limits):
            raise ValueError("a budget must be more than nothing")

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Returns the budget that `text` says.

        Args:
            text: one limit or several with commas, each a number and a unit: `ms`, `s`,
                `m`, `h`; `evals`, `sims` (simulations); `compiles`, `measurements`.

        Raises:
            ValueError: with a sentence that names the fault and shows the right form.
        """
        limits: dict[str, float] = {}
        for part in text.split(","):
            match = _QUANTITY.fullmatch(part.strip())
            if match is None:
                raise ValueError(f"{text!r} is not a budget: {_BUDGET_HELP}")
            number, unit = match.groups()
            if not unit:
                raise ValueError(f"{text!r} has no unit: {_BUDGET_HELP}")
            name, value = _limit(number, unit, text)
            if name in limits:
                raise ValueError(f"{text!r} gives {name} twice")
            limits[name] = value
        seconds = limits.get("seconds")
        simulations = limits.get("simulations")
        measurements = limits.get("measurements")
        return cls(
            seconds=seconds,
            simulations=None if simulations is None else int(simulations),
            measurements=None if measurements is None else int(measurements),
        )

    @property
    def deterministic(self) -> bool:
        """True if no clock decides where the search ends."""
        return self.seconds is None

    def __str__(self) -> str:
        parts = []
        if self.seconds is not None:
            parts.append(f"{self.seconds:g}s")
        if self.simulations is not None:
            parts.append(f"{self.simulations}evals")
        if self.measurements is not None:
            parts.append(f"{self.measurements}measurements")
        return ",".join(parts)


def _limit(number: str, unit: str, text: str) -> tuple[str, float]:
    if unit in _SECONDS:
        return "seconds", float(number) * _SECONDS[unit]
    name = _COUNTS.get(unit.removesuffix("s"))
    if name is None:
        raise ValueError(f"{text!r} has an unknown unit {unit!r}: {_BUDGET_HELP}")
    if "." in number:
        raise ValueError(f"{text!r} is not a whole number of {name}")
    return name, int(number)


class Meter:
    """Counts what a search spends and says when its budget has ended.

    The clock starts when the meter is made. A search polls `done()` between steps that
    it can afford to finish.

    Args:
        budget: the limits.
        interrupted: a further reason to stop, polled together with the limits.
        clock: returns seconds from any fixed point.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        interrupted: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget
        self.simulations = 0
        self.predictions = 0
        self.measurements = 0
        self._interrupted = interrupted
        self._clock = clock
        self._start = clock()
        self._ended: EndedBy | None = None

    def spend(
        self, *, simulations: int = 0, predictions: int = 0, measurements: int = 0
    ) -> None:
        """Adds to the counts; a resumed search adds what it had spent before."""
        self.simulations += simulations
        self.predictions += predictions
        self.measurements += measurements

    @property
    def seconds(self) -> float:
        """Wall seconds since the meter was made."""
        return self._clock() - self._start

    @property
    def ended(self) -> EndedBy | None:
        """What ended the search, as the first `done()` that was true found it."""
        return self._ended

    def done(self) -> bool:
        """True once a limit has been reached or the search was interrupted."""
        self._ended = self._ended or self._reached()
        return self._ended is not None

    def fraction(self) -> float:
        """Returns the share of the budget that is spent, from 0 to 1."""
        budget = self.budget
        shares = [0.0]
        if budget.seconds is not None:
            shares.append(self.seconds / budget.seconds)
        if budget.simulations is not None:
            shares.append(self.simulations / budget.simulations)
        if budget.measurements is not None:
            shares.append(self.measurements / budget.measurements)
        return min(1.0, max(shares))

    def evaluations(self) -> dict[str, int]:
        """Returns the counts under the names that the JSON object uses."""
        return {
            "simulator": self.simulations,
            "predictor": self.predictions,
            "oracle": self.measurements,
        }

    def _reached(self) -> EndedBy | None:
        budget = self.budget
        if self._interrupted():
            return "interrupt"
        if budget.simulations is not None and self.simulations >= budget.simulations:
            return "simulations"
        if budget.measurements is not None and self.measurements >= budget.measurements:
            return "measurements"
        if budget.seconds is not None and self.seconds >= budget.seconds:
            return "seconds"
        return None


def parse_bytes(text: str) -> int:
    """Returns the number of bytes that `text` says: `64MiB`, `1.5 GiB`, `2MB`, `4096`.

    Raises:
        ValueError: with a sentence that names the fault and shows the right form.
    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: write 64MiB, 2MB or 4096")
    number, unit = match.groups()
    factor = _BYTES.get(unit or "B")
    if factor is None:
        raise ValueError(
            f"{text!r} has an unknown unit {unit!r}: KiB, MiB, GiB, TiB are powers of "
            "1024, kB, MB, GB, TB powers of 1000"
        )
    whole, _, fraction = number.replace("_", "").partition(".")
    scaled = int(whole + fraction) * factor
    size, rest = divmod(scaled, 10 ** len(fraction))
    if rest:
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return size


def format_bytes(size: int) -> str:
    """Returns `size` bytes for a person: `64 MiB`, `1.50 KiB`, `12 B`."""
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value == int(value) else f"{value:.2f} {unit}"


def exact_bytes(size: int) -> str:
    """Returns `size` in the largest unit that needs no fraction: `64MiB`, `1000B`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"


def format_quantity(value: float, unit: str) -> str:
    """Returns `value` of `unit` for a person: `355.1 µs`, `1.50 KiB`, `0.0213 nats`."""
    if unit == "bytes":
        return format_bytes(round(value))
    if unit != "seconds":
        return f"{value:.4g} {unit}"
    for factor, prefix in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if abs(value) >= factor:
            return f"{value / factor:.4g} {prefix}"
    return f"{value / 1e-9:.4g} ns" if value else "0 s"
