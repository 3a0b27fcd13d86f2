"""Prefixes on models whose layers keep keys and values of different shapes, or keep none in some layers.

PEFT's prefix has one shape for all layers, and its cache holds nothing else. Where that does not fit (latent
attention, mixers beside attention, uneven heads, wide and narrow layers, short convolutions) the same trained matrix,
of shape (virtual tokens, numbers), is cut otherwise: a row holds the keys and then the values of the first layer that
keeps any, then of the next, each of that layer's own shape as a run of the base showed it.
"""

from __future__ import annotations

import types
from typing import Any

from torch import Tensor

from hfplug.models.tryout import cache_shapes, kept_cache, on_meta

# Layers of a cache that hold keys and values and nothing else.
_PLAIN = frozenset({"DynamicLayer", "DynamicSlidingWindowLayer"})


def lay_out_prefix(model: Any) -> None:
    """Cut a prefix into the shapes that the base's layers really keep, where they are not all the same or keep more.

    Args:
        model: A ``PeftModel`` with a prefix; its ``get_prompt`` is replaced where PEFT's does not fit.
    """
    base = model.get_base_model()
    if on_meta(base):
        return
    kept = kept_cache(base)
    if kept is None:
        return
    shapes = cache_shapes(base)
    uneven = len({shape for pair in shapes for shape in pair}) > 1
    special = type(kept).__name__ != "DynamicCache" or any(
        type(layer).__name__ not in _PLAIN for layer in getattr(kept, "layers", None) or ()
    )
    if uneven or (special and not base.config.is_encoder_decoder):
        _fit_size(model, sum(heads * size for pair in shapes for heads, size in pair))
        model._hfplug_prefix_shapes, model._hfplug_cache_class = shapes, type(kept)
        model.get_prompt = types.MethodType(_get_prompt, model)


def _fit_size(model: Any, numbers: int) -> None:
    """Make a fresh prefix anew that has as many numbers in a row as are needed.

    PEFT takes the width of a layer from the configuration whatever it is told, so the number of layers is what is set;
    what the last of them has too much is not used.
    """
    from peft import PrefixEncoder

    settings = model.active_peft_config
    layers = -(-numbers // (2 * settings.token_dim))
    if layers == settings.num_layers:
        return  # as it was loaded
    settings.num_layers = layers
    old = model.prompt_encoder[model.active_adapter].embedding.weight
    model.prompt_encoder[model.active_adapter] = PrefixEncoder(settings).to(old.device, old.dtype)


def _get_prompt(model: Any, batch_size: int, task_ids: Any = None, max_cache_len: int | None = None) -> Any:
    """What ``PeftModel.get_prompt`` is for a prefix: a cache with the prefix of each layer that keeps any."""
    from transformers import DynamicCache

    encoder = model.prompt_encoder[model.active_adapter]
    settings = model.active_peft_config
    if settings.inference_mode:
        rows = encoder.embedding.weight
    else:
        tokens = model.prompt_tokens[model.active_adapter][: settings.num_virtual_tokens]
        rows = encoder(tokens.unsqueeze(0).to(encoder.embedding.weight.device))[0]
    base = model.get_base_model()
    if model.base_model_torch_dtype is not None:
        rows = rows.to(model.base_model_torch_dtype)
    made = model._hfplug_cache_class
    cache: Any = DynamicCache(config=base.config.get_text_config(decoder=True)) if made is DynamicCache else made()
    start = 0
    for index, pair in enumerate(model._hfplug_prefix_shapes):
        parts = []
        for heads, size in pair:
            parts.append(_heads(rows[:, start : start + heads * size], heads, size, batch_size))
            start += heads * size
        if parts[0].numel():
            # Where a layer's keys are its values too, there is nothing more to be cut.
            cache.update(parts[0], parts[1] if parts[1].numel() else parts[0], index)
    return cache


def _heads(rows: Tensor, heads: int, size: int, batch_size: int) -> Tensor:
    """(virtual tokens, heads * size) to (batch, heads, virtual tokens, size)."""
    shape = rows.view(rows.shape[0], heads, size).transpose(0, 1).unsqueeze(0) if heads else rows.unsqueeze(0)
    return shape.repeat(batch_size, *([1] * (shape.dim() - 1)))
