"""What the methods have in common that train a copy of some layers of the base and leave the rest alone.

PEFT's LN tuning puts a copy of a layer beside it and trains the copy. It does not care what kind of layer that is, so
it serves for normalisation layers, whole blocks and embeddings alike, and plain PEFT loads the result.

A copy of a 16-bit layer would lose updates smaller than half a unit in the last place, so the copy is trained and
saved in float32 and used rounded to the base's format. Plain PEFT rounds it so when it loads it: the answers are
the same.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hfplug.errors import MethodError
from hfplug.methods.lora import shortest_names
from hfplug.methods.method import AnatomyView, TuningMethod, modules_to_save

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Selective(TuningMethod):
    """Base class of the methods that train a copy of some layers; not itself a method."""

    category: ClassVar[str] = "selective"
    untrained: ClassVar[str] = "base"

    def copies_of(self, layers: tuple[str, ...], anatomy: AnatomyView) -> PeftConfig:
        """The PEFT configuration that trains copies of these layers."""
        from peft import LNTuningConfig

        return LNTuningConfig(
            task_type=anatomy.task_type,
            target_modules=shortest_names(layers, anatomy.modules),
            modules_to_save=modules_to_save(anatomy),
        )

    def finish(self, model: nn.Module) -> nn.Module:
        """Train 16-bit copies in float32."""
        from peft.tuners.ln_tuning.layer import LNTuningLayer

        for layer in list(model.modules()):
            if isinstance(layer, LNTuningLayer):
                for copied in layer.ln_tuning_layers.values():
                    self._refuse_quantised(copied)
                    train_in_float32(copied)
        return model

    def _refuse_quantised(self, copied: nn.Module) -> None:
        if any(hasattr(parameter, "quant_state") for parameter in copied.parameters()):
            raise MethodError(
                f"{self.name} trains layers of the base, and these are held in 4 bits, which cannot be trained.",
                fix="Load the base without a quantization_config, or use qlora.",
            )


def train_in_float32(copied: nn.Module) -> None:
    """Hold the 16-bit weights of a copy, and of what is in it, in float32, and round them while its forward runs.

    All of them at once, since a mixer reads the weights of its own layers.

    Args:
        copied: A module that is trained beside the base's own; changed in place.
    """
    import torch

    coarse = {
        name: one.dtype for name, one in copied.named_parameters() if one.dtype in (torch.bfloat16, torch.float16)
    }
    if not coarse:
        return
    for name in coarse:
        parameter = copied.get_parameter(name)
        parameter.data = parameter.data.float()
    copied.hfplug_formats = coarse  # type: ignore[assignment]
    copied.forward = types.MethodType(_rounded_forward, copied)  # type: ignore[method-assign]


def _rounded_forward(copied: Any, *args: Any, **kwargs: Any) -> Any:
    """The module's own forward, with its float32 weights rounded to the formats that the base holds them in."""
    places = []
    for name, dtype in copied.hfplug_formats.items():
        inside, _, last = name.rpartition(".")
        holder = copied.get_submodule(inside)._parameters
        places.append((holder, last, holder[last]))
        holder[last] = holder[last].to(dtype)
    try:
        return type(copied).forward(copied, *args, **kwargs)
    finally:
        for holder, last, trained in places:
            holder[last] = trained
