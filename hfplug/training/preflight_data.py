"""Preflight checks of the rows: positions, truncation, padding of labels."""

from __future__ import annotations

from typing import Any

import torch

from hfplug.training.plug_exchange import is_plugged
from hfplug.training.plug_soft import extra_positions, position_limit
from hfplug.training.preflight_sample import Sample, row_length

Result = tuple[str, str, str]


def input_positions(trainer: Any, sample: Sample) -> Result:
    """Do the longest input and the method's own positions fit the model's?"""
    model = trainer.model
    base = model.get_base_model() if is_plugged(model) else model
    extra = extra_positions(model) if is_plugged(model) else 0
    limit = position_limit(base)
    longest = _longest(trainer, sample)
    if longest is None:
        return "skipped", "the rows have no input_ids", ""
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
    """How many inputs were cut, and at which end?"""
    lengths = [row_length(row) for row in sample.rows]
    if not lengths or max(lengths) == 0:
        return "skipped", "the rows have no input_ids", ""
    longest = max(lengths)
    at_most = sum(length == longest for length in lengths)
    if at_most == len(lengths) and len(lengths) > 1:
        return "ok", f"all rows have {longest} tokens, as grouped texts have", ""
    share = at_most / len(lengths)
    # A few rows of one length are a coincidence; a heap of them at the very maximum is scissors.
    if at_most < 3 or share < 0.005:
        return "ok", f"{min(lengths)} to {longest} tokens; no heap of rows at the maximum", ""
    side = getattr(trainer.processing_class, "truncation_side", "right")
    lost = {"right": "their end", "left": "their beginning"}[side]
    return (
        "warning",
        f"{at_most} of {len(lengths)} inputs ({share:.0%}) have exactly {longest} tokens: {lost} was cut.",
        ("Raise the script's maximum length, or make sure that what matters is not there."),
    )


def unmasked_labels(trainer: Any, sample: Sample) -> Result:
    """Is padding among the labels, where the loss would count it?"""
    labels = sample.need_batch().get("labels")
    if not isinstance(labels, torch.Tensor) or labels.dim() != 2:
        return "ok", "the labels are no sequences", ""
    padding = getattr(trainer.model.config, "pad_token_id", None)
    if padding is None:
        padding = getattr(trainer.processing_class, "pad_token_id", None)
    if padding is None or labels.is_floating_point():
        return "ok", "there is no padding token", ""
    # One at the end may be the end token, where they are the same.
    runs = [_trailing(row, padding) for row in labels.tolist()]
    counted = sum(max(run - 1, 0) for run in runs)
    masked = int((labels == -100).sum())
    if counted:
        return (
            "warning",
            f"{counted} of {labels.numel()} labels of a batch are padding that the loss counts.",
            ("Set them to -100 (DataCollatorForSeq2Seq does it with label_pad_token_id=-100)."),
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
