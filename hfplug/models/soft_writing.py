"""Soft prompts on models that lay out their own inputs for each token that they write.

XLNet and XLM put one more token behind the text and ask for a word in its place; XLNet says by masks who sees it, XLM
gives every token its language. PEFT puts the trained vectors before the embedded text and leaves such tensors as they
are, so that these are too short; and it knows a past only by the name ``past_key_values``, so that it puts the vectors
before each further token of a model that hands its past on by another name (``mems`` of XLNet).
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor

from hfplug.methods.method import CAUSAL
from hfplug.methods.soft_prompts import writes_after_vectors
from hfplug.models.soft_outputs import extra_positions


def see_to_writing(model: Any) -> None:
    """See to it that a model with a soft prompt writes, where the base lays out inputs that have the text's length.

    Args:
        model: A ``PeftModel`` with a prompt that stands before the embedded input. Only a decoder that takes no
            embedded text to begin from (``inputs_embeds`` of ``prepare_inputs_for_generation``) is changed.
    """
    base = model.get_base_model()
    if str(model.active_peft_config.task_type) == CAUSAL and base.can_generate() and not writes_after_vectors(base):
        model.prepare_inputs_for_generation = types.MethodType(_prepare, model)


def _prepare(model: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """What ``generate`` hands to the base for one more token: that of PEFT, with all else as long as its input."""
    given = {**kwargs}  # a base may take words out of what it is given
    if extra_positions(model) and kwargs.get("past_key_values"):
        own: dict[str, Any] = model.base_model_prepare_inputs_for_generation(*args, **given)
        if "past_key_values" not in own:  # handed on by another name, with the prompt in it
            return own
    made: dict[str, Any] = type(model).prepare_inputs_for_generation(model, *args, **kwargs)
    embedded, extra = made.get("inputs_embeds"), extra_positions(model)
    if embedded is None or not extra:
        return made
    text = embedded.shape[1] - extra
    for name, value in made.items():
        if isinstance(value, Tensor) and name not in ("inputs_embeds", "attention_mask"):
            made[name] = lengthened(value, text, extra)
    return made


def lengthened(value: Tensor, text: int, extra: int) -> Tensor:
    """Give the positions of a prompt what the first token of the text has.

    Args:
        value: Shape (batch, …), e.g. XLNet's ``perm_mask`` (batch, text, text): whom a token does not see.
        text: Length of the text; all dimensions behind the first that are as long are lengthened.
        extra: Positions that stand before it.

    Returns:
        The same with ``text + extra`` in the place of ``text``.
    """
    for dim in range(1, value.dim()):
        if value.shape[dim] == text:
            first = value.narrow(dim, 0, 1)
            value = torch.cat([first.repeat_interleave(extra, dim=dim), value], dim=dim)
    return value
