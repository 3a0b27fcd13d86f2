"""Rows that were added to a vocabulary after its base was loaded: trained and saved alone where the method can.

PEFT compares the vocabulary with that of the base when it saves, and where they differ it saves the input and the
output embedding as a whole, whatever was trained of them: hundreds of megabytes beside a LoRA of a few.
"""

from __future__ import annotations

import logging
import types
from typing import Any

from torch import nn

from hfplug.models.ends import input_embedding, output_embedding
from hfplug.models.memory import tensor_bytes

logger = logging.getLogger(__name__)


def added_rows(model: Any, base_name: str, commit: str | None) -> tuple[int, ...]:
    """The rows that a model has and its base has not.

    Args:
        model: A transformers model.
        base_name: Repo id or folder that it was loaded from; only this machine is asked.
        commit: The commit of the base, or None.
    """
    rows = getattr(model.config, "vocab_size", None)
    if not base_name or not isinstance(rows, int):
        return ()
    try:
        stored = type(model.config).from_pretrained(base_name, revision=commit or "main", local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return ()  # not on this machine: then PEFT cannot tell either
    before = getattr(stored, "vocab_size", None)
    return tuple(range(before, rows)) if isinstance(before, int) else ()


def train_rows(config: Any, model: Any, rows: tuple[int, ...], method: str) -> bool:
    """Ask PEFT to train rows of the vocabulary, if its configuration of this method can.

    Args:
        config: A PEFT configuration; changed in place.
        model: The base.
        rows: Their numbers.
        method: The name of the method, for the log.

    Returns:
        Whether they are trained alone; then no embedding needs to be saved as a whole.
    """
    if not hasattr(config, "trainable_token_indices"):
        size = tensor_bytes({id(one.weight): one.weight for one in _ends(model)}.values()) * len(_ends(model))
        logger.warning(
            "%d rows were added to the vocabulary, and %s trains no rows: they stay as they are, and the embeddings are"
            " saved as a whole with each checkpoint, %.1f MB. lora trains and saves the new rows alone.",
            len(rows),
            method,
            size / 1e6,
        )
        return False
    wanted = {name: list(ids) for name, ids in (config.trainable_token_indices or {}).items()}
    names = {id(module): name for name, module in model.named_modules()}
    first, *last = _ends(model)
    if not wanted:
        wanted[names[id(first)]] = []
    for output in last:
        # Its new rows are as new as the embedding's, and would be random where the adapter is loaded.
        if output.weight is not first.weight and isinstance(output, nn.Linear) and output.bias is None:
            wanted.setdefault(names[id(output)], [])
    config.trainable_token_indices = {name: sorted({*ids, *rows}) for name, ids in wanted.items()}
    logger.info("%d rows that were added to the vocabulary are trained, and saved without the others", len(rows))
    return True


def save_rows_alone(tuned: Any) -> None:
    """Let a ``PeftModel`` be saved without the embeddings that PEFT would add as a whole; changed in place.

    Args:
        tuned: With the new rows among what it trains.
    """
    tuned.save_pretrained = types.MethodType(_save_rows_alone, tuned)


def _save_rows_alone(tuned: Any, *args: Any, **kwargs: Any) -> Any:
    kwargs.setdefault("save_embedding_layers", False)
    return type(tuned).save_pretrained(tuned, *args, **kwargs)


def _ends(model: Any) -> list[Any]:
    """The input embedding and the output layer, as far as there are any."""
    return [one for one in (input_embedding(model), output_embedding(model)) if one is not None]
