r"""IA3: learned scales on keys, values and the feed-forward layers (Liu et al. 2022, https://arxiv.org/abs/2205.05638).

Three vectors a block are trained, l_k, l_v and l_ff, and the block computes (section 3.3)

    softmax(Q (l_k * K)^T / sqrt(d)) (l_v * V)        (l_ff * f(W1 x)) W2

They start at one, so that the model starts as the base. A scale on the output of a layer, or on its input, can be
multiplied into its weight before inference, so that it costs nothing there.

The preset ``paper`` is the T-Few recipe (section 3.5): all three vectors, a learning rate of 3e-3 (with Adafactor, 1000
steps of 8 rows, on T0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hfplug.errors import MethodError
from hfplug.methods.linear_layers import check_has_linear_layers
from hfplug.methods.lora import shortest_names
from hfplug.methods.method import AnatomyView, Default, LearningRate, TuningMethod, modules_to_save, register_method
from hfplug.methods.settings import setting
from hfplug.methods.values import Preset

if TYPE_CHECKING:
    from peft import PeftConfig


@register_method
@dataclass(frozen=True, kw_only=True)
class IA3(TuningMethod):
    """Train one scale for each key, value and feed-forward activation."""

    name: ClassVar[str] = "ia3"
    category: ClassVar[str] = "additive"
    flag_prefix: ClassVar[str] = "ia3"
    summary: ClassVar[str] = "a scale for each key, value and feed-forward activation; merges into the base"
    paper: ClassVar[str] = "Liu et al. 2022, https://arxiv.org/abs/2205.05638"
    untrained: ClassVar[str] = "base"
    peft_type: ClassVar[str | None] = "IA3"
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            settings={"attention": "on", "feed_forward": "on"},
            learning_rate=3e-3,
            source="Liu et al. 2022, section 3.5 (T0)",
        )
    }

    attention: str = setting("on", choices=("on", "off"), help="scale keys and values (section 3.3)")
    feed_forward: str = setting("on", choices=("on", "off"), help="scale what goes into the last feed-forward layer")

    def defaults(self, anatomy: AnatomyView) -> Mapping[str, Default]:
        why = "keys, values and the inner feed-forward activations, as in the paper"
        place = "Liu et al. 2022, section 3.3"
        return {name: Default(value="on", why=why, source=place) for name in ("attention", "feed_forward")}

    def peft_config(self, anatomy: AnatomyView) -> PeftConfig:
        from peft import IA3Config

        check_has_linear_layers("ia3", anatomy)
        attention = anatomy.key_value if self.attention == "on" else ()
        feed_forward = anatomy.feed_forward_output if self.feed_forward == "on" else ()
        if not attention and not feed_forward:
            raise MethodError(
                f"ia3 finds nothing to scale on this {anatomy.model_type} model with attention={self.attention!r} and"
                f" feed_forward={self.feed_forward!r}.",
                fix="Leave both 'on', or use lora with target_modules.",
            )
        inner, outer = shortest_names(feed_forward, anatomy.modules), shortest_names(attention, anatomy.modules)
        if any(name.endswith(ending) for name in attention for ending in inner):
            # PEFT compares these endings without the dot before them: "o" would mean "wo" as well.
            inner = list(feed_forward)
        return IA3Config(
            task_type=anatomy.task_type,
            target_modules=[*outer, *inner],
            feedforward_modules=inner,
            modules_to_save=modules_to_save(anatomy),
            fan_in_fan_out=bool(anatomy.transposed) and set(anatomy.transposed) == set(anatomy.linear),
        )

    def learning_rate(self, anatomy: AnatomyView) -> LearningRate:
        """3e-3 on T0 with Adafactor; small models take more, as the scales are few."""
        paper = "Liu et al. 2022, section 3.5 (3e-3 on T0 of 3 B and 11 B, with Adafactor)"
        if anatomy.parameters < 50e6:
            return LearningRate(value=1e-1, low=1e-4, high=1.0, source="hfplug, benchmarks/demo_rates.py")
        if anatomy.parameters < 1e9:
            return LearningRate(value=1e-2, low=1e-4, high=1.0, source=f"hfplug's own, above {paper}")
        return LearningRate(value=3e-3, low=1e-4, high=1.0, source=paper)
