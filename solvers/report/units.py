"""Numbers as text: four significant digits, a prefix that fits the unit. `assets/base.js` mirrors this."""

import math
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import NamedTuple

MISSING = "–"
_BINARY = tuple(
    (f"{p}B", 1024.0**i) for i, p in enumerate(("", "Ki", "Mi", "Gi", "Ti", "Pi"))
)
_RATE = tuple(
    (f"{p}B/s", 1000.0**i) for i, p in enumerate(("", "k", "M", "G", "T", "P"))
)
_TIME = (("ps", 1e-12), ("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0))
_PREFIXES = {"B": _BINARY, "B/s": _RATE, "s": _TIME}


class Scale(NamedTuple):
    """What to divide by, and the unit to write after the quotient."""

    divisor: float
    unit: str


def scale_for(values: Iterable[float], unit: str) -> Scale:
    """Returns the largest prefixed unit in which the largest of the values is at least one."""
    steps = _PREFIXES.get(unit)
    finite = [abs(value) for value in values if math.isfinite(value)]
    if steps is None or not finite or max(finite) == 0:
        return Scale(1.0, unit)
    name, divisor = next((s for s in reversed(steps) if max(finite) >= s[1]), steps[0])
    return Scale(divisor, name)


def significant(value: float) -> str:
    """Returns the value with four significant digits, whole digits grouped by commas."""
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(float(value))
    sign = "-" if value < 0 else ""
    if size == 0:
        return "0"
    if size >= 1e15 or size < 1e-4:
        mantissa, exponent = f"{size:.3e}".split("e")
        return f"{sign}{_trim(mantissa)}e{int(exponent)}"
    decimals = max(0, 3 - _exponent(size))
    rounded = Decimal(size).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)
    return sign + _trim(f"{rounded:,f}")


def decimals_for(values: Iterable[float]) -> int:
    """Returns how many decimals tell the values apart when they stand below each other."""
    sizes = [abs(value) for value in values if math.isfinite(value) and value]
    if not sizes or all(float(size).is_integer() for size in sizes):
        return 0
    wanted = max(3 - _exponent(max(sizes)), 1 - _exponent(min(sizes)))
    return min(max(wanted, 0), 6)


def aligned(values: Sequence[float], decimals: int) -> list[str]:
    """Returns the values with as many decimals each; zero stays short."""
    return [
        f"{value:,.{decimals}f}"
        if math.isfinite(value) and value
        else significant(value)
        for value in values
    ]


def format_value(value: str | float | None, unit: str = "") -> str:
    """Returns the text of a value: strings as they are, numbers scaled to a readable unit.

    The units "B", "B/s" and "s" take prefixes; "%" multiplies nothing; any other unit is appended.
    Whole numbers without a prefixed unit keep all their digits.
    """
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not math.isfinite(value):
        return significant(value)
    scale = scale_for([value], unit)
    plain = unit not in _PREFIXES and float(value).is_integer() and abs(value) < 2**53
    return with_unit(
        f"{int(value):,}" if plain else significant(value / scale.divisor), scale.unit
    )


def with_unit(number: str, unit: str) -> str:
    """Returns the number followed by its unit; "%" and "×" stand close to it."""
    return number + unit if unit in ("", "%", "×") else f"{number} {unit}"


def _exponent(size: float) -> int:
    """Returns the power of ten of a positive number once rounded to four digits."""
    return int(f"{size:.3e}".split("e")[1])


def _trim(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number
