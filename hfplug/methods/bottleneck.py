"""Bottleneck adapters: small networks between the layers (Houlsby et al. 2019, https://arxiv.org/abs/1902.00751).

Each takes the model's width down to width / reduction_factor, through a non-linearity, and up again, and is added to
what it was given. The last matrix starts at zero, so that the model starts as the base. Where they stand:

* ``houlsby``: after the attention's and after the feed-forward part's projection back to the model's width, before
  the residual is added (Houlsby et al. 2019, section 2.1 and figure 2);
* ``pfeiffer``: after the feed-forward part only (Pfeiffer et al. 2021, https://arxiv.org/abs/2005.00247), half as
  many;
* ``parallel``: beside the feed-forward part, on its input (He et al. 2022, https://arxiv.org/abs/2110.04366, section
  3.3), for models where it is one module.

A mixture of experts is one feed-forward part here: it gets one adapter, after the experts' outputs are summed.

Presets: ``paper`` (Houlsby et al. 2019: both places; their 64 of BERT-large's 1024 is a factor of 16; 3e-4 is the rate
of the authors' command, https://github.com/google-research/adapter-bert), ``pfeiffer`` (a factor of 16 at 1e-4, the
defaults of the library of the authors, https://docs.adapterhub.ml) and ``he`` (He et al. 2022: beside the feed-forward
part, 512 of 1024, a scale of 4, 5e-5, as their script for XSum has it,
https://github.com/jxhe/unify-parameter-efficient-tuning).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hfplug.errors import MethodError
from hfplug.methods.linear_layers import check_has_linear_layers
from hfplug.methods.lora import shortest_names
from hfplug.methods.method import (
    CLASSIFICATION,
    AnatomyView,
    Default,
    LearningRate,
    TuningMethod,
    modules_to_save,
    register_method,
)
from hfplug.methods.settings import setting
from hfplug.methods.values import Preset

if TYPE_CHECKING:
    from peft import PeftConfig

PLACEMENTS = ("pfeiffer", "houlsby", "parallel")
NON_LINEARITIES = ("relu", "gelu", "silu", "tanh")


@register_method
@dataclass(frozen=True, kw_only=True)
class Bottleneck(TuningMethod):
    """Train small networks that are put between the layers."""

    name: ClassVar[str] = "bottleneck"
    category: ClassVar[str] = "additive"
    flag_prefix: ClassVar[str] = "bottleneck"
    summary: ClassVar[str] = "small networks between the layers, after Houlsby, Pfeiffer or He"
    paper: ClassVar[str] = "Houlsby et al. 2019, https://arxiv.org/abs/1902.00751"
    untrained: ClassVar[str] = "base"
    peft_type: ClassVar[str | None] = "HFPLUG_BOTTLENECK"
    merging: ClassVar[str] = "no: a network with a non-linearity is no weight"
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            settings={"placement": "houlsby", "reduction_factor": 16.0},
            learning_rate=3e-4,
            source="Houlsby et al. 2019 (BERT-large); rate of the authors' command",
        ),
        "pfeiffer": Preset(
            settings={"placement": "pfeiffer", "reduction_factor": 16.0},
            learning_rate=1e-4,
            source="Pfeiffer et al. 2021; defaults of the authors' library, AdapterHub",
        ),
        "he": Preset(
            settings={"placement": "parallel", "reduction_factor": 2.0, "scale": 4.0},
            learning_rate=5e-5,
            source="He et al. 2022 (BART-large on XSum); the authors' script",
        ),
    }

    placement: str = setting("pfeiffer", choices=PLACEMENTS, help="where the networks stand")
    reduction_factor: float = setting(16.0, low=0.25, high=4096.0, help="width of the model by that of the network")
    non_linearity: str = setting("relu", choices=NON_LINEARITIES, help="between the two matrices")
    scale: float = setting(1.0, low=0.01, high=100.0, help="the network's output is multiplied by it; He: 4 beside")

    def defaults(self, anatomy: AnatomyView) -> Mapping[str, Default]:
        library = "Pfeiffer et al. 2021; the default of the authors' library, AdapterHub"
        factor = Default(value=16.0, why="as wide as in the papers on BERT", source=library)
        if anatomy.parameters >= 1e9:
            factor = Default(
                value=32.0,
                why="a large model needs no wider a network: at 175 B a width of 8 is as good as 64 (Hu et al. 2021)",
                source="Liu et al. 2022, https://github.com/r-three/t-few, configs/adapter.json (T0 of 3 B)",
            )
        half = Default(value="pfeiffer", why="half as many networks as after Houlsby", source=library)
        return {"placement": half, "reduction_factor": factor}

    def peft_config(self, anatomy: AnatomyView) -> PeftConfig:
        from hfplug.methods.tuners.bottleneck import Config
        from hfplug.methods.tuners.names import register_peft_types

        register_peft_types()
        return Config(
            task_type=anatomy.task_type,  # type: ignore[arg-type]
            target_modules=shortest_names(self._places(anatomy), anatomy.modules),
            modules_to_save=modules_to_save(anatomy),
            width=anatomy.width,
            reduction_factor=self.reduction_factor,
            non_linearity=self.non_linearity,
            scale=self.scale,
            place="beside" if self.placement == "parallel" else "after",
        )

    def _places(self, anatomy: AnatomyView) -> tuple[str, ...]:
        """The modules that get a network.

        Raises:
            MethodError: if there are none of the kind that the placement asks for.
        """
        blocks = anatomy.feed_forward_block
        if self.placement == "parallel":
            if not blocks:
                raise MethodError(
                    f"bottleneck: beside the feed-forward part of this {anatomy.model_type} model nothing can stand,"
                    " as it is not one module.",
                    fix="Use placement='pfeiffer' or 'houlsby'.",
                )
            return blocks
        outputs = tuple(name for name in anatomy.feed_forward_output if not _is_expert(name))
        after = outputs + tuple(block for block in blocks if not any(name.startswith(f"{block}.") for name in outputs))
        if self.placement == "houlsby":
            if not anatomy.attention_output:
                raise MethodError(
                    f"bottleneck: this {anatomy.model_type} model has no projection after its attention.",
                    fix="Use placement='pfeiffer'.",
                )
            after = (*anatomy.attention_output, *after)
        if not after:
            check_has_linear_layers("bottleneck", anatomy)
            raise MethodError(
                f"bottleneck: no feed-forward part was found in this {anatomy.model_type} model.", fix="Use lora."
            )
        return after

    def learning_rate(self, anatomy: AnatomyView) -> LearningRate:
        """By the model's size and, for classification, as the papers' encoders."""
        size = anatomy.parameters
        if size < 50e6:
            return LearningRate(value=1.5e-2, low=3e-5, high=1e-1, source="hfplug, benchmarks/demo_rates.py")
        if size < 1e9 and anatomy.task_type != CLASSIFICATION:
            source = "hfplug's own, within the 3e-5 to 3e-3 that Houlsby et al. 2019 tried (section 3.2)"
            return LearningRate(value=1e-3, low=3e-5, high=1e-1, source=source)
        source = "Hu et al. 2021, tables 9 and 12 (3e-4 on RoBERTa-large, 1e-4 on GPT-3)"
        return LearningRate(value=3e-4 if size < 100e9 else 1e-4, low=3e-5, high=1e-1, source=source)


def _is_expert(name: str) -> bool:
    return any("expert" in part for part in name.split("."))
