"""Whether the probe in a lock is one that can be compared at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hfplug.errors import AdapterError


def check_probe(probe: Mapping[str, Any], *, newest: int) -> None:
    """Refuse a probe that cannot be compared.

    Args:
        probe: From the lock.
        newest: The latest version that can be read.

    Raises:
        AdapterError: It is of a later version, or damaged.
    """
    version = probe.get("probe_version") if isinstance(probe, Mapping) else None
    if not isinstance(version, int) or not probe.get("inputs"):
        raise AdapterError("The probe in the lock is damaged: it has no inputs.", fix="Export the adapter again.")
    if version > newest:
        raise AdapterError(
            f"The probe of this adapter has version {version}; this hfplug reads versions up to {newest}.",
            fix="Type: pip install --upgrade hfplug",
        )
    _check_numbers(probe)


def _check_numbers(probe: Mapping[str, Any]) -> None:
    """Refuse a probe that any model would pass: one without numbers, or with NaN or infinity among them."""
    try:
        for row in probe["inputs"]:
            count = len(row["positions"])
            if not count or {len(row[key]) for key in ("ids", "values", "rms")} != {count}:
                raise ValueError("each position needs its ids, values and rms")
            numbers = [*row["rms"], *(value for line in row["values"] for value in line)]
            if not all(math.isfinite(number) and math.isfinite(float(number) ** 2) for number in numbers):
                raise ValueError("not all of its numbers are finite")
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise AdapterError(f"The probe in the lock is damaged: {error}.", fix="Export the adapter again.") from error
