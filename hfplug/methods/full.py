"""Full fine-tuning: every weight is trained, and the result is a full copy of the model for each task.

It is here as the yardstick. With AdamW in float32 a parameter costs 16 bytes while it is trained: 4 for the
weight, 4 for its gradient and 8 for the two moments (Kingma and Ba 2015), before any activation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hfplug.errors import MethodError
from hfplug.methods.method import AnatomyView, LearningRate, TuningMethod, register_method

if TYPE_CHECKING:
    from torch import nn


def weights_rate(anatomy: AnatomyView) -> LearningRate:
    """What suits the base's own weights, by the model's size.

    T5 is told by its name: nothing in its structure says that it was pretrained with Adafactor at high rates.
    """
    size = anatomy.parameters
    if size < 50e6:
        source = "hfplug, benchmarks/demo_rates.py; Raffel et al. 2020, section 3.1.2 (T5: 1e-3 with Adafactor)"
        return LearningRate(value=1e-3, low=1e-5, high=5e-3, source=source)
    if size < 1e9 and anatomy.model_type.endswith("t5"):
        source = "transformers' documentation of T5 (1e-4 to 3e-4 with AdamW)"
        return LearningRate(value=1e-4, low=1e-6, high=1e-3, source=source)
    if size < 1e9:
        source = "Devlin et al. 2019, appendix A.3 (2e-5 to 5e-5)"
        return LearningRate(value=5e-5, low=1e-6, high=1e-3, source=source)
    if size < 10e9:
        source = "Taori et al. 2023, https://github.com/tatsu-lab/stanford_alpaca (LLaMA of 7 B)"
        return LearningRate(value=2e-5, low=1e-6, high=1e-3, source=source)
    source = "hfplug's own, between 2e-5 at 7 B (Taori et al. 2023) and 5e-6 at 175 B (Hu et al. 2021, table 12)"
    return LearningRate(value=1e-5, low=1e-6, high=1e-3, source=source)


@register_method
@dataclass(frozen=True, kw_only=True)
class Full(TuningMethod):
    """Train every weight of the base."""

    name: ClassVar[str] = "full"
    category: ClassVar[str] = "all weights"
    flag_prefix: ClassVar[str] = "full"
    summary: ClassVar[str] = "every weight of the base; one full copy a task"
    paper: ClassVar[str] = "Howard and Ruder 2018, https://arxiv.org/abs/1801.06146"
    merging: ClassVar[str] = "nothing to merge: the weights are the result"
    untrained: ClassVar[str] = "base"
    batching: ClassVar[str] = "no: every weight is its own"

    def learning_rate(self, anatomy: AnatomyView) -> LearningRate:
        """2e-5 to 5e-5 on BERT, more for T5 and for small models, less for large ones."""
        return weights_rate(anatomy)

    def base_dtype(self, stored: str) -> str:
        """float32: updates smaller than half a unit in the last place of a 16-bit weight are lost."""
        return "float32"

    @contextlib.contextmanager
    def switched_off(self, model: nn.Module) -> Iterator[nn.Module]:
        raise MethodError(
            "Full fine-tuning changes the base's own weights; it cannot be switched off.",
            fix="Load the base again with build_model(base).",
        )
        yield model  # a generator needs one
