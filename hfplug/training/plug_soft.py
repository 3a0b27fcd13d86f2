"""Soft prompts in a script that knows nothing of them: what goes in is made longer, what comes out is cut again.

PEFT puts the trained vectors before the embedded input, so that everything that has a position grows by as many:
logits, hidden states, attentions. A script's metrics, its label arrays and the answer positions of a question
answerer are those of the base. Here the extra positions are cut off every output, the loss of a question answerer is
computed from the cut logits, and a classifier that looks for the last real token is given ids to look at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from hfplug.errors import TrainingError
from hfplug.methods.method import CLASSIFICATION, QUESTIONS, TOKENS
from hfplug.models.soft_outputs import answer_loss, cut, cut_value, extra_positions, with_loss


def soft_forward(model: Any, kwargs: dict[str, Any], plain: Callable[..., Any]) -> Any:
    """The forward pass of a soft-prompted model, with outputs that are as long as its inputs.

    Args:
        model: A ``PeftModel`` with a soft prompt.
        kwargs: The arguments of the base's ``forward``, by name.
        plain: PEFT's own ``forward``.

    Returns:
        What the base would return: a ``ModelOutput``, or a tuple where the script asked for one.

    Raises:
        TrainingError: The prompt and the input together are longer than the base has positions.
    """
    base, extra = model.get_base_model(), extra_positions(model)
    wants_tuple = kwargs.pop("return_dict", None) is False or getattr(base.config, "return_dict", True) is False
    length = _length(kwargs)
    check_positions(base, length, extra)
    task_type = model.active_peft_config.task_type
    if base.config.is_encoder_decoder:
        outputs = plain(**kwargs, return_dict=True)
        _cut_encoder(outputs, length, extra)
    elif task_type == QUESTIONS:
        start, end = kwargs.pop("start_positions", None), kwargs.pop("end_positions", None)
        outputs = cut(plain(**kwargs, return_dict=True), length, extra)
        if start is not None and end is not None:
            outputs = with_loss(outputs, answer_loss(outputs["start_logits"], outputs["end_logits"], start, end))
    elif task_type == CLASSIFICATION and kwargs.get("input_ids") is not None and extra:
        outputs = cut(_classify(model, base, kwargs, extra), length, extra, but=("logits",))
    else:
        if task_type == TOKENS and kwargs.get("labels") is not None:  # PEFT lengthens those of causal models only
            front = kwargs["labels"].new_full((kwargs["labels"].shape[0], extra), -100)
            kwargs["labels"] = torch.cat([front, kwargs["labels"]], dim=1)
        but = ("logits",) if task_type == CLASSIFICATION else ()
        outputs = cut(plain(**kwargs, return_dict=True), length, extra, but=but)
    _cut_prefix(outputs, int(model.active_peft_config.num_virtual_tokens))
    return outputs.to_tuple() if wants_tuple else outputs


def position_limit(base: nn.Module) -> int | None:
    """The longest input of a model with a learned or tabled position for each place; None if there is no such table.

    Args:
        base: A transformers model.
    """
    config: Any = base.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    table = next(
        (
            module
            for name, module in base.named_modules()
            if isinstance(module, nn.Embedding) and _is_of_positions(name.rpartition(".")[2])
        ),
        None,
    )
    if table is None:
        return None
    stated = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    # RoBERTa begins to count after the padding's index.
    offset = 0 if table.padding_idx is None else int(table.padding_idx) + 1
    return min(int(stated or table.num_embeddings), table.num_embeddings) - offset


def check_positions(base: nn.Module, length: int, extra: int) -> None:
    """Refuse an input that leaves no room for the prompt, rather than fail inside an embedding.

    Args:
        base: The base.
        length: Tokens of the input.
        extra: Positions that the method adds.

    Raises:
        TrainingError: with the number to use.
    """
    limit = _known_limit(base) if extra else None
    if limit is not None and length + extra > limit:
        raise TrainingError(
            f"The input has {length} tokens and the method adds {extra}: together more than the {limit} positions "
            f"of this {base.config.model_type} model.",
            fix=f"Let the script cut its inputs at {limit - extra} tokens, or use fewer virtual tokens.",
        )


def _known_limit(base: Any) -> int | None:
    if "_hfplug_limit" not in base.__dict__:
        base.__dict__["_hfplug_limit"] = position_limit(base)
    return base.__dict__["_hfplug_limit"]


def _is_of_positions(name: str) -> bool:
    return name in ("wpe", "embed_positions") or ("position" in name and "relative" not in name)


def _length(kwargs: dict[str, Any]) -> int:
    given = kwargs.get("input_ids")
    given = kwargs.get("inputs_embeds") if given is None else given
    return int(given.shape[1]) if given is not None else 0


def _cut_encoder(outputs: Any, length: int, extra: int) -> None:
    for name in list(outputs.keys()):
        if extra and name.startswith("encoder_"):
            outputs[name] = cut_value(outputs[name], length, extra, both="attentions" in name)
        elif extra and name == "cross_attentions":
            outputs[name] = tuple(item[..., extra:] for item in outputs[name])


def _cut_prefix(outputs: Any, prefix: int) -> None:
    """Cut the keys of a prefix, which no query stands for, off the attention to the input itself."""
    for name in list(outputs.keys()):
        if name in ("attentions", "decoder_attentions") and outputs[name] is not None:
            outputs[name] = tuple(
                one[..., prefix:] if one is not None and one.shape[-1] == one.shape[-2] + prefix else one
                for one in outputs[name]
            )


def _classify(model: Any, base: Any, kwargs: dict[str, Any], extra: int) -> Any:
    """Run a classifier with ids for the prompt's places, so that it finds the last real token of each row."""
    ids = kwargs["input_ids"]
    padding = getattr(base.config, "pad_token_id", None)
    filler = ids.new_full((ids.shape[0], extra), 1 if padding == 0 else 0)
    inner = {name: value for name, value in kwargs.items() if name not in ("position_ids", "task_ids")}
    inner["input_ids"] = torch.cat([filler, ids], dim=1)
    for name, value in (("attention_mask", 1), ("token_type_ids", 0)):
        if inner.get(name) is not None:
            front = inner[name].new_full((ids.shape[0], extra), value)
            inner[name] = torch.cat([front, inner[name]], dim=1)
    with _prompt_in_front(base, model.get_prompt(batch_size=ids.shape[0])):
        return base(**inner, return_dict=True)


@contextlib.contextmanager
def _prompt_in_front(base: Any, prompt: torch.Tensor) -> Iterator[None]:
    """Inside the block the input embedding gives ``prompt`` (batch, extra, width) for the first places."""

    def exchange(module: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([prompt.to(output.dtype), output[:, prompt.shape[1] :]], dim=1)

    handle = base.get_input_embeddings().register_forward_hook(exchange)
    try:
        yield
    finally:
        handle.remove()
