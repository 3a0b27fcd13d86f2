"""Prefix tuning: trained keys and values before those of every layer (Li and Liang 2021, arXiv 2101.00190).

For each layer a matrix of keys and one of values, of shape (num_virtual_tokens, heads * head_size), is put before
what the layer computes from the input; all queries attend to them (section 4.2). They are all that is trained.
PEFT hands them to the model as a filled cache. On an encoder-decoder that is the decoder's self-attention.

PEFT takes the shape of a key from the configuration, which tells it wrongly for grouped queries, for heads whose
size is not the width by their number, and for latent attention. Here it is read off the cache that the base fills;
where that differs from layer to layer, the adapter holds one row for all layers, and plain PEFT cannot run it.

On an encoder-decoder PEFT lays the trained pairs out twice and each layer takes every second one: with an even number
of layers the upper half would have the prefix of the lower, and half of the numbers no gradient. With an odd number
each pair is taken once, so one layer more is laid out for an even number; its pair belongs to no layer.

How long a prefix should be depends on the task: 200 for summaries and translations by a model of BART's size, 100 for
labels of tokens, fewer than 20 for a class (see ``defaults``).

Its presets: ``paper`` for tables to text (GPT-2: 10 virtual tokens), ``summaries`` for news to a summary (BART-large:
200), both through the network of section 4.3, 512 and 800 wide, and at 5e-5 (sections 4.3, 5.3 and 7.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hfplug.errors import MethodError, TrainingError
from hfplug.methods.method import (
    CLASSIFICATION,
    QUESTIONS,
    SEQ2SEQ,
    TOKENS,
    AnatomyView,
    Default,
    LearningRate,
    register_method,
)
from hfplug.methods.settings import setting
from hfplug.methods.soft_prompts import SoftPrompt, heads_to_save, peft_prefix, settle_when_loaded
from hfplug.methods.values import Preset

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn

_LABELS = (CLASSIFICATION, TOKENS, QUESTIONS)


@register_method
@dataclass(frozen=True, kw_only=True)
class PrefixTuning(SoftPrompt):
    """Train keys and values that stand before those of every layer."""

    name: ClassVar[str] = "prefix_tuning"
    flag_prefix: ClassVar[str] = "prefix"
    summary: ClassVar[str] = "trained keys and values before those of every layer"
    paper: ClassVar[str] = "Li and Liang 2021, https://arxiv.org/abs/2101.00190"
    peft_type: ClassVar[str | None] = "PREFIX_TUNING"
    input_kind: ClassVar[str] = "prefix"
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            settings={"num_virtual_tokens": 10, "prefix_projection": "on", "prefix_hidden_size": 512},
            learning_rate=5e-5,
            source="Li and Liang 2021, sections 4.3, 5.3 and 7.1 (GPT-2, tables to text)",
        ),
        "summaries": Preset(
            settings={"num_virtual_tokens": 200, "prefix_projection": "on", "prefix_hidden_size": 800},
            learning_rate=5e-5,
            source="Li and Liang 2021, sections 4.3 and 7.1 (BART-large, news)",
        ),
    }
    merging: ClassVar[str] = "no: a prefix is an input of every layer, there is no weight to merge it into"

    num_virtual_tokens: int = setting(
        20, low=1, high=1000, help="virtual tokens; by task: 200 for summaries, 10 for tables, 100 for labels of tokens"
    )
    prefix_init: str = setting("random", choices=("random", "zero"), help="how the keys and values start")
    prefix_projection: str = setting(
        "off", choices=("off", "on"), help="compute them by a small network while they are trained (section 4.3)"
    )
    prefix_hidden_size: int = setting(512, low=1, high=65536, help="width of that network")

    def defaults(self, anatomy: AnatomyView) -> Mapping[str, Default]:
        labels = "Liu et al. 2022 (P-tuning v2), https://arxiv.org/abs/2110.07602, appendix B"
        length = Default(value=20, why="between the papers' 10 for tables and 200 for news", source="hfplug's own")
        if anatomy.task_type == TOKENS:
            length = Default(value=100, why="labels of tokens want a long prefix, around 100", source=labels)
        elif anatomy.task_type in _LABELS:
            length = Default(value=20, why="simple classification does best with fewer than 20 or so", source=labels)
        elif anatomy.task_type == SEQ2SEQ and anatomy.parameters >= 300e6:
            length = Default(
                # The prefix takes positions of the decoder, and some models have few (Blenderbot: 128).
                value=min(200, anatomy.positions // 4) if anatomy.positions else 200,
                why="summaries get better up to a length of 200; a fourth of the positions at most",
                source="Li and Liang 2021, section 7.1, figure 4 (BART-large); He et al. 2022 (also for translation)",
            )
        return {"num_virtual_tokens": length}

    def peft_config(self, anatomy: AnatomyView) -> PeftConfig:
        from peft import PrefixTuningConfig

        layers, heads, head_size = self._layout(anatomy)
        twice = anatomy.task_type == SEQ2SEQ
        return PrefixTuningConfig(
            task_type=anatomy.task_type,
            num_virtual_tokens=self.num_virtual_tokens,
            num_layers=layers + 1 if twice and layers % 2 == 0 else layers,
            num_attention_heads=heads,
            token_dim=heads * head_size,
            num_transformer_submodules=2 if twice else 1,
            prefix_projection=self.prefix_projection == "on",
            encoder_hidden_size=self.prefix_hidden_size,
            init_weights="zero" if self.prefix_init == "zero" else None,
            modules_to_save=heads_to_save(anatomy),
        )

    def _layout(self, anatomy: AnatomyView) -> tuple[int, int, int]:
        """Layers, heads and numbers a head that PEFT is told, so that a row has as many numbers as the base keeps.

        Where all layers keep the same they are the real ones. Where they do not, :mod:`hfplug.models.prefix_layout`
        sees to the size and cuts each row.
        """
        if anatomy.encoder_decoder and anatomy.task_type == CLASSIFICATION:
            raise MethodError(
                f"prefix_tuning hands a filled cache to the decoder; a {anatomy.model_type} classifier takes none.",
                fix="Use prompt_tuning or lora.",
            )
        shapes = anatomy.cache_shapes()
        kinds = {shape for pair in shapes for shape in pair}
        if kinds <= {(0, 0)}:
            raise MethodError(
                f"prefix_tuning puts keys and values before those of every layer; this {anatomy.model_type} model keeps"
                " no keys and values.",
                fix="Use prompt_tuning or lora.",
            )
        if len(kinds) == 1:
            heads, head_size = kinds.pop()
            return len(shapes), heads, head_size
        if anatomy.encoder_decoder:
            raise MethodError(
                f"prefix_tuning does not work on this {anatomy.model_type} model: the layers of its decoder keep keys"
                f" and values of {len(kinds)} shapes.",
                fix="Use prompt_tuning or lora.",
            )
        width = sum(heads * size for pair in shapes for heads, size in pair) // 2
        return 1, width, 1

    def finish(self, model: nn.Module) -> nn.Module:
        return settle_when_loaded(model) if self.prefix_projection == "on" else model

    def check_arguments(self, arguments: Any) -> None:
        if getattr(arguments, "gradient_checkpointing", False):
            raise TrainingError(
                "prefix_tuning hands its prefix to the model as a cache, and gradient checkpointing leaves the cache"
                " out: the prefix would not be there.",
                fix="Pass gradient_checkpointing=False, or use lora or prompt_tuning.",
            )

    def learning_rate(self, anatomy: AnatomyView) -> LearningRate:
        """With the network on top the paper takes 5e-5, on GPT-2; without it far more, as numbers that start at the
        scale of one are moved themselves."""
        size = anatomy.parameters
        if self.prefix_projection == "on":
            source = "hfplug's own, for short runs; Li and Liang 2021, section 5.3: 5e-5 for ten epochs"
            return LearningRate(value=1e-3, low=1e-5, high=1e-2, source=source)
        if size < 50e6:
            return LearningRate(value=0.2, low=1e-4, high=1.0, source="hfplug, benchmarks/demo_rates.py")
        if anatomy.task_type in _LABELS:
            source = "Liu et al. 2022, https://github.com/THUDM/P-tuning-v2 (5e-3 to 3e-2 on RoBERTa-large)"
            return LearningRate(value=7e-3, low=1e-4, high=1.0, source=source)
        return LearningRate(value=3e-2 if size < 1e9 else 1e-2, low=1e-4, high=1.0, source="hfplug's own")

    def virtual_tokens(self) -> int:
        return self.num_virtual_tokens

    def cached_prefix(self, model: nn.Module) -> tuple[tuple[Tensor, Tensor] | None, ...] | None:
        return peft_prefix(model)
