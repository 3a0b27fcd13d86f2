"""``adapter_callbacks``: everything that hfplug adds to a Trainer, in the right order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfplug.training.exporter import ExporterCallback
from hfplug.training.guard import GuardCallback
from hfplug.training.meter import MeterCallback, RunFigures

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from hfplug.adapters.task import Task


def adapter_callbacks(
    output: str | Path | None = None,
    *,
    task: Task | None = None,
    data: Mapping[str, Any] | None = None,
    figures: RunFigures | None = None,
) -> list[TrainerCallback]:
    """The callbacks for ``Trainer``, ``Seq2SeqTrainer`` or TRL's ``SFTTrainer``.

    The guard comes first, so that nothing is measured or written for a run that must not start; the meter
    before the exporter, which writes down what it measured.

    Args:
        output: Folder of the adapter; ``<output_dir>/adapter`` if None.
        task: What is taught; stored with the adapter, so that whoever loads it knows how to ask.
        data: What it is taught with (source, rows, …), for the record.
        figures: Where the meter puts its figures, for a caller who wants to read them.

    Returns:
        Callbacks for ``Trainer(callbacks=...)``; a fresh list for every Trainer.
    """
    shared = figures if figures is not None else RunFigures()
    return [
        GuardCallback(),
        MeterCallback(shared),
        ExporterCallback(output, task=task, data=data, figures=shared),
    ]
