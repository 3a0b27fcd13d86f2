"""The peak that the memory plan predicts for a run of a study, before its first step."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

import torch

from hfplug.comparison.answer_trainer import AnswerTrainer, answer_loss, positions_to_keep
from hfplug.comparison.study_inputs import StudyInputs
from hfplug.errors import HfplugError
from hfplug.methods import TuningMethod
from hfplug.models.memory_method import Planned, StepSettings

logger = logging.getLogger(__name__)


def predict_peak(inputs: StudyInputs, method: TuningMethod, trainer: AnswerTrainer) -> int | None:
    """The most bytes that tensors will hold at once, by the shapes of the largest batch that the run will see.

    Args:
        inputs: What the study shares.
        method: The method.
        trainer: Ready to train; it is asked for its rows and its settings, and not changed.

    Returns:
        Bytes; None where the run cannot be planned, which is no reason not to train.
    """
    args: Any = trainer.args
    batch = largest_batch(trainer)
    labels = batch["labels"]
    shapes: dict[str, Any] = {name: tuple(value.shape) for name, value in batch.items()}
    keep = None if trainer.encoder_decoder else positions_to_keep(labels)
    loss = functools.partial(_loss, keep=keep, keeps_logits=trainer.keeps_logits)
    try:
        settings = StepSettings(
            batch=args.per_device_train_batch_size,
            dtype=inputs.settings.dtype,
            optimizer=getattr(args.optim, "value", args.optim),
            checkpointing="on" if inputs.settings.gradient_checkpointing == "on" else "off",
            accumulation=args.gradient_accumulation_steps,
        )
        return Planned(inputs.base, inputs.task_type, method, settings, loss=loss).memory(shapes).peak
    except HfplugError as error:
        logger.warning("%s: its memory was not planned: %s", method.name, error)
        return None


def largest_batch(trainer: Any) -> dict[str, torch.Tensor]:
    """The batch with the most numbers among those that a run will see; among equals the first.

    Args:
        trainer: Ready to train.

    Returns:
        The batch as the model gets it.
    """
    rows = trainer.train_dataset
    batches = trainer.args.max_steps * trainer.args.gradient_accumulation_steps
    sizes = [(len(row["input_ids"]), len(row["labels"])) for row in rows]

    def numbers(indices: list[int]) -> int:
        longest, targets = (max(sizes[at][part] for at in indices) for part in (0, 1))
        # Token ids, their mask and the labels; a causal model is given no labels, which are as long as its ids.
        return len(indices) * (2 * longest + (targets if trainer.encoder_decoder else 0))

    largest = max(_batches(trainer, batches), key=numbers)
    return dict(trainer.data_collator([rows[at] for at in largest]))


def _batches(trainer: Any, count: int) -> Iterator[list[int]]:
    """The rows of each batch of a run, in its order."""
    size, epoch = trainer.args.train_batch_size, 0
    sampler = trainer._get_train_sampler()
    while count > 0:
        sampler.set_epoch(epoch)
        order = list(sampler)
        if not order:
            return
        for start in range(0, len(order), size):
            if count <= 0:
                return
            yield order[start : start + size]
            count -= 1
        epoch += 1


def _loss(model: Any, batch: dict[str, Any], *, keep: int | None, keeps_logits: bool) -> torch.Tensor:
    total, targets, _ = answer_loss(model, batch, keep=keep, keeps_logits=keeps_logits)
    return total / targets.shape[0]
