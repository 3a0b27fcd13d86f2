"""Top layers: the last blocks of the model are trained, and what lies below stays (Lee et al. 2019, arXiv 1911.03090).

The lower blocks of a pretrained model change little in fine-tuning (their abstract: a fourth of the layers is enough
for nine tenths of the quality). Nothing is computed backwards below the lowest trained block, so a step takes less time
and memory. What is saved is a copy of each trained layer.

A fourth of the blocks is the default, and the preset ``paper``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hfplug.errors import MethodError
from hfplug.methods.full import weights_rate
from hfplug.methods.method import AnatomyView, Default, LearningRate, register_method
from hfplug.methods.selective import Selective, train_in_float32
from hfplug.methods.settings import setting
from hfplug.methods.values import Preset

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


@register_method
@dataclass(frozen=True, kw_only=True)
class TopLayers(Selective):
    """Train the last blocks of the model."""

    name: ClassVar[str] = "top_layers"
    flag_prefix: ClassVar[str] = "top_layers"
    summary: ClassVar[str] = "the last blocks of the model (of the decoder, if there is one); the rest stays"
    paper: ClassVar[str] = "Lee et al. 2019, https://arxiv.org/abs/1911.03090"

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(settings={"blocks": 0}, source="Lee et al. 2019, abstract and section 4 (BERT, RoBERTa)")
    }

    blocks: int = setting(0, low=0, high=1000, help="how many of the last blocks; 0: a fourth of them, one at least")
    head: str = setting(
        "off", choices=("off", "on"), help="the output layer too; of a classifier it is trained anyway, being new"
    )

    def defaults(self, anatomy: AnatomyView) -> Mapping[str, Default]:
        stack = anatomy.blocks[-1] if anatomy.blocks else ()
        if not stack:
            return {}
        why = f"a fourth of the {len(stack)} blocks is enough for nine tenths of the quality"
        return {"blocks": Default(value=_fourth(stack), why=why, source="Lee et al. 2019, abstract (BERT, RoBERTa)")}

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
        chosen = stack[-(self.blocks or _fourth(stack)) :]
        layers = tuple(layer for block in chosen for layer in anatomy.layers_of(block))
        plain = tuple(name for name in layers if name not in anatomy.compound)
        if not plain:
            raise MethodError(
                f"top_layers finds no single layers in the last block of this {anatomy.model_type} model.",
                fix="Use lora, or full.",
            )
        config: Any = self.copies_of((*plain, *self._head(anatomy)), anatomy)
        # PEFT's LN tuning calls a layer with one tensor by position and asks for its weight. Experts in one tensor,
        # mixers and attention with numbers of their own are copied whole by what PEFT has for heads.
        whole = [name for name in layers if name in anatomy.compound]
        config.modules_to_save = [*(config.modules_to_save or ()), *whole] or None
        return config

    def finish(self, model: nn.Module) -> nn.Module:
        """Train 16-bit copies in float32, those of whole modules too; a new head is not in a block, and no copy."""
        from peft.utils.other import ModulesToSaveWrapper

        super().finish(model)
        for name, module in list(model.named_modules()):
            if isinstance(module, ModulesToSaveWrapper) and any(part.isdigit() for part in name.split(".")):
                for copied in module.modules_to_save.values():
                    self._refuse_quantised(copied)
                    train_in_float32(copied)
        return model

    def _head(self, anatomy: AnatomyView) -> tuple[str, ...]:
        """The output layer, if it is asked for and has weights of its own.

        Raises:
            MethodError: if there is none, or its weights are the embedding's as well.
        """
        if self.head == "off" or anatomy.new_modules:
            return ()
        if not anatomy.output_embeddings or anatomy.output_embeddings in anatomy.embeddings:
            why = "shares its weights with the embedding" if anatomy.output_embeddings else "is not there"
            raise MethodError(
                f"top_layers: the output layer of this {anatomy.model_type} model {why}.",
                fix="Leave head='off', or use the method embeddings, which trains both as one.",
            )
        return (anatomy.output_embeddings,)

    def learning_rate(self, anatomy: AnatomyView) -> LearningRate:
        """As full fine-tuning: these are the base's own weights."""
        return weights_rate(anatomy)


def _fourth(stack: tuple[str, ...]) -> int:
    return max(1, len(stack) // 4)
