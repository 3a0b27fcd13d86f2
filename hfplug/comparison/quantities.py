"""Numbers as people read them: 1.2M parameters, 540 MB, 0.31 s. What was not measured is an en dash."""

from __future__ import annotations

from collections.abc import Sequence

NOT_MEASURED = "–"

_BYTES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "B"))
_COUNTS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"), (1, ""))


def count(value: float | None) -> str:
    """A count in at most five characters: ``999``, ``1.23k``, ``294k``, ``1.1G``."""
    if value is None:
        return NOT_MEASURED
    size, unit = _scale(value, _COUNTS)
    return f"{_scaled(value, size)}{unit}"


def number(value: float | None) -> str:
    """A number with three figures, whole from 100 on: ``0.123``, ``1.23``, ``12.3``, ``1,234``."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.0f}" if value == 0 else _figures(value)


def share(value: float | None) -> str:
    """A share as a percentage: ``0.22 %``, ``100 %``."""
    return NOT_MEASURED if value is None else f"{number(100 * value)} %"


def points(value: float | None) -> str:
    """A signed difference in points of ROUGE: ``+13.6``, ``−0.4``."""
    return NOT_MEASURED if value is None else f"{value:+.1f}".replace("-", "−")


def seconds(value: float | None, *, unit: bool = False) -> str:
    """A time in seconds; with ``unit`` in the unit that fits: ``31 ms``, ``1.2 s``, ``4 min``."""
    if value is None:
        return NOT_MEASURED
    if not unit:
        return number(value)
    if value < 1:
        return f"{number(1000 * value)} ms"
    if value < 120:
        return f"{number(value)} s"
    return f"{number(value / 60)} min" if value < 7200 else f"{number(value / 3600)} h"


def p_value(value: float | None, *, sign: bool = False) -> str:
    """A p-value: ``<0.001``, ``0.03``, ``0.5``; with ``sign`` an equals sign where there is no other."""
    if value is None:
        return NOT_MEASURED
    if value < 0.001:
        return "< 0.001" if sign else "<0.001"
    shown = f"{value:.3f}" if value < 0.095 else f"{value:.2f}"
    return f"= {shown}" if sign else shown


def memory(value: float | None) -> str:
    """Bytes in decimal units (1 MB is 1,000,000 bytes, as disks are counted): ``540 MB``."""
    if value is None:
        return NOT_MEASURED
    size, unit = _scale(value, _BYTES)
    return f"{_scaled(value, size)} {unit}"


def memory_parts(values: Sequence[float | None]) -> str:
    """Amounts of bytes that add up, in the unit of the largest: ``0.54+0.003+0.007+1.70 GB``."""
    known = [value for value in values if value is not None]
    if not known:
        return NOT_MEASURED
    size, unit = _scale(max(known), _BYTES)
    shown = [NOT_MEASURED if value is None else _scaled(value, size) for value in values]
    return f"{'+'.join(shown)} {unit}"


def _scale(value: float, units: Sequence[tuple[int, str]]) -> tuple[int, str]:
    """The largest unit of which the value holds one, counting what rounds up to one."""
    return next(((size, unit) for size, unit in units if abs(value) >= 0.9995 * size), units[-1])


def _scaled(value: float, size: int) -> str:
    return f"{value:,.0f}" if size == 1 else number(value / size)


def _figures(value: float) -> str:
    """Three figures; trailing zeros stay, so that columns line up."""
    size = abs(value)
    decimals = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.0995 else 3
    if 0 < size < 0.0005:
        return f"{value:.1e}"
    return f"{value:,.{decimals}f}"
