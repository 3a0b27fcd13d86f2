"""The rows and the batch that the preflight looks at."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from hfplug.training.preflight_trace import can_be_read_twice

ROWS_READ = 2000
ROWS_OF_A_STREAM = 64
SECONDS_OF_READING = 3.0
# A pass on a CPU takes seconds for so many tokens, and minutes for a batch of long rows.
TOKENS_ON_CPU = 512
SHORT_ROW = 64


@dataclass
class Sample:
    """What the checks share.

    Attributes:
        rows: Up to :data:`ROWS_READ` rows of the training data.
        total: Rows in all, or None for a stream.
        batch: A batch of the longest rows, as the Trainer would make it, on the model's device; None if it could not
            be made.
        small: What is sent through the model: the same, or on a CPU fewer and shorter rows where those are long.
        why_not: Why there is no batch.
        findings: What one check leaves for another.
    """

    rows: list[dict[str, Any]]
    total: int | None
    batch: dict[str, Any] | None
    small: dict[str, Any] | None = None
    why_not: str = ""
    findings: dict[str, Any] = field(default_factory=dict)

    def need_batch(self) -> dict[str, Any]:
        """The batch.

        Raises:
            ValueError: There is none.
        """
        if self.batch is None:
            raise ValueError(f"no batch could be made ({self.why_not})")
        return dict(self.batch)

    def need_small(self) -> dict[str, Any]:
        """What is sent through the model.

        Raises:
            ValueError: There is none.
        """
        return self.need_batch() if self.small is None else dict(self.small)


def take_sample(trainer: Any) -> Sample:
    """Read rows, and collate a batch of the longest of them.

    Args:
        trainer: A Trainer with a ``train_dataset``.
    """
    data, collator = trainer.train_dataset, trainer.data_collator
    try:
        data, collator = _without_unused_columns(trainer, data, collator)
        total = len(data) if hasattr(data, "__len__") else None
        if total is None and not can_be_read_twice(data):
            return Sample(rows=[], total=None, batch=None, why_not="the stream can be read only once")
        rows = _read(data, total)
    except Exception as error:  # a data set of somebody's own
        return Sample(rows=[], total=None, batch=None, why_not=_first_line(error))
    try:
        size = min(trainer.args.per_device_train_batch_size, 4)
        chosen = sorted(rows, key=row_length, reverse=True)[:size]
        batch = _collated(trainer, collator, chosen)
        small = None
        if token_count(batch) > TOKENS_ON_CPU and trainer.args.device.type == "cpu":
            enough = min(SHORT_ROW, max(map(row_length, rows)))
            short = sorted((row for row in rows if row_length(row) >= enough), key=row_length)
            small = _collated(trainer, collator, short[: min(size, 2)])
        return Sample(rows=rows, total=total, batch=batch, small=small)
    except Exception as error:  # a collator of somebody's own
        return Sample(rows=rows, total=total, batch=None, why_not=_first_line(error))


def _collated(trainer: Any, collator: Any, rows: list[Any]) -> dict[str, Any]:
    return dict(trainer._prepare_inputs(collator([dict(row) if isinstance(row, dict) else row for row in rows])))


def token_count(batch: dict[str, Any]) -> int:
    """Places of a batch's inputs and targets, padding included; its rows where it has neither.

    Args:
        batch: As a collator makes it.
    """
    places = {}
    for name in ("input_ids", "labels"):
        value = batch.get(name)
        if isinstance(value, torch.Tensor) and value.dim() == 2:
            places[tuple(value.shape)] = value.numel()  # labels that are places of the input count once
    if places:
        return sum(places.values())
    return next((value.shape[0] for value in batch.values() if isinstance(value, torch.Tensor) and value.dim()), 1)


def row_length(row: Any) -> int:
    """Real tokens of a row's input."""
    mask = row.get("attention_mask") if isinstance(row, dict) else None
    ids = row.get("input_ids", ()) if isinstance(row, dict) else ()
    return int(sum(mask)) if mask is not None and len(mask) else len(ids)


def _without_unused_columns(trainer: Any, data: Any, collator: Any) -> tuple[Any, Any]:
    """The data and the collator of which Trainer's own loader is made."""
    if getattr(data, "column_names", None):
        return trainer._remove_unused_columns(data), collator
    return data, trainer._get_collator_with_removed_columns(collator, description="training")


def _read(data: Any, total: int | None) -> list[Any]:
    """Rows, evenly spread where there is a length, so that a sorted file is seen from both ends."""
    started = time.perf_counter()
    if total is None:
        rows: Any = itertools.islice(iter(data), ROWS_OF_A_STREAM)
    else:
        places = range(0, total, max(total // ROWS_READ, 1))[:ROWS_READ]
        # Far apart ones first: where time runs out, they still come from everywhere.
        rows = (data[at] for first in range(8) for at in places[first::8])
    found = []
    for row in rows:
        found.append(row)
        if time.perf_counter() - started > SECONDS_OF_READING and len(found) >= ROWS_OF_A_STREAM // 4:
            break
    return found


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:200]


def first_rows(batch: dict[str, Any], count: int) -> dict[str, Any]:
    """The first rows of a batch.

    Args:
        batch: Tensors of shape (rows, …), and other values, which are kept.
        count: How many.
    """
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor) and value.dim()}
    rows = next((tensors[name].shape[0] for name in ("input_ids", "labels", *tensors) if name in tensors), 0)
    return {**batch, **{name: value[:count] for name, value in tensors.items() if value.shape[0] == rows}}


def has_adapter(model: Any) -> bool:
    """Whether a model is PEFT's, be it by hfplug or by the script itself."""
    from peft import PeftModel

    return isinstance(model, PeftModel)
