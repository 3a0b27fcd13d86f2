"""The record of a run that just ended: what Trainer's state, the model and the meter know, put together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hfplug.adapters.record import Record
from hfplug.adapters.task import Task
from hfplug.models.anatomy import count_parameters
from hfplug.models.factory import Applied, applied_to
from hfplug.models.memory import tensor_bytes
from hfplug.models.sharded import sharding_of
from hfplug.training.meter import RunFigures

# What Trainer logs of an evaluation beside how good the model is.
_IS_COST = re.compile(r"_(runtime|per_second|preparation_time|compilation_time)$")


def record_of(
    model: nn.Module,
    args: Any,
    state: Any,
    *,
    task: Task | None,
    data: Mapping[str, Any],
    figures: RunFigures | None,
    chosen: Path | None,
) -> Record:
    """The record of a run that just ended.

    Args:
        model: The model as ``Trainer`` holds it.
        args: ``TrainingArguments``.
        state: ``TrainerState``; its log history holds every loss and metric.
        task: What was taught.
        data: What it was taught with.
        figures: What the run cost.
        chosen: The checkpoint that is exported.
    """
    applied = applied_to(model)
    best: dict[str, Any] = {}
    if args.load_best_model_at_end and args.metric_for_best_model:
        best = {
            "best_metric": args.metric_for_best_model,
            "best_value": state.best_metric,
            "best_checkpoint": chosen.name if chosen is not None else None,
        }
    return Record.from_log_history(
        state.log_history,
        method=applied.method.name if applied else _peft_name(model),
        method_settings=applied.method.changed_settings() if applied else {},
        all_method_settings=applied.method.settings() if applied else {},
        task=task.name if task else None,
        base=(applied.base_name if applied else getattr(model.config, "_name_or_path", None)) or None,
        base_commit=applied.base_commit if applied else None,
        data=data,
        model_performance=_performance(state, chosen),
        steps=state.global_step,
        epochs=state.epoch,
        batch_size=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        learning_rate=args.learning_rate,
        seed=args.seed,
        parameter_efficiency=parameter_efficiency(model, applied),
        memory_efficiency=_memory(figures),
        training_speed=_speed(figures, state),
        **best,
    )


def _performance(state: Any, chosen: Path | None) -> dict[str, Any]:
    """What the evaluation at the chosen checkpoint came to; nothing if there was none at that step."""
    name = chosen.name.rpartition("-")[2] if chosen is not None else ""
    step = int(name) if name.isdigit() else state.global_step
    logged = [item for entry in state.log_history if entry.get("step") == step for item in entry.items()]
    found = {key: value for key, value in logged if key.startswith("eval_") and not _IS_COST.search(key)}
    return {"metrics": found} if found else {}


def parameter_efficiency(model: nn.Module, applied: Applied | None) -> dict[str, Any]:
    """Trainable and total weights, their share, and the bytes of an adapter against those of a full copy.

    Args:
        model: A model ready to train.
        applied: What hfplug put on it, if it did.
    """
    trainable = count_parameters(model, trainable="only")
    total = applied.anatomy.parameters if applied else count_parameters(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Where each process holds a part, its storages say nothing of the whole.
    whole = sum(one.numel() * one.element_size() for one in trained) if sharding_of(model) else None
    adapter_bytes = tensor_bytes(trained) if whole is None else whole
    return {
        "trainable_parameters": trainable,
        "total_parameters": total,
        "share": trainable / total if total else None,
        "adapter_bytes": adapter_bytes,
        "full_copy_bytes": total * _stored_bytes(model),
    }


def _stored_bytes(model: nn.Module) -> int:
    """Bytes a weight of a full copy: that of the base's own dtype, 4-bit weights counted as unpacked."""
    dtype = getattr(model, "dtype", None)
    return dtype.itemsize if dtype is not None and dtype.is_floating_point else 4


def _memory(figures: RunFigures | None) -> dict[str, Any]:
    """Of one process: the one with the highest peak, as it decides whether a run fits; then each, and all together."""
    if figures is None or figures.training_memory is None:
        return {}
    predicted = figures.predicted_peak_bytes
    found = {
        "peak_training_bytes": figures.peak_training_bytes,
        **({} if predicted is None else {"predicted_peak_bytes": predicted}),
        **figures.training_memory,
        "process_peak_bytes": figures.process_peak_bytes,
    }
    parts = [RunFigures.of(values) for values in figures.processes]
    if len(parts) < 2 or any(one.training_memory is None for one in parts):
        return found
    peaks = [one.peak_training_bytes or 0 for one in parts]
    highest = parts[peaks.index(max(peaks))]
    return {
        **found,
        "peak_training_bytes": highest.peak_training_bytes,
        **(highest.training_memory or {}),
        "process_peak_bytes": highest.process_peak_bytes,
        "total_peak_training_bytes": sum(peaks),
        "processes": [{"peak_training_bytes": one.peak_training_bytes, **(one.training_memory or {})} for one in parts],
    }


def _speed(figures: RunFigures | None, state: Any) -> dict[str, Any]:
    runtime = next((entry["train_runtime"] for entry in reversed(state.log_history) if "train_runtime" in entry), None)
    values: dict[str, Any] = {"training_seconds": runtime}
    if figures is not None:
        values |= {
            "seconds_per_step": figures.seconds_per_step,
            "real_tokens_per_second": figures.real_tokens_per_second,
            "padding_share": figures.padding_share,
            "warmup_steps_skipped": figures.warmup_steps_skipped,
        }
        values |= _speed_of_all([RunFigures.of(one) for one in figures.processes])
    return {name: value for name, value in values.items() if value is not None}


def _speed_of_all(parts: list[RunFigures]) -> dict[str, Any]:
    """The speed of several processes together: a step takes as long as that of the slowest; tokens add up."""
    if len(parts) < 2:
        return {}
    each = [
        {
            "seconds_per_step": one.seconds_per_step,
            "real_tokens_per_second": one.real_tokens_per_second,
            "padding_share": one.padding_share,
        }
        for one in parts
    ]
    if any(one.seconds_per_step is None for one in parts):
        return {"processes": each}
    seconds = max(sum(one.step_seconds) for one in parts)
    real, padding = sum(one.real_tokens for one in parts), sum(one.padding_tokens for one in parts)
    return {
        "seconds_per_step": max(one.seconds_per_step or 0.0 for one in parts),
        "real_tokens_per_second": real / seconds if seconds else None,
        "padding_share": padding / (real + padding) if real + padding else None,
        "processes": each,
    }


def _peft_name(model: Any) -> str:
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return "full"
    return str(model.active_peft_config.peft_type.value).lower()
