"""Norm tuning: only the normalisation layers are trained (Zhao et al. 2023, https://arxiv.org/abs/2312.11420).

Each holds a scale for every number of the model's width, and in older models a shift as well. There are some of them
in almost every model, also where there are no biases. PEFT's LN tuning does the work, for RMSNorm as for LayerNorm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hfplug.errors import MethodError
from hfplug.methods.method import AnatomyView, LearningRate, register_method
from hfplug.methods.selective import Selective

if TYPE_CHECKING:
    from peft import PeftConfig


@register_method
@dataclass(frozen=True, kw_only=True)
class Norms(Selective):
    """Train the scales (and shifts) of the normalisation layers."""

    name: ClassVar[str] = "norms"
    flag_prefix: ClassVar[str] = "norms"
    summary: ClassVar[str] = "the scales and shifts of the normalisation layers; almost every model has some"
    paper: ClassVar[str] = "Zhao et al. 2023, https://arxiv.org/abs/2312.11420"

    def peft_config(self, anatomy: AnatomyView) -> PeftConfig:
        if not anatomy.norms:
            raise MethodError(
                f"norms trains normalisation layers, and those of this {anatomy.model_type} model have no weights.",
                fix="Use bitfit or lora.",
            )
        return self.copies_of(anatomy.norms, anatomy)

    def learning_rate(self, anatomy: AnatomyView) -> LearningRate:
        """Scales start near one and few of them move, so the rate is far above that of full fine-tuning."""
        if anatomy.parameters < 50e6:
            return LearningRate(value=5e-2, low=5e-5, high=3e-1, source="hfplug, benchmarks/demo_rates.py")
        return LearningRate(value=1e-3, low=5e-5, high=3e-1, source="hfplug's own: no rate for AdamW is known to it")
