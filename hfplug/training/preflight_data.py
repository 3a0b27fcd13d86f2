"""Preflight checks of the rows: positions, truncation, padding of labels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from hfplug.models.soft_outputs import extra_positions
from hfplug.training.plug_soft import position_limit
from hfplug.training.preflight_sample import Sample, has_adapter, row_length

Result = tuple[str, str, str]


def input_positions(trainer: Any, sample: Sample) -> Result:
    """Do the longest input and the method's own positions fit the model's?"""
    model = trainer.model
    base = model.get_base_model() if has_adapter(model) else model
    extra = extra_positions(model) if has_adapter(model) else 0
    limit = position_limit(base)
    longest = _longest(trainer, sample)
    if longest is None:
        return "skipped", sample.why_not or "the rows have no input_ids", ""
    if limit is None:
        return "ok", f"up to {longest} tokens and {extra} of the method's; the model has no table of positions", ""
    if longest + extra > limit:
        return (
            "error",
            (
                f"the longest input has {longest} tokens and the method adds {extra}: together more than the {limit} "
                f"positions of this {base.config.model_type} model."
            ),
            f"Let the script cut its inputs at {limit - extra} tokens"
            + (f", or use {limit - longest} virtual tokens." if limit - longest > 0 else "."),
        )
    return "ok", f"up to {longest} tokens and {extra} of the method's, of {limit} positions", ""


def truncated_inputs(trainer: Any, sample: Sample) -> Result:
    """How many inputs, and answers, were cut, and at which end?"""
    lengths = [row_length(row) for row in sample.rows]
    if not lengths or max(lengths) == 0:
        return "skipped", sample.why_not or "the rows have no input_ids", ""
    side = getattr(trainer.processing_class, "truncation_side", "right")
    lost = {"right": "their end", "left": "their beginning"}[side]
    causal = _labels_follow_inputs(sample.rows)
    found = []
    if cut := _at_the_limit(lengths):
        found.append(
            f"{cut} of {len(lengths)} inputs ({cut / len(lengths):.0%}) have exactly {max(lengths)} tokens: "
            f"{lost} was cut."
        )
    answers = [] if causal else [_real_labels(row) for row in sample.rows]
    if answers and max(answers) > 1 and (cut := _at_the_limit(answers)):
        found.append(
            f"{cut} of {len(answers)} targets ({cut / len(answers):.0%}) have exactly {max(answers)} tokens: "
            f"{lost} was cut."
        )
    silent = sum(_says_nothing(row) for row in sample.rows)
    if silent:
        found.append(
            f"{silent} of {len(lengths)} rows ({silent / len(lengths):.0%}) have no label left: the answer was cut "
            "off, and they teach nothing."
        )
    if found:
        advice = "Raise the script's maximum length, or make sure that what matters is not there."
        return "warning", " ".join(found), advice
    if min(lengths) == max(lengths) and len(lengths) > 1:
        return "ok", f"all rows have {max(lengths)} tokens, as grouped texts have", ""
    return "ok", f"{min(lengths)} to {max(lengths)} tokens; no heap of rows at the maximum", ""


def _at_the_limit(lengths: list[int]) -> int:
    """How many rows are as long as the longest, where that looks like scissors, else 0.

    A few rows of one length are a coincidence, and so are many where each length is as frequent. A heap at the very
    maximum, more than at any length near below it, is what truncation leaves. Rows that are all of one length were
    grouped or cut, which their number does not tell.
    """
    counts = Counter(lengths)
    longest = max(lengths)
    heap = counts[longest]
    if len(counts) == 1 or heap < 3 or heap / len(lengths) < 0.005:
        return 0
    near = sorted(counts, reverse=True)[1:6]
    return heap if heap > 2 * max(counts[length] for length in near) else 0


def _labels_follow_inputs(rows: list[Any]) -> bool:
    """Whether the labels of a row are places of its input, as in causal language modelling, or there are none."""
    pairs = [(row["labels"], row["input_ids"]) for row in rows if isinstance(row, dict) and _is_sequence(row)]
    return all(len(labels) == len(ids) for labels, ids in pairs)


def _is_sequence(row: Any) -> bool:
    return hasattr(row.get("labels"), "__len__") and hasattr(row.get("input_ids"), "__len__")


def _real_labels(row: Any) -> int:
    return sum(int(one) != -100 for one in row["labels"]) if isinstance(row, dict) and _is_sequence(row) else 0


def _says_nothing(row: Any) -> bool:
    if not (isinstance(row, dict) and _is_sequence(row)) or getattr(row["labels"], "ndim", 1) != 1:
        return False
    return all(int(one) == -100 for one in row["labels"])


def unmasked_labels(trainer: Any, sample: Sample) -> Result:
    """Is padding among the labels, where the loss would count it?"""
    batch = sample.need_batch()
    labels = batch.get("labels")
    if not isinstance(labels, torch.Tensor) or labels.dim() != 2 or labels.is_floating_point():
        return "ok", "the labels are no sequences", ""
    ids, mask = batch.get("input_ids"), batch.get("attention_mask")
    base = trainer.model.config
    if (
        isinstance(mask, torch.Tensor)
        and isinstance(ids, torch.Tensor)
        and not getattr(base, "is_encoder_decoder", False)
        and labels.shape == mask.shape == ids.shape
    ):
        # The labels are places of the input: what the mask leaves out is padding, whatever its token.
        counted = int(((labels != -100) & (mask == 0)).sum())
    else:
        counted = 0
    if not counted:
        padding = {getattr(base, "pad_token_id", None), getattr(trainer.processing_class, "pad_token_id", None)}
        # One at the end may be the end token, where they are the same.
        runs = [
            max(_trailing(row, value), _trailing(row[::-1], value)) - 1
            for row in labels.tolist()
            for value in padding
            if value is not None
        ]
        counted = sum(max(run, 0) for run in runs)
    masked = int((labels == -100).sum())
    if counted:
        return (
            "warning",
            f"{counted} of {labels.numel()} labels of a batch are padding that the loss counts.",
            "Set them to -100 (DataCollatorForSeq2Seq does it with label_pad_token_id=-100).",
        )
    return "ok", f"{masked} of {labels.numel()} labels of a batch are masked", ""


def _trailing(row: list[int], value: int) -> int:
    count = 0
    for one in reversed(row):
        if one != value:
            break
        count += 1
    return count


def _longest(trainer: Any, sample: Sample) -> int | None:
    """Tokens of the longest input, padding included: it takes positions as well."""
    found = [len(row["input_ids"]) for row in sample.rows if isinstance(row, dict) and "input_ids" in row]
    found += [_longest_in_table(data) for data in (trainer.train_dataset, *_evaluations(trainer))]
    if sample.batch is not None and isinstance(sample.batch.get("input_ids"), torch.Tensor):
        found.append(int(sample.batch["input_ids"].shape[1]))
    return max(found, default=0) or None


def _evaluations(trainer: Any) -> list[Any]:
    data = trainer.eval_dataset
    return list(data.values()) if isinstance(data, dict) else [data] if data is not None else []


def _longest_in_table(data: Any) -> int:
    """The longest ``input_ids`` of a whole Arrow table, read column by column; 0 if it is none."""
    table = getattr(data, "data", None)
    if (
        table is None
        or "input_ids" not in getattr(data, "column_names", ())
        or getattr(data, "_indices", None) is not None
    ):
        return 0
    import pyarrow.compute

    longest = pyarrow.compute.max(pyarrow.compute.list_value_length(table.column("input_ids"))).as_py()
    return int(longest or 0)
