r"""DoRA: weight-decomposed low-rank adaptation (Liu et al. 2024, https://arxiv.org/abs/2402.09353).

Each row of the weight is split into its length and its direction; LoRA changes the direction, and a vector m of shape
(out,) is trained for the lengths (section 4):

    y = m * (W + s B A) x / ||W + s B A||

It is nearer to full fine-tuning than LoRA at low ranks, for more time a step, as the norms are computed in each.

The preset ``paper`` is what the paper takes for LLaMA-7B on commonsense reasoning (its appendix A.3, table 8): rank 32
on queries, keys, values and two layers of the feed-forward part, alpha 64, dropout 0.05, a learning rate of 1e-4; half
of it, rank 16 and alpha 32 at 2e-4, is the preset ``half``. Here the whole feed-forward part gets it, as its layers go
by other names in other models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hfplug.methods.lora import Lora
from hfplug.methods.method import register_method
from hfplug.methods.values import Preset


@register_method
@dataclass(frozen=True, kw_only=True)
class Dora(Lora):
    """LoRA for the direction of each row of a weight, and a trained length for it."""

    name: ClassVar[str] = "dora"
    flag_prefix: ClassVar[str] = "dora"
    summary: ClassVar[str] = "LoRA for the direction of a weight's rows, and a trained length of each"
    paper: ClassVar[str] = "Liu et al. 2024, https://arxiv.org/abs/2402.09353"
    decomposed: ClassVar[str] = "on"
    presets: ClassVar[Mapping[str, Preset]] = {
        name: Preset(
            settings={
                "r": rank,
                "lora_alpha": 2 * rank,
                "lora_dropout": 0.05,
                "target_modules": ("query", "key_value", "feed_forward"),
            },
            learning_rate=rate,
            source="Liu et al. 2024, appendix A.3, table 8 (LLaMA-7B, commonsense reasoning)",
        )
        for name, rank, rate in (("paper", 32, 1e-4), ("half", 16, 2e-4))
    }

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> bool:
        return config.get("peft_type") == cls.peft_type and bool(config.get("use_dora"))
