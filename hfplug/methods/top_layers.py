"""Top layers: the last blocks of the model are trained, and what lies below stays (Lee et al. 2019, arXiv 1911.03090).

The lower blocks of a pretrained model change little in fine-tuning (their abstract: a fourth of the layers is enough
for nine tenths of the quality). Nothing is computed backwards below the lowest trained block, so a step takes less time
and memory. What is saved is a copy of each trained layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hfplug.errors import MethodError
from hfplug.methods.method import AnatomyView, LearningRate, register_method
from hfplug.methods.selective import Selective
from hfplug.methods.settings import setting

if TYPE_CHECKING:
    from peft import PeftConfig


@register_method
@dataclass(frozen=True, kw_only=True)
class TopLayers(Selective):
    """Train the last blocks of the model."""

    name: ClassVar[str] = "top_layers"
    flag_prefix: ClassVar[str] = "top_layers"
    summary: ClassVar[str] = "the last blocks of the model (of the decoder, if there is one); the rest stays"
    paper: ClassVar[str] = "Lee et al. 2019, https://arxiv.org/abs/1911.03090"

    blocks: int = setting(1, low=1, high=1000, help="how many of the last blocks")

    def peft_config(self, anatomy: AnatomyView) -> PeftConfig:
        stack = anatomy.blocks[-1] if anatomy.blocks else ()
        if not stack:
            raise MethodError(
                f"top_layers finds no repeated blocks in this {anatomy.model_type} model.", fix="Use lora."
            )
        if self.blocks > len(stack):
            raise MethodError(
                f"top_layers: this {anatomy.model_type} model has {len(stack)} blocks, not {self.blocks}.",
                fix=f"Pass blocks={len(stack)} or fewer.",
            )
        chosen = stack[-self.blocks :]
        return self.copies_of(tuple(layer for block in chosen for layer in anatomy.layers_of(block)), anatomy)

    def learning_rate(self, anatomy: AnatomyView) -> LearningRate:
        """As full fine-tuning: these are the base's own weights (Devlin et al. 2019, appendix A.3)."""
        value = 1e-3 if anatomy.parameters < 50e6 else 5e-5 if anatomy.parameters < 1e9 else 1e-5
        return LearningRate(value=value, low=1e-6, high=5e-3, source="Devlin et al. 2019, appendix A.3, as for full")
