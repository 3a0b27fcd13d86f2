"""Quantise a model that is loaded already: for models whose ``from_pretrained`` is somebody else's line of code.

Only the model that is trained is to be held in 4 bits, and which one that is shows when it is handed to a Trainer: a
teacher or a reward model that the same script loads stays as it was loaded. The numbers are those of loading in
4 bits, since transformers quantises weight by weight too. So is the memory: a loaded model is a mapping of its file,
of which nothing is read before it is used, and each weight is read, packed and handed back before the next.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from hfplug.methods import Quantization
from hfplug.models.paging import page_out, trim
from hfplug.models.quantize import bitsandbytes_config, layers_to_keep, settle_four_bit_layers

# Bytes of packed weights after which the C library is asked for what packing took: it keeps freed memory otherwise.
_TRIM_AFTER = 2**23


def quantize_loaded(
    model: Any, recipe: Quantization, *, keep: Iterable[str] = (), device: torch.device | str | None = None
) -> int:
    """Replace the linear layers of a model by 4-bit ones, in place.

    Args:
        model: A transformers model in 16 or 32 bits; changed in place.
        recipe: How the weights are stored.
        keep: Full names of modules that stay as they are, with all that is in them: what starts at random.
        device: Where the model goes; None leaves it where it is. bitsandbytes forbids moving it later.

    Returns:
        How many layers were replaced.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    kept = layers_to_keep(model, keep)
    config = bitsandbytes_config(recipe, model_type=model.config.model_type, skip_modules=kept)
    replaced = freed = 0
    for name, module in list(model.named_modules()):
        if _is_plain_linear(module) and not _is_kept(name, kept):
            parent = model.get_submodule(name.rpartition(".")[0])
            layer = _four_bits(module, config, device or module.weight.device)
            setattr(parent, name.rpartition(".")[2], layer)
            page_out(module.weight)
            replaced += 1
            freed += module.weight.nbytes
            if freed > _TRIM_AFTER:
                trim()
                freed = 0
    if device is not None:
        model.to(device)
    trim()
    model.config.quantization_config = config
    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    model.hf_quantizer = quantizer
    model.is_quantized = True
    model.is_loaded_in_4bit = True
    model.quantization_method = config.quant_method
    settle_four_bit_layers(model)
    return replaced


def _is_plain_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"


def _is_kept(name: str, kept: Iterable[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") or name.endswith(f".{one}") for one in kept)


def _four_bits(module: Any, config: Any, device: torch.device | str) -> nn.Module:
    import bitsandbytes

    weight = module.weight.detach()
    if type(module).__name__ == "Conv1D":
        weight = weight.t().contiguous()  # (in, out) in GPT-2
    height, width = weight.shape
    # On no device: the weights are put in below.
    layer = bitsandbytes.nn.Linear4bit(
        width,
        height,
        bias=module.bias is not None,
        compute_dtype=config.bnb_4bit_compute_dtype,
        compress_statistics=config.bnb_4bit_use_double_quant,
        quant_type=config.bnb_4bit_quant_type,
        quant_storage=config.bnb_4bit_quant_storage,
        device="meta",
    )
    packed = bitsandbytes.nn.Params4bit(
        weight.to("cpu"),
        requires_grad=False,
        compress_statistics=config.bnb_4bit_use_double_quant,
        quant_type=config.bnb_4bit_quant_type,
        quant_storage=config.bnb_4bit_quant_storage,
        module=layer,
    )
    layer.weight = packed.to(device)
    layer.bias = None if module.bias is None else nn.Parameter(module.bias.detach(), requires_grad=False)
    layer.train(module.training)
    return layer
