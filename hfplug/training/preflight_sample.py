"""The rows and the pass that the preflight looks at, and how everything is put back afterwards."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

ROWS_READ = 2000


@dataclass
class Sample:
    """What the checks share.

    Attributes:
        rows: Up to :data:`ROWS_READ` rows of the training data.
        total: Rows in all, or None for a stream.
        batch: A batch as the Trainer would make it, on the model's device; None if it could not be made.
        why_not: Why there is no batch.
        findings: What one check leaves for another.
    """

    rows: list[dict[str, Any]]
    total: int | None
    batch: dict[str, Any] | None
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


def take_sample(trainer: Any) -> Sample:
    """Read rows, and collate a batch of the longest of the first few.

    Args:
        trainer: A Trainer with a ``train_dataset``.
    """
    data = trainer.train_dataset
    try:
        if hasattr(data, "column_names") and data.column_names:
            data = trainer._remove_unused_columns(data)
        total = len(data) if hasattr(data, "__len__") else None
        if total is None:
            rows = list(itertools.islice(iter(data), 64))
        else:
            # Evenly spread, so that a sorted file is seen from both ends.
            step = max(total // ROWS_READ, 1)
            rows = [data[at] for at in range(0, total, step)][:ROWS_READ]
    except Exception as error:  # a data set of somebody's own
        return Sample(rows=[], total=None, batch=None, why_not=_first_line(error))
    try:
        size = min(trainer.args.per_device_train_batch_size, 4)
        chosen = sorted(rows, key=row_length, reverse=True)[:size]
        batch = trainer._prepare_inputs(trainer.data_collator([dict(row) for row in chosen]))
        return Sample(rows=rows, total=total, batch=dict(batch))
    except Exception as error:  # a collator of somebody's own
        return Sample(rows=rows, total=total, batch=None, why_not=_first_line(error))


def row_length(row: Any) -> int:
    """Real tokens of a row's input."""
    mask = row.get("attention_mask") if isinstance(row, dict) else None
    ids = row.get("input_ids", ()) if isinstance(row, dict) else ()
    return int(sum(mask)) if mask is not None and len(mask) else len(ids)


@contextlib.contextmanager
def nothing_changed(trainer: Any) -> Iterator[None]:
    """Put random numbers, buffers, gradients, modes and the adapter's state back after the block."""
    model = trainer.model
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    training = model.training
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if buffer.numel() < 1_000_000}
    plug = model.__dict__.get("_hfplug")
    fresh = plug.state if plug is not None else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)
        model.train(training)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers and buffers[name].shape == buffer.shape:
                    buffer.copy_(buffers[name])
        model.zero_grad(set_to_none=True)
        if plug is not None:
            plug.state = fresh


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:200]
