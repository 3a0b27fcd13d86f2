"""P-tuning: virtual tokens that a small network computes (Liu et al. 2021, https://arxiv.org/abs/2103.10385).

The virtual tokens stand before the embedded input as in prompt tuning. While they are trained they are the output of
a network over an embedding of their own, so that they depend on one another (section 3.2); what is saved is that
output, of shape (num_virtual_tokens, embedding_size), and the network is thrown away.

The preset ``paper`` takes the paper's network, an LSTM with two layers on top (section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hfplug.methods.method import AnatomyView, LearningRate, register_method
from hfplug.methods.settings import setting
from hfplug.methods.soft_prompts import InputPrompt, heads_to_save, settle_when_loaded
from hfplug.methods.values import Preset

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


@register_method
@dataclass(frozen=True, kw_only=True)
class PTuning(InputPrompt):
    """Train virtual tokens through a small network; the base stays as it is."""

    name: ClassVar[str] = "p_tuning"
    flag_prefix: ClassVar[str] = "p_tuning"
    summary: ClassVar[str] = "virtual tokens before the input, computed by a small network while they are trained"
    paper: ClassVar[str] = "Liu et al. 2021, https://arxiv.org/abs/2103.10385"
    peft_type: ClassVar[str | None] = "P_TUNING"
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(settings={"encoder": "lstm"}, source="Liu et al. 2021, section 3.2")
    }

    num_virtual_tokens: int = setting(20, low=1, high=1000, help="virtual tokens before the input")
    encoder: str = setting("mlp", choices=("mlp", "lstm"), help="the network: three layers, or an LSTM with two on top")
    encoder_hidden_size: int = setting(0, low=0, high=65536, help="width of the network; 0: that of the model")

    def peft_config(self, anatomy: AnatomyView) -> PeftConfig:
        from peft import PromptEncoderConfig

        return PromptEncoderConfig(
            task_type=anatomy.task_type,
            num_virtual_tokens=self.num_virtual_tokens,
            encoder_reparameterization_type=self.encoder.upper(),
            encoder_hidden_size=self.encoder_hidden_size or anatomy.embedding_size,
            # As for prompt tuning: one row a virtual token, and nothing asked of the model's config.
            num_transformer_submodules=1,
            token_dim=anatomy.embedding_size,
            num_layers=anatomy.layers,
            num_attention_heads=anatomy.attention_heads,
            modules_to_save=_without_the_network(heads_to_save(anatomy)),
        )

    def finish(self, model: nn.Module) -> nn.Module:
        return settle_when_loaded(model)

    def learning_rate(self, anatomy: AnatomyView) -> LearningRate:
        """A network is trained, so about what networks take; the paper names none for a frozen base."""
        if anatomy.parameters < 50e6:
            return LearningRate(value=3e-3, low=1e-5, high=1e-1, source="hfplug, benchmarks/demo_rates.py")
        value = 3e-3 if anatomy.parameters < 1e9 else 1e-3
        return LearningRate(value=value, low=1e-5, high=1e-1, source="hfplug's own")

    def virtual_tokens(self) -> int:
        return self.num_virtual_tokens


def _without_the_network(names: list[str] | None) -> list[str] | None:
    """Names that do not mean the network's own layers as well: PEFT takes "head" for "mlp_head" (ModernBERT)."""
    return [
        f".{name}" if "mlp_head".endswith(name) or "lstm_head".endswith(name) else name for name in names or ()
    ] or None
