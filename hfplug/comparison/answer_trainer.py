"""The Trainer of a study: the loss of the answer's tokens alone, the same for every method."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

IGNORED = -100


class AnswerTrainer(Trainer):
    """A Trainer whose loss is the mean cross-entropy over the answers' tokens of a whole optimiser step.

    Differences from the loss inside the models, for a fair comparison of methods:

    * T5 and BART divide by the tokens of each micro-batch, so that under gradient accumulation a short batch
      counts as much as a long one; here every token counts the same.
    * A causal model computes logits, of shape (batch, length, vocabulary), for the prompt as well. Only those
      that the loss reads are asked for here, which saves memory and time.
    * Under a soft prompt the logits are longer than the labels; the end of both is aligned.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        self.keeps_logits = "logits_to_keep" in inspect.signature(base.forward).parameters
        self.encoder_decoder = bool(base.config.is_encoder_decoder)
        # Has Trainer count the labels of the whole step and leave the division to compute_loss.
        self.model_accepts_loss_kwargs = True

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return SeededLengthSampler(
            seed=seed,
            batch_size=self.args.train_batch_size * self.args.gradient_accumulation_steps,
            lengths=[len(ids) for ids in dataset["input_ids"]],
        )

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
        **kwargs: Any,
    ) -> Any:
        keep = None if self.encoder_decoder else positions_to_keep(inputs["labels"])
        loss, targets, outputs = answer_loss(model, inputs, keep=keep, keeps_logits=self.keeps_logits)
        if num_items_in_batch is None:
            loss = loss / (targets != IGNORED).sum().clamp(min=1)
        else:
            loss = loss / num_items_in_batch
            if self.args.average_tokens_across_devices and self.args.world_size > 1:
                loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss


def answer_loss(
    model: Any, inputs: Any, *, keep: int | None, keeps_logits: bool
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """The summed cross-entropy over the answers' tokens of a batch.

    Args:
        model: The model.
        inputs: The batch, with ``labels`` of shape (batch, length).
        keep: For a causal model, how many positions from the end hold all that predicts an answer; None for an
            encoder-decoder.
        keeps_logits: Whether the model can be asked for the logits of those alone.

    Returns:
        The sum, the tokens that were predicted, and the model's outputs.
    """
    labels = inputs["labels"]
    if keep is None:
        outputs = model(**inputs)
        logits, targets = outputs.logits, labels
    else:
        rest = {name: value for name, value in inputs.items() if name != "labels"}
        if keeps_logits:
            rest["logits_to_keep"] = keep
        outputs = model(**rest)
        logits, targets = outputs.logits[:, -keep:][:, :-1], labels[:, -keep:][:, 1:]
    total = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total, targets, outputs


class SeededLengthSampler(LengthGroupedSampler):
    """Rows of like length together, in an order that depends on the seed and the epoch alone.

    The sampler of transformers draws from torch's global state, so that methods that draw differently (dropout,
    initialisation) see other batches, and a resumed run others than an unbroken one.

    Args:
        seed: The seed.
        **kwargs: As for ``LengthGroupedSampler``.
    """

    def __init__(self, *, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader at the start of an epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()


def positions_to_keep(labels: torch.Tensor) -> int:
    """How many positions, from the end, hold all that predicts an answer.

    Args:
        labels: Shape (batch, length), -100 where there is no answer.

    Returns:
        Between 1 and length: the answers and the one position before the earliest of them.
    """
    answered = (labels != IGNORED).any(dim=0)
    first = int(answered.int().argmax()) if bool(answered.any()) else labels.shape[1] - 1
    return min(labels.shape[1], labels.shape[1] - first + 1)
