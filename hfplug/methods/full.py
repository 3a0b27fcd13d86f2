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
        """2e-5 to 5e-5 (Devlin et al. 2019, appendix A.3); more for small models, as for T5 (Raffel et al.
        2020, section 3.1.2: 1e-3 with Adafactor)."""
        if anatomy.parameters < 50e6:
            return LearningRate(
                value=1e-3, low=1e-5, high=5e-3, source="Raffel et al. 2020, section 3.1.2 (T5 fine-tuning)"
            )
        value = 5e-5 if anatomy.parameters < 1e9 else 1e-5
        return LearningRate(value=value, low=1e-6, high=1e-3, source="Devlin et al. 2019, appendix A.3")

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
