"""Outputs of a soft-prompted model that are as long as its inputs: for labels of tokens, and for extractive answers.

PEFT puts the trained vectors before the embedded input, so that everything that has a position grows by as many. The
labels of tokens, and the places of answers, are those of the text alone: PEFT hands them on as they are, so that
training fails or learns the wrong places. :func:`see_to_outputs` puts both right with hooks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from hfplug.methods.method import QUESTIONS, TOKENS

# Of PEFT: these go into the cache of keys and values and leave the input as long as it was.
_INTO_THE_CACHE = ("PREFIX_TUNING", "CARTRIDGE")


def extra_positions(model: Any) -> int:
    """How many positions a tuned model puts before its input; 0 for methods that put none.

    Args:
        model: A ``PeftModel``.
    """
    config = model.active_peft_config
    if not config.is_prompt_learning or str(getattr(config.peft_type, "value", config.peft_type)) in _INTO_THE_CACHE:
        return 0
    return int(config.num_virtual_tokens)


def see_to_outputs(model: Any) -> None:
    """See to it that a soft prompt's model takes labels, and gives logits, of the text alone.

    Args:
        model: A ``PeftModel`` with a soft prompt; hooks are put on it. They do nothing for tasks whose labels have no
            place in the text, nor on an object that does this itself (``hfplug run``).
    """
    if str(model.active_peft_config.task_type) in (TOKENS, QUESTIONS):
        model.register_forward_pre_hook(_lengthen, with_kwargs=True)
        model.register_forward_hook(_shorten, with_kwargs=True)


def _is_seen_to(model: Any) -> bool:
    """Whether something else does it, or nothing is to be done: no prompt is active, or it is in the cache."""
    return "_hfplug" in model.__dict__ or not extra_positions(model)


def _lengthen(model: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if _is_seen_to(model):
        return None
    extra, changed = extra_positions(model), dict(kwargs)
    labels = kwargs.get("labels")
    if labels is not None and labels.dim() == 2:
        changed["labels"] = torch.cat([labels.new_full((labels.shape[0], extra), -100), labels], dim=1)
    for name in ("start_positions", "end_positions"):
        if kwargs.get(name) is not None:
            changed[name] = kwargs[name] + extra
    return args, changed


def _shorten(model: Any, args: Any, kwargs: dict[str, Any], outputs: Any) -> Any:
    if _is_seen_to(model) or not hasattr(outputs, "keys"):
        return None
    extra = extra_positions(model)
    logits = next((value for name, value in outputs.items() if name.endswith("logits")), None)
    if logits is None:
        return None
    given = kwargs.get("input_ids", kwargs.get("inputs_embeds"))
    outputs = cut(outputs, logits.shape[1] - extra if given is None else given.shape[1], extra)
    start, end = kwargs.get("start_positions"), kwargs.get("end_positions")
    if start is None or end is None:
        return outputs
    return with_loss(outputs, answer_loss(outputs["start_logits"], outputs["end_logits"], start - extra, end - extra))


def answer_loss(
    start_logits: torch.Tensor, end_logits: torch.Tensor, start: torch.Tensor, end: torch.Tensor
) -> torch.Tensor:
    """The loss of an extractive question answerer: the mean of the cross entropies of start and end.

    Args:
        start_logits: Shape (batch, length).
        end_logits: Shape (batch, length).
        start: Index of the answer's first token, shape (batch) or (batch, 1); beyond the end it counts for nothing.
        end: Index of its last token, likewise.
    """
    length = start_logits.shape[1]
    parts = []
    for logits, target in ((start_logits, start), (end_logits, end)):
        target = (target.squeeze(-1) if target.dim() > 1 else target).clamp(0, length).to(logits.device)
        parts.append(cross_entropy(logits, target, ignore_index=length))
    return (parts[0] + parts[1]) / 2


def cut(outputs: Any, length: int, extra: int, *, but: tuple[str, ...] = ()) -> Any:
    """Cut the first ``extra`` of ``length + extra`` positions off everything that has so many."""
    if not extra:
        return outputs
    for name in list(outputs.keys()):
        if name not in ("loss", "past_key_values", *but):
            outputs[name] = cut_value(outputs[name], length, extra, both="attentions" in name)
    return outputs


def cut_value(value: Any, length: int, extra: int, *, both: bool) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(cut_value(item, length, extra, both=both) for item in value)
    if not isinstance(value, torch.Tensor):
        return value
    if both and value.dim() == 4:  # (batch, heads, query, key)
        rows = value[..., extra:, :] if value.shape[-2] == length + extra else value
        return rows[..., extra:] if rows.shape[-1] == length + extra else rows
    return value[:, extra:] if value.dim() >= 2 and value.shape[1] == length + extra else value


def with_loss(outputs: Any, loss: torch.Tensor) -> Any:
    values = {name: value for name, value in outputs.items() if name != "loss"}
    return type(outputs)(loss=loss, **values)  # in this order: the loss comes first in a tuple
