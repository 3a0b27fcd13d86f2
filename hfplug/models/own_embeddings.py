"""Embeddings that do more than look up a row, with some of their rows trained.

PEFT's trainable tokens (0.21) look the rows up themselves, and multiply them by a scale if the layer has one. What
else a layer does is left out, so that an untrained adapter is not the base: Inkling normalises what was looked up, and
T5Gemma 2 has a vector of its own for the end of a picture. Here the layer itself is called, with the trained rows in
its table. Plain PEFT does not, and answers otherwise there.
"""

from __future__ import annotations

import types
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def let_embeddings_compute(model: nn.Module) -> None:
    """Let layers with trained rows that have a ``forward`` of their own be called as they are.

    Args:
        model: A ``PeftModel``; changed in place.
    """
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    for module in model.modules():
        if isinstance(module, TrainableTokensLayer):
            base = module.get_base_layer()
            if isinstance(base, nn.Embedding) and type(base).forward is not nn.Embedding.forward:
                module.forward_adapters = types.MethodType(_forward_adapters, module)  # type: ignore[method-assign]


def _forward_adapters(layer: Any, x: Tensor, active_adapters: list[str], *args: Any, **kwargs: Any) -> Tensor:
    if layer.disable_adapters or layer.merged or not active_adapters:
        plain: Tensor = type(layer).forward_adapters(layer, x, active_adapters, *args, **kwargs)
        return plain
    layer._check_overlapping_tokens(active_adapters)
    table = layer.get_merged_weights(active_adapters)
    return functional_call(layer.get_base_layer(), {"weight": table}, (x, *args), kwargs)  # type: ignore[no-any-return]
