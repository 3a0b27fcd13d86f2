"""``adapter_callbacks``: everything that hfplug adds to a Trainer, in the right order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfplug.hub.outbox_entry import Policy
from hfplug.training.exporter import ExporterCallback
from hfplug.training.guard import GuardCallback
from hfplug.training.meter import MeterCallback, RunFigures
from hfplug.training.push import FLUSH_SECONDS, HubPushCallback, PushWhen

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from hfplug.adapters.task import Task


def adapter_callbacks(
    output: str | Path | None = None,
    *,
    task: Task | None = None,
    data: Mapping[str, Any] | None = None,
    figures: RunFigures | None = None,
    push_to: str | None = None,
    push_when: PushWhen = "save",
    push_policy: Policy = "every",
    flush_seconds: float = FLUSH_SECONDS,
    private: str | None = None,
    **push: Any,
) -> list[TrainerCallback]:
    """The callbacks for ``Trainer``, ``Seq2SeqTrainer`` or TRL's ``SFTTrainer``.

    The guard comes first, so that nothing is measured or written for a run that must not start; the meter
    before the exporter, which writes down what it measured; the push last, because it takes the export.

    Args:
        output: Folder of the adapter; ``<output_dir>/adapter`` if None.
        task: What is taught; stored with the adapter, so that whoever loads it knows how to ask.
        data: What it is taught with (source, rows, …), for the record.
        figures: Where the meter puts its figures, for a caller who wants to read them.
        push_to: ``"owner/name"`` on the Hub to push to while training; None for no push.
        push_when: ``"save"``: every checkpoint; ``"best"``: those that are the best so far; ``"end"``: only
            what training ends with.
        push_policy: ``"every"``: each arrives, in order; ``"newest"``: a later one takes the place of one that
            has not arrived yet.
        flush_seconds: How long the end of training waits for what has not arrived. What has not by then waits
            in the outbox for ``hfplug outbox flush``.
        private: ``"on"`` or ``"off"`` for a repo that has to be made; None for the account's default.
        **push: As for :class:`~hfplug.training.push.HubPushCallback`: ``revision``, ``dtype``, ``licence``, …

    Returns:
        Callbacks for ``Trainer(callbacks=...)``; a fresh list for every Trainer.

    Raises:
        TrainingError: A setting of the push is not one of those.
    """
    shared = figures if figures is not None else RunFigures()
    exporter = ExporterCallback(output, task=task, data=data, figures=shared)
    callbacks = [GuardCallback(), MeterCallback(shared), exporter]
    if push_to is None:
        return callbacks
    settings = {"push_when": push_when, "push_policy": push_policy, "private": private, **push}
    return [*callbacks, HubPushCallback(push_to, exporter=exporter, flush_seconds=flush_seconds, **settings)]
