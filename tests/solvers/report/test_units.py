"""Numbers as text."""

import math

import pytest

from solvers.report.units import aligned, decimals_for, format_value, significant


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "B", "0 B"),
        (1023, "B", "1,023 B"),
        (1024, "B", "1 KiB"),
        (3_294_720, "B", "3.142 MiB"),
        (1.43e-3, "s", "1.43 ms"),
        (2.5e-7, "s", "250 ns"),
        (90.0, "s", "90 s"),
        (819e9, "B/s", "819 GB/s"),
        (1.287, "×", "1.287×"),
        (12.5, "%", "12.5%"),
        (1_250_000, "", "1,250,000"),
        (-1234.5, "", "-1,235"),
        (12, "rows", "12 rows"),
        (None, "s", "–"),
        (True, "", "yes"),
        ("as it is", "s", "as it is"),
        (math.inf, "s", "∞"),
        (math.nan, "", "–"),
    ],
)
def test_values_read_well(value: object, unit: str, text: str) -> None:
    assert format_value(value, unit) == text  # type: ignore[arg-type]


def test_four_significant_digits() -> None:
    assert significant(0.00012346) == "0.0001235"
    assert significant(9.9999) == "10"
    assert significant(-2e-9) == "-2e-9"
    assert significant(3.2e17) == "3.2e17"


def test_a_column_shares_its_decimals() -> None:
    values = [2.91, 0.632, 0.0, 1.0]
    assert aligned(values, decimals_for(values)) == ["2.910", "0.632", "0", "1.000"]
    assert decimals_for([1.0, 2000.0]) == 0
