"""What an adapter's own record says about its training, as fields of a variant; None for what it does not say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.record import Curve
from hfplug.comparison.variants import TrainingMemory

_MEMORY = ("weights", "gradients", "optimizer_states", "rest")


def figures_of(adapter: AdapterDir) -> dict[str, Any]:
    """The trade-offs of an adapter that was trained somewhere else.

    Args:
        adapter: The adapter. One without a record has its bytes and nothing more.

    Returns:
        Keywords of :class:`Variant`. A record is somebody else's file: what is no number is left out.
    """
    figures: dict[str, Any] = {"adapter_bytes": adapter.weight_bytes}
    record = adapter.record
    if record is None:
        return figures
    parameters, memory, speed = record.parameter_efficiency, record.memory_efficiency, record.training_speed
    parts = {name: _whole(memory, name) for name in _MEMORY}
    figures |= {
        "trainable_parameters": _whole(parameters, "trainable_parameters"),
        "trainable_share": _number(parameters, "share"),
        "peak_training_bytes": _whole(memory, "peak_training_bytes"),
        "predicted_peak_bytes": _whole(memory, "predicted_peak_bytes"),
        "training_memory": TrainingMemory(**parts) if any(value is not None for value in parts.values()) else None,
        "process_peak_bytes": _whole(memory, "process_peak_bytes"),
        "seconds_per_step": _number(speed, "seconds_per_step"),
        "real_tokens_per_second": _number(speed, "real_tokens_per_second"),
        "padding_share": _number(speed, "padding_share"),
        "training_seconds": _number(speed, "training_seconds"),
        "warmup_steps_skipped": _whole(speed, "warmup_steps_skipped"),
        "steps": _whole({"steps": record.steps}, "steps"),
        "learning_rate": _number({"learning_rate": record.learning_rate}, "learning_rate"),
        "loss_curve": _curve(record.loss_curve),
        "eval_loss_curve": _curve(record.eval_loss_curve),
    }
    return {name: value for name, value in figures.items() if value is not None}


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def _whole(values: Mapping[str, Any], name: str) -> int | None:
    value = _number(values, name)
    return int(value) if value is not None and value == int(value) else None


def _curve(curve: Curve) -> tuple[tuple[int, float | None], ...]:
    points = [(_whole({"step": step}, "step"), _number({"loss": loss}, "loss")) for step, loss in curve]
    return tuple((step, loss) for step, loss in points if step is not None)
