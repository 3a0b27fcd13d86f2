r"""VeRA: two random matrices for all layers, and a trained scale for each of their rows (Kopiczko et al. 2024,
https://arxiv.org/abs/2310.11454).

A of shape (r, in) and B of shape (out, r) are drawn once, shared by all layers and never trained. A layer has two
vectors, d of shape (r,) and b of shape (out,), and computes (their section 3.1)

    y = W x + b * (B (d * (A x)))

b starts at zero, so that the layer starts as the base. PEFT does the work. The matrices are saved with the adapter, so
that it does not hang on the random numbers of a torch version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hfplug.errors import MethodError
from hfplug.methods.lora import shortest_names
from hfplug.methods.method import (
    AnatomyView,
    LearningRate,
    Preset,
    TuningMethod,
    modules_to_save,
    register_method,
)
from hfplug.methods.settings import setting

if TYPE_CHECKING:
    from peft import PeftConfig


@register_method
@dataclass(frozen=True, kw_only=True)
class Vera(TuningMethod):
    """Train scales of two random matrices that all attention layers share."""

    name: ClassVar[str] = "vera"
    category: ClassVar[str] = "reparameterised"
    flag_prefix: ClassVar[str] = "vera"
    summary: ClassVar[str] = "scales of two random matrices that all attention layers share; merges into the base"
    paper: ClassVar[str] = "Kopiczko et al. 2024, https://arxiv.org/abs/2310.11454"
    untrained: ClassVar[str] = "base"
    peft_type: ClassVar[str | None] = "VERA"
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(settings={"r": 256, "d_initial": 0.1}, source="Kopiczko et al. 2024, section 4")
    }

    r: int = setting(64, low=1, high=65536, help="rank of the two matrices; it costs little, as they are shared")
    d_initial: float = setting(0.1, low=1e-7, high=10.0, help="what d starts at")

    def peft_config(self, anatomy: AnatomyView) -> PeftConfig:
        from peft import VeraConfig

        if not anatomy.attention:
            raise MethodError(
                f"vera goes on attention layers, and this {anatomy.model_type} model has none.", fix="Use lora."
            )
        return VeraConfig(
            task_type=anatomy.task_type,
            r=self.r,
            d_initial=self.d_initial,
            target_modules=shortest_names(anatomy.attention, anatomy.modules),
            modules_to_save=modules_to_save(anatomy),
            fan_in_fan_out=bool(anatomy.transposed) and set(anatomy.transposed) == set(anatomy.linear),
        )

    def learning_rate(self, anatomy: AnatomyView) -> LearningRate:
        """Far above LoRA's, as only scales move."""
        value = 5e-2 if anatomy.parameters < 50e6 else 1e-2 if anatomy.parameters < 1e9 else 4e-3
        return LearningRate(value=value, low=1e-4, high=1e-1, source="hfplug's own")
