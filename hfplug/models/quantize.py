"""From a method's :class:`~hfplug.methods.Quantization` to what transformers and bitsandbytes take."""

from __future__ import annotations

import copy
import importlib.util
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hfplug.errors import MissingExtraError
from hfplug.methods import Quantization
from hfplug.models import hardware
from hfplug.models.layout import is_linear
from hfplug.models.trace import trace
from hfplug.models.tryout import on_meta

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

# Of blocks and experts, in names.
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


def require_bitsandbytes(needed_for: str) -> None:
    """Refuse politely where bitsandbytes is absent.

    Raises:
        MissingExtraError: naming the extra.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", extra="qlora", needed_for=needed_for)


def bitsandbytes_config(
    recipe: Quantization, *, model_type: str, skip_modules: list[str] | None, needed_for: str = "a 4-bit base"
) -> BitsAndBytesConfig:
    """The 4-bit configuration for a base.

    Args:
        recipe: What the method asks for.
        model_type: ``config.model_type`` of the base.
        skip_modules: Full names of modules to keep unquantised (output head, new modules); None leaves
            the choice to transformers. T5's ``wo`` is kept in float32 by transformers in any case.
        needed_for: What to name in the error if bitsandbytes is absent.

    Raises:
        MissingExtraError: if bitsandbytes is not installed.
    """
    require_bitsandbytes(needed_for)
    from transformers import BitsAndBytesConfig

    compute = (
        hardware.compute_dtype(model_type) if recipe.compute_dtype == "auto" else getattr(torch, recipe.compute_dtype)
    )
    if recipe.storage_dtype != "auto":
        storage = getattr(torch, recipe.storage_dtype)
    else:
        # FSDP flattens parameters of one dtype together, so the packed bytes must pass for that dtype.
        storage = compute if hardware.is_sharded_run() else torch.uint8
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=recipe.quant_type,
        bnb_4bit_use_double_quant=recipe.double_quant == "on",
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_quant_storage=storage,
        llm_int8_skip_modules=skip_modules,
    )


def layers_to_keep(model: nn.Module, new: Iterable[str] = ()) -> list[str]:
    """What 4 bits would ruin in a model: names, or endings of names, of modules.

    Args:
        model: A transformers model, on any device, ``meta`` included.
        new: Full names of modules that start at random.

    Returns:
        The output head with all that is tied to it, what starts at random, and layers that the model uses in a way
        that packed bytes do not bear: all whose weight it reads or writes itself, in eval or in training mode.
    """
    from transformers.quantizers.base import get_keys_to_not_convert

    kept = [*get_keys_to_not_convert(model), *new]
    if model.config.model_type in hardware.T5_FAMILY:  # type: ignore[union-attr]
        # Its input is cast to its weight's dtype, which for packed 4-bit weights is that of bytes. transformers keeps
        # it for T5 itself, and not for LongT5.
        kept.append("wo")
    if any(name.endswith(".dt_proj") for name, _ in model.named_modules()):
        kept.append("dt_proj")  # Mamba's kernels, on GPUs alone, multiply with its weight themselves
    return list(dict.fromkeys([*kept, *_read_by_the_model(model)]))


def _read_by_the_model(model: nn.Module) -> list[str]:
    """The linear layers whose weight is read or written without calling them, by full name.

    Of the model without its weights: in training mode some models write into them (Gemma 3n), in eval mode others
    (RWKV). Of blocks that a run did not reach (it cannot tell which experts are chosen without weights) those that it
    did reach speak.
    """
    shape: nn.Module = model
    if not on_meta(model):
        try:
            with torch.device("meta"):
                shape = type(model)(copy.deepcopy(model.config))  # type: ignore[call-arg]
        except Exception:  # somebody's own class, made of more than a configuration
            return []
    runs = (trace(shape), trace(shape, mode="train"))
    read = {one.removesuffix(".weight") for run in runs for one in run.read_directly}
    linear = [name for name, module in shape.named_modules() if is_linear(module)]
    if any(run.ended != "whole" for run in runs):
        alike = {_NUMBER.sub("*", name) for name in read}
        return [name for name in linear if _NUMBER.sub("*", name) in alike]
    return [name for name in linear if name in read]


def settle_four_bit_layers(model: nn.Module) -> None:
    """Keep bitsandbytes (0.50) from changing the frozen base while it is used.

    * On a CPU with AVX512-BF16 a ``Linear4bit`` repacks its weights for inference at the first forward pass in eval
      mode. That rounds its constants to bfloat16; it fails if the layer's width is no multiple of 64 or its height
      none of 32; and it stays so in train mode, where its product then has no gradient: after the first evaluation
      in the middle of a run, nothing below the top layers would learn. It is switched off.
    * The first forward pass rounds a layer's bias, in place, to the compute dtype. That is done here instead, so
      that the base is what it was from before the first step to after the last.

    Args:
        model: A model that was loaded in 4 bits; changed in place. Any other is left as it is.
    """
    for module in model.modules():
        if not hasattr(module, "support_avx512bf16_for_cpu"):
            continue
        module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
        bias, dtype = getattr(module, "bias", None), getattr(module, "compute_dtype", None)
        if bias is not None and isinstance(dtype, torch.dtype):
            bias.data = bias.data.to(dtype)


def describe_quantization(model: Any) -> dict[str, Any] | None:
    """How a loaded model is quantised, as JSON values, or None.

    Args:
        model: A transformers or PEFT model.
    """
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    if config is None:
        return None
    values = config if isinstance(config, dict) else config.to_dict()
    return {key: value for key, value in values.items() if not key.startswith("_")}
