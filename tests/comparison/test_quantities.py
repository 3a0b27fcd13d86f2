"""Numbers as people read them."""

from __future__ import annotations

import pytest

from hfplug.comparison.quantities import count, memory, memory_parts, number, p_value, points, seconds, share


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (count(0), "0"),
        (count(999), "999"),
        (count(1000), "1.00k"),
        (count(98_304), "98.3k"),
        (count(999_960), "1.00M"),
        (count(247_577_856), "248M"),
        (memory(512), "512 B"),
        (memory(540_000_000), "540 MB"),
        (memory(1_070_000_000), "1.07 GB"),
        (memory_parts((540e6, 4e6, 8e6, None)), "540+4.00+8.00+– MB"),
        (memory_parts((None, None)), "–"),
        (number(0), "0"),
        (number(0.0312), "0.031"),
        (number(0.1), "0.10"),
        (number(9.996), "10.0"),
        (number(99.96), "100"),
        (number(12345.6), "12,346"),
        (number(0.00001), "1.0e-05"),
        (number(-3.14159), "-3.14"),
        (share(0.0022), "0.22 %"),
        (share(1), "100 %"),
        (points(13.64), "+13.6"),
        (points(-0.44), "−0.4"),
        (seconds(0.0312, unit=True), "31.2 ms"),
        (seconds(75, unit=True), "75.0 s"),
        (seconds(600, unit=True), "10.0 min"),
        (seconds(7200, unit=True), "2.00 h"),
        (p_value(0.0002), "<0.001"),
        (p_value(0.0384), "0.038"),
        (p_value(1.0), "1.00"),
        (p_value(0.0384, sign=True), "= 0.038"),
    ],
)
def test_a_quantity_is_shown_with_its_unit(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize("show", [count, memory, number, p_value, points, seconds, share])
def test_nothing_measured_is_a_dash(show) -> None:
    assert show(None) == "–"
