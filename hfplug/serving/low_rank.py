"""LoRA layers whose whole work is ``B A x * scale`` beside the base's product, so that rows can share that product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """One variant's update of one layer.

    Attributes:
        down: A, of shape (r, in).
        up: B, of shape (out, r).
        scale: What B A is multiplied by.
    """

    down: Tensor
    up: Tensor
    scale: float

    def update(self, x: Tensor) -> Tensor:
        """``B A x * scale`` in the number format of A, for ``x`` of shape (…, in)."""
        thin = nn.functional.linear(x.to(self.down.dtype), self.down)
        return nn.functional.linear(thin, self.up) * self.scale


def low_rank_of(module: Any) -> LowRank | None:
    """What a LoRA layer of PEFT adds, if that is all it does; None for any other module.

    DoRA and the other variants of LoRA, layers that are merged, switched off or hold several adapters, convolutions
    and embeddings are not meant: they are run as they are.

    Args:
        module: Any module.
    """
    from peft.tuners.lora import LoraLayer
    from transformers.pytorch_utils import Conv1D

    if (
        not isinstance(module, LoraLayer)
        or module.merged
        or module.disable_adapters
        or len(module.active_adapters) != 1
    ):
        return None
    name = module.active_adapters[0]
    base = module.get_base_layer()
    if name not in module.lora_A or name in module.lora_variant or not isinstance(base, (nn.Linear, Conv1D)):
        return None
    down, up = module.lora_A[name], module.lora_B[name]
    plain = type(down) is nn.Linear and type(up) is nn.Linear and down.bias is None and up.bias is None
    # A quantised layer of another library may do more around its product than PEFT's forward shows.
    known = type(module).__module__ in ("peft.tuners.lora.layer", "peft.tuners.lora.bnb")
    if not plain or not known or module.training:
        return None
    return LowRank(down=down.weight, up=up.weight, scale=float(module.scaling[name]))
