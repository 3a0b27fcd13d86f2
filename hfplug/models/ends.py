"""The two ends of a model: the embedding that ids go into, and the layer that answers come out of.

transformers says that a model has none in three ways: there is no such method, it raises, or it gives None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def input_embedding(model: Any) -> nn.Module | None:
    """The module that ids go into; None for a model that has none.

    Args:
        model: A model of transformers, or anything else.
    """
    return _called(model, "get_input_embeddings")


def output_embedding(model: Any) -> nn.Module | None:
    """The module whose outputs are a number for each word; None for a model that has none.

    Args:
        model: A model of transformers, or anything else.
    """
    return _called(model, "get_output_embeddings")


def embedding_weight(model: Any) -> Tensor | None:
    """The matrix of the input embedding, shape (rows, width); None for a model without one.

    Args:
        model: A model of transformers, or anything else.
    """
    return getattr(input_embedding(model), "weight", None)


def embedding_rows(model: Any) -> int | None:
    """Rows of the input embedding, those of padding at its end included; None for a model without one.

    Args:
        model: A model of transformers, or anything else.
    """
    weight = embedding_weight(model)
    return None if weight is None else int(weight.shape[0])


def tied_by_peft(model: Any) -> tuple[str, ...]:
    """The modules that PEFT (0.21) ties to a model's input embedding, by the table of ties of the model's class.

    A classifier's class may have none, though its body's tables are one (T5).

    Args:
        model: A model of transformers.
    """
    from peft.utils.other import _get_module_names_tied_with_embedding

    return tuple(_get_module_names_tied_with_embedding(model)) if input_embedding(model) is not None else ()


def _called(model: Any, question: str) -> Any:
    try:
        return getattr(model, question)()
    except (AttributeError, NotImplementedError):
        return None
