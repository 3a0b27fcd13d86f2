"""What a study is to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfplug.adapters.task import Task
from hfplug.errors import StudyError
from hfplug.methods import TuningMethod


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Everything that decides the numbers of a study. The same settings give the same table.

    Attributes:
        base: Repo id or folder of the base.
        data: Hub id, file or folder of the data.
        task: What is taught.
        methods: What to train, each on the same rows, in the same order, for the same steps.
        out: The folder that everything goes into.
        revision: Commit, branch or tag of the base. ``data_revision``: of the data.
        train_split: Rows to train on, in the syntax of ``datasets``; None chooses. ``eval_split``: to score on.
        max_train_rows: Use only the first so many rows; None for all. ``max_eval_rows``: of those to score on.
        empty_rows: ``"error"`` or ``"skip"``.
        epochs: Passes over the training rows. ``max_steps``: optimiser steps instead, if given.
        batch_size: Rows a forward pass. ``gradient_accumulation_steps``: passes an optimiser step.
        learning_rates: By method, where the advised one is not wanted.
        lr_scheduler_type: Of transformers. ``warmup_ratio``: share of the steps, 0 to 1.
        eval_batch_size: Rows a batch when texts are generated.
        eval_loss_rows: Rows of the evaluation split whose loss is followed during training.
        gradient_checkpointing: ``"on"`` or ``"off"``.
        seed: Of the order of rows, the initialisation and the resampling.
        dtype: Of the base's weights.
    """

    base: str
    data: str
    task: Task
    methods: tuple[TuningMethod, ...]
    out: Path
    revision: str | None = None
    data_revision: str | None = None
    train_split: str | None = None
    eval_split: str | None = None
    max_train_rows: int | None = None
    max_eval_rows: int | None = None
    empty_rows: str = "error"
    epochs: float = 3.0
    max_steps: int | None = None
    batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.05
    eval_batch_size: int = 16
    eval_loss_rows: int = 32
    gradient_checkpointing: str = "off"
    seed: int = 42
    dtype: str = "auto"

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        if not names:
            raise StudyError("A study needs a method to train.", fix="For example --methods full,lora")
        if len(set(names)) < len(names):
            raise StudyError(f"Each method can be in a study once; the methods are {', '.join(names)}.")
        strangers = [name for name in self.learning_rates if name not in names]
        if strangers:
            raise StudyError(
                f"A learning rate is given for {strangers[0]!r}, which is not trained.",
                fix=f"The methods are {', '.join(names)}.",
            )
        for name in ("batch_size", "gradient_accumulation_steps", "eval_batch_size", "epochs"):
            if not getattr(self, name) > 0:
                raise StudyError(f"{name} must be more than 0, not {getattr(self, name)}.")
        for name in ("max_train_rows", "max_eval_rows", "max_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise StudyError(f"{name} must be 1 or more, not {getattr(self, name)}.")
        if not 0 <= self.warmup_ratio <= 1:
            raise StudyError(f"warmup_ratio is a share between 0 and 1, not {self.warmup_ratio}.")

    def to_json(self) -> dict[str, Any]:
        """All settings but the folder, as JSON values."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        del values["out"]
        values["task"] = self.task.to_json()
        values["methods"] = {method.name: method.settings() for method in self.methods}
        values["learning_rates"] = dict(self.learning_rates)
        return values
