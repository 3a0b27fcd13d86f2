"""Of the numbers in a model's matrices, how many carry an adapter and how many are in 4 bits.

The share of all parameters that is trained hides what is left out: with LoRA on the attention of a mixture of experts
nine tenths of the model go without an adapter, and its experts, in one tensor a block, are not in 4 bits either.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from hfplug.models.anatomy import Anatomy


def matrix_shares(model: nn.Module) -> dict[str, float]:
    """Numbers that are trained, and the shares of the matrices' numbers that carry an adapter and that are in 4 bits.

    Args:
        model: With a method on it. Matrices are all weights of two dimensions or more but those of embeddings.

    Returns:
        ``trainable``, ``adapted`` and ``four_bit``; the shares from 0 to 1.
    """
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    own = {id(one) for one in model.parameters() if one.requires_grad}
    embeddings = {id(one) for part in model.modules() if isinstance(part, nn.Embedding) for one in part.parameters()}
    adapted: set[int] = set()
    for module in model.modules():
        # Trained tokens are a few rows, of an embedding or of the output layer.
        if isinstance(module, BaseTunerLayer) and not isinstance(module, TrainableTokensLayer):
            adapted |= {id(one) for one in module.get_base_layer().parameters(recurse=False)}
    total = has = packed = 0
    for one in model.parameters():
        size = numbers_of(one)
        is_packed = type(one).__name__ == "Params4bit"
        if id(one) in embeddings or (one.dim() < 2 and not is_packed) or (id(one) in own and id(one) not in adapted):
            continue
        total, has, packed = total + size, has + size * (id(one) in adapted), packed + size * is_packed
    trainable = sum(one.numel() for one in model.parameters() if one.requires_grad)
    return {"trainable": trainable, "adapted": has / max(total, 1), "four_bit": packed / max(total, 1)}


def share_words(shares: dict[str, float], anatomy: Anatomy) -> str:
    """The shares in words, for a line of a log; empty if no matrix carries an adapter and none is in 4 bits.

    Args:
        shares: From :func:`matrix_shares`.
        anatomy: Of the model before the method was put on.
    """
    has_experts = bool(anatomy.experts or anatomy.expert_tensors)
    parts = []
    for key, words in (("adapted", "are adapted"), ("four_bit", "are in 4 bits")):
        if shares[key]:
            rest = " (the experts are most of the rest)" if has_experts and shares[key] < 0.5 else ""
            parts.append(f"{shares[key]:.1%} {words}{rest}")
    return f"of the numbers in its matrices {', '.join(parts)}" if parts else ""


def numbers_of(one: Any) -> int:
    """Numbers in a parameter, those of a 4-bit weight one by one."""
    state = getattr(one, "quant_state", None)
    return int(state.shape.numel() if state is not None else one.numel())
