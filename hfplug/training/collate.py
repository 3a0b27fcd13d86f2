"""From rows to batches: padded to the longest row of the batch, and what that costs counted."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import DataCollatorForSeq2Seq

from hfplug.errors import DataError

if TYPE_CHECKING:
    import torch
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

IGNORED = -100


class LengthCollator(DataCollatorForSeq2Seq):
    """``DataCollatorForSeq2Seq`` that leaves the column ``length`` out: models do not take it."""

    def __call__(self, features: Sequence[Mapping[str, Any]], return_tensors: str | None = None) -> BatchEncoding:
        rows = [{key: value for key, value in row.items() if key != "length"} for row in features]
        return super().__call__(rows, return_tensors)


def make_collator(
    tokenizer: PreTrainedTokenizerBase,
    *,
    model: PreTrainedModel | None = None,
    pad_to_multiple_of: int | None = None,
) -> LengthCollator:
    """A collator for training, for seq2seq and for causal models.

    Inputs are padded on the right to the longest in the batch, labels with -100, never with the padding
    token: a model that is taught to write padding is what a printed loss of 49 looks like.

    Args:
        tokenizer: The base's. It is copied, not changed; without a padding token the end-of-text token
            pads (its attention mask is 0 and its label -100, so that it does not count).
        model: If given and a seq2seq model, the batch gets ``decoder_input_ids`` as well, which label
            smoothing needs.
        pad_to_multiple_of: Pad on to a multiple of this, e.g. 8 for tensor cores.

    Returns:
        A callable: list of rows -> batch with ``input_ids`` and ``attention_mask`` (rows, longest input)
        and ``labels`` (rows, longest labels), all int64.

    Raises:
        DataError: The tokenizer has neither a padding nor an end-of-text token.
    """
    own = copy.deepcopy(tokenizer)
    own.padding_side = "right"
    if own.pad_token_id is None:
        if own.eos_token_id is None:
            raise DataError(
                "The tokenizer has neither a padding token nor an end-of-text token to pad with.",
                fix="Set tokenizer.pad_token to a token of its vocabulary.",
            )
        own.pad_token = own.eos_token
    return LengthCollator(own, model=model, label_pad_token_id=IGNORED, pad_to_multiple_of=pad_to_multiple_of)


def token_counts(batch: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """How many tokens of a batch are text and how many are padding.

    Encoder input and labels count for an encoder-decoder batch. In a causal batch the labels are the
    input once more, so that the input alone counts.

    Args:
        batch: ``input_ids`` (rows, longest) or ``inputs_embeds`` (rows, longest, width), and if there are any
            ``attention_mask`` (rows, longest) and ``labels``. Without inputs nothing is counted.

    Returns:
        (real, padding); their sum is the number of positions that were computed.
    """
    inputs = batch.get("input_ids")
    if inputs is None:
        embedded = batch.get("inputs_embeds")
        if embedded is None:
            return 0, 0
        inputs = embedded[..., 0]
    mask = batch.get("attention_mask")
    positions = inputs.numel()
    real = positions if mask is None or mask.ndim != 2 else int((mask != 0).sum())
    labels = batch.get("labels")
    if labels is not None and labels.ndim == 2 and not _is_causal(inputs, labels):
        positions += labels.numel()
        real += int((labels != IGNORED).sum())
    return real, positions - real


def _is_causal(inputs: torch.Tensor, labels: torch.Tensor) -> bool:
    if inputs.shape != labels.shape:
        return False
    counted = labels != IGNORED
    return bool((inputs[counted] == labels[counted]).all())
