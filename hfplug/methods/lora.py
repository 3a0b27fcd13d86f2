r"""LoRA: low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

The weight W of a linear layer, of shape (out, in), is frozen. Beside it two thin matrices are trained,
A of shape (r, in) and B of shape (out, r), and the layer computes

    y = W x + (lora_alpha / r) * B A x

B starts at zero, so that the layer starts as the base (section 4.1). Only r * (in + out) numbers are trained
a layer, and B A can be added to W before inference, so that it costs nothing there. PEFT does the work; this
file decides where it goes.

The preset ``paper`` is what the paper takes for GPT-2 (its appendix D.3, table 11): rank 4 on queries and values, a
scale of 32 / 4, a learning rate of 2e-4; and dropout 0.1, as in the authors' commands
(https://github.com/microsoft/LoRA, examples/NLG). The presets ``roberta``, ``roberta_large`` and ``deberta_xxl`` are
those of its tables 9 and 10: rank 8, at 5e-4, 3e-4 and 1e-4 on MNLI.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hfplug.errors import MethodError, SettingError, did_you_mean
from hfplug.methods.linear_layers import check_has_linear_layers
from hfplug.methods.lora_patterns import layer_pattern, parse_pattern
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
    from torch import nn

logger = logging.getLogger(__name__)

EXPERTS = "experts"
GROUPS = ("attention", "query", "key_value", "value", "feed_forward", "all-linear", "experts")
INITIALISATIONS = ("default", "gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora", "mica", "loftq")
# Started by hfplug.methods.tuners.lora_start, the first three with what they started from kept beside: rank 2r.
_KEPT_BESIDE = ("pissa", "pissa_niter_16", "olora")
_FROM_WEIGHTS = (*_KEPT_BESIDE, "mica", "loftq")
# Starts of PEFT that are computed from data, which there is none of when a method is put on a model.
_VALUE = {"v", "wv", "value", "values"}
_FROM_DATA = {
    "eva": "the layers' inputs on the training data",
    "corda": "the covariance of the layers' inputs on the training data",
    "lora_ga": "gradients on the training data",
}


@register_method
@dataclass(frozen=True, kw_only=True)
class Lora(TuningMethod):
    """Train two thin matrices beside each frozen weight of the attention layers."""

    name: ClassVar[str] = "lora"
    category: ClassVar[str] = "reparameterised"
    flag_prefix: ClassVar[str] = "lora"
    summary: ClassVar[str] = "two thin matrices beside each frozen weight; merges into the base"
    paper: ClassVar[str] = "Hu et al. 2021, https://arxiv.org/abs/2106.09685"
    untrained: ClassVar[str] = "base"
    peft_type: ClassVar[str | None] = "LORA"
    decomposed: ClassVar[str] = "off"
    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            settings={"r": 4, "lora_alpha": 32, "lora_dropout": 0.1, "target_modules": ("query", "value")},
            learning_rate=2e-4,
            source="Hu et al. 2021, table 11 (GPT-2); dropout of the authors' commands",
        ),
        **{
            name: Preset(
                settings={"r": 8, "lora_alpha": alpha, "target_modules": ("query", "value")},
                learning_rate=rate,
                source=f"Hu et al. 2021, {place}",
            )
            for name, alpha, rate, place in (
                ("roberta", 8, 5e-4, "table 9 (RoBERTa-base on MNLI)"),
                ("roberta_large", 16, 3e-4, "table 9 (RoBERTa-large on MNLI)"),
                ("deberta_xxl", 8, 1e-4, "table 10 (DeBERTa-XXL on MNLI)"),
            )
        },
    }

    r: int = setting(16, low=1, high=4096, help="rank of the two matrices")
    lora_alpha: int = setting(32, low=1, high=65536, help="scale: the update is multiplied by lora_alpha / r")
    lora_dropout: float = setting(0.0, low=0.0, high=0.95, help="dropout on the adapter's input, a share")
    target_modules: tuple[str, ...] = setting(
        ("attention",),
        help="attention, query, key_value, value, feed_forward, all-linear, experts, or names",
    )
    use_rslora: bool = setting(False, help="scale by lora_alpha / sqrt(r) instead (rank-stabilised LoRA)")
    init_lora_weights: str = setting(
        "default",
        choices=INITIALISATIONS,
        help="how A and B start; with pissa and olora what they started from is saved too: twice the size",
    )
    rank_pattern: tuple[str, ...] = setting(
        (), help="ranks of groups or layers that differ from r: feed_forward=8 q_proj=32", example=("q_proj=4",)
    )
    alpha_pattern: tuple[str, ...] = setting(
        (), help="the same for lora_alpha: feed_forward=16", example=("attention=64", "q_proj=4")
    )

    def __post_init__(self) -> None:
        how = self.init_lora_weights
        if how in _FROM_DATA:
            raise SettingError(
                f"{self.name}: {how} starts from {_FROM_DATA[how]}, which a method is not given.",
                fix="Use 'pissa' or 'olora', which start from the weights, or PEFT itself for this one.",
            )
        super().__post_init__()
        ranks = parse_pattern(self.name, "rank_pattern", self.rank_pattern)
        parse_pattern(self.name, "alpha_pattern", self.alpha_pattern)
        if how == "orthogonal" and any(rank % 2 for rank in (self.r, *ranks.values())):
            raise SettingError(f"{self.name}: orthogonal matrices need an even rank.", fix="For example r=16.")
        if how.startswith("pissa") and self.quantization() is not None:
            raise SettingError(
                f"{self.name}: {how} over 4 bits quantises what is left of a weight, which would change the base.",
                fix="Use init_lora_weights='olora' or 'loftq', or lora.",
            )

    def peft_config(self, anatomy: AnatomyView) -> PeftConfig:
        from peft import LoraConfig

        targets = _targets(self, anatomy)
        times = 2 if self.init_lora_weights in _KEPT_BESIDE else 1
        alpha_times = math.sqrt(times) if self.use_rslora and times > 1 else times  # so that the scale is the same
        ranks = layer_pattern(self, "rank_pattern", targets, anatomy)
        alphas = layer_pattern(self, "alpha_pattern", targets, anatomy)
        plain = {"default": True} | dict.fromkeys(_FROM_WEIGHTS, True)
        return LoraConfig(
            task_type=anatomy.task_type,
            r=self.r * times,
            lora_alpha=self.lora_alpha * alpha_times,  # type: ignore[arg-type]
            lora_dropout=self.lora_dropout,
            target_modules=targets,
            target_parameters=_stacked_experts(self, anatomy),
            rank_pattern={name: rank * times for name, rank in ranks.items()},
            alpha_pattern={name: alpha * alpha_times for name, alpha in alphas.items()},
            use_rslora=self.use_rslora,
            init_lora_weights=plain.get(self.init_lora_weights, self.init_lora_weights),  # type: ignore[arg-type]
            use_dora=self.decomposed == "on",
            modules_to_save=modules_to_save(anatomy),
            fan_in_fan_out=bool(anatomy.transposed) and set(anatomy.transposed) == set(anatomy.linear),
        )

    def finish(self, model: nn.Module) -> nn.Module:
        """Starts that are computed from the base's weights, which stay as they are."""
        if self.init_lora_weights in _FROM_WEIGHTS:
            from hfplug.methods.tuners.lora_start import start_from_weights

            start_from_weights(model, self.init_lora_weights, method=self.name)
        return model

    def loading(self, config: Mapping[str, Any]) -> Literal["beside", "into"]:
        """PiSSA, OLoRA and their kin move a part of the base's weights into A and B when the layers are made."""
        kept = config.get("init_lora_weights") in (None, True, False, "gaussian", "orthogonal", "eva", "mica")
        return "beside" if kept else "into"

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> bool:
        # A LoRA that goes on no layer is how PEFT is told to train tokens only (embeddings).
        no_layers = config.get("target_modules") == "dummy-target-modules"
        return super().recognises(config) and not config.get("use_dora") and not no_layers

    def defaults(self, anatomy: AnatomyView) -> Mapping[str, Default]:
        more = "all of it, as more matrices of a lower rank do better than fewer of a higher one"
        rank = "from 8 to 64 quality hardly changes; with alpha the authors' own for DeBERTa-XXL"
        source = "Hu et al. 2021, table 15; https://github.com/microsoft/LoRA, examples/NLU"
        return {
            "r": Default(value=16, why=rank, source=source),
            "lora_alpha": Default(value=32, why="twice the rank", source=source),
            "target_modules": Default(value=("attention",), why=more, source="Hu et al. 2021, section 7.1 and table 5"),
        }

    def learning_rate(self, anatomy: AnatomyView) -> LearningRate:
        """By the model's size, and for classification by what the paper takes for encoders."""
        size = anatomy.parameters
        if size < 50e6:
            return LearningRate(value=5e-3, low=5e-5, high=5e-2, source="hfplug, benchmarks/demo_rates.py")
        if anatomy.task_type == CLASSIFICATION and size < 5e9:
            value = 4e-4 if size < 250e6 else 3e-4 if size < 1e9 else 1e-4
            source = (
                "Hu et al. 2021, tables 9 and 10 (4e-4 to 5e-4 at 125 M, 2e-4 to 4e-4 at 355 M, about 1e-4 at 1.5 B)"
            )
            return LearningRate(value=value, low=5e-5, high=1e-2 if size < 1e9 else 5e-3, source=source)
        if size < 1e9:
            source = "hfplug's own, for one epoch (SmolLM2-135M); Hu et al. 2021, table 11: 2e-4 on GPT-2, five epochs"
            return LearningRate(value=1e-3, low=5e-5, high=1e-2, source=source)
        source = "Dettmers et al. 2023, appendix B.2 (2e-4 at 7 B and 13 B, 1e-4 at 33 B and 65 B)"
        return LearningRate(value=2e-4 if size < 20e9 else 1e-4, low=5e-5, high=5e-3, source=source)


def _targets(method: Lora, anatomy: AnatomyView) -> Any:
    """The layers that the settings ask for, as the shortest names that mean just them.

    Blocks without attention get it on their mixer (linear attention, a state-space model), and a model that has neither
    on the other linear layers of its blocks (XLNet's feed-forward part).

    Raises:
        MethodError: if a group is empty on this model, or a name matches no layer.
    """
    if method.target_modules == ("attention",) and not (anatomy.attention or anatomy.mixer) and anatomy.feed_forward:
        logger.warning(
            "%s: this %s model has no attention layers, so it goes on the linear layers of its blocks.",
            method.name,
            anatomy.model_type,
        )
        return shortest_names(anatomy.feed_forward, anatomy.modules)
    convolutions = tuple(name for name, kind in anatomy.others if kind == "Conv1d")
    if method.target_modules == ("attention",) and convolutions and method.quantization() is None:
        logger.warning(
            "%s: this %s model has convolutions for linear layers, so it goes on these; those in groups do not merge.",
            method.name,
            anatomy.model_type,
        )
        return shortest_names(convolutions, anatomy.modules)
    wanted: dict[str, None] = {}
    for item in method.target_modules or ("attention",):
        found = matching_layers(item, anatomy)
        if not found and not (item == EXPERTS and anatomy.expert_tensors):
            endings = sorted({name.rsplit(".", 1)[-1] for name in anatomy.linear})
            # A group that is empty here is no misspelling.
            guess = "" if item in GROUPS else did_you_mean(item, [*GROUPS, *endings])
            if item == "feed_forward" and anatomy.expert_tensors:
                guess = "Its feed-forward parts are experts: pass 'experts'."
            check_has_linear_layers(method.name, anatomy)
            raise MethodError(
                f"{method.name}: {item!r} matches no linear layer of this {anatomy.model_type} model.",
                fix=f"{guess} Pass target_modules with names of layers, which here end in: "
                f"{', '.join(endings) or 'nothing (it has no linear layer)'}; groups are {', '.join(GROUPS)}.".strip(),
            )
        wanted.update(dict.fromkeys(found))
    return shortest_names(tuple(wanted), anatomy.modules)


def _stacked_experts(method: Lora, anatomy: AnatomyView) -> list[str] | None:
    """The parameters that hold the matrices of all experts of a block, if experts are asked for; PEFT has one pair of
    matrices for each expert there."""
    if EXPERTS not in method.target_modules or not anatomy.expert_tensors:
        return None
    for is_set, what, fix in (
        (method.decomposed == "on", "DoRA", "Use lora, or leave the experts out."),
        (method.lora_dropout > 0, "dropout", "Pass lora_dropout=0, or leave the experts out."),
    ):
        if is_set:
            raise MethodError(
                f"{method.name}: PEFT has no {what} for experts that are stacked in one tensor, as in this"
                f" {anatomy.model_type} model.",
                fix=fix,
            )
    return shortest_names(anatomy.expert_tensors, (*anatomy.modules, *anatomy.expert_tensors))


def matching_layers(item: str, anatomy: AnatomyView) -> tuple[str, ...]:
    """The modules that a group, a name or the ending of a name means; none if it means none."""
    mixing = {*anatomy.attention, *anatomy.mixer}
    groups = {
        "attention": _not_renamed(tuple(name for name in anatomy.linear if name in mixing), anatomy),
        "query": query_layers(anatomy),
        "key_value": anatomy.key_value,
        "value": value_layers(anatomy),
        "feed_forward": anatomy.feed_forward,
        "all-linear": anatomy.linear,
        EXPERTS: anatomy.experts,
    }
    if item.replace("_linear", "-linear") in groups:
        return _kept_at_load(groups[item.replace("_linear", "-linear")], anatomy)
    return tuple(name for name in anatomy.modules if name == item or name.endswith(f".{item}"))


def _not_renamed(names: tuple[str, ...], anatomy: AnatomyView) -> tuple[str, ...]:
    """Those whose names PEFT (0.21) does not take for experts that were renamed: an attention gate called gate_proj.

    PEFT turns such a name into the stacked experts of these architectures, or refuses it, wherever the layer sits.
    """
    from peft.utils import transformers_weight_conversion as conversion

    pattern = getattr(conversion, "_MODEL_TO_CONVERSION_PATTERN", {}).get(anatomy.model_type)
    renamed = getattr(conversion, "_MOE_TARGET_MODULE_MAPPING", {}).get(pattern, {})
    return tuple(name for name in names if name.rpartition(".")[2] not in renamed)


def _kept_at_load(names: tuple[str, ...], anatomy: AnatomyView) -> tuple[str, ...]:
    """Those whose tensors PEFT (0.21) finds again when it loads them.

    It sends the names of LoRA's tensors through the renames by which transformers reads checkpoints of an older form,
    though these have the names of today already; where a rename fits them once more, they are lost (Inkling 2).
    """
    from peft.utils import transformers_weight_conversion as conversion
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    entries = get_checkpoint_conversion_mapping(anatomy.model_type) or []
    renames = [one for one in entries if isinstance(one, conversion.WeightRenaming)]
    if not renames:
        return names
    keys = {name: f"{name}.lora_A.weight" for name in names}
    return tuple(
        name for name in names if keys[name].endswith(conversion.rename_source_key(keys[name], renames, [])[0])
    )


def query_layers(anatomy: AnatomyView) -> tuple[str, ...]:
    """The layers that make queries: of attention what makes no keys or values and does not lead back to the width."""
    others = {*anatomy.key_value, *anatomy.attention_output}
    alone = tuple(name for name in anatomy.attention if name not in others)
    return alone or anatomy.key_value  # one layer makes all three


def value_layers(anatomy: AnatomyView) -> tuple[str, ...]:
    """The layers that make values: those of their name, or else all that make keys or values (fused ones)."""
    named = tuple(name for name in anatomy.key_value if _VALUE & {*name.rpartition(".")[2].lower().split("_")})
    return named or anatomy.key_value


def shortest_names(wanted: tuple[str, ...], modules: tuple[str, ...]) -> list[str]:
    """The shortest module names that match the wanted modules and no other.

    PEFT matches a target by equality or by ``.endswith("." + target)``. A list of endings, such as
    ``["q", "v"]``, is what people expect to read in ``adapter_config.json`` and what other loaders take.

    Args:
        wanted: Full names of modules.
        modules: Full names of all modules of the model.

    Returns:
        Endings where an ending means only wanted modules, else more of the path, sorted.
    """
    chosen: set[str] = set()
    wanted_set = set(wanted)
    for name in wanted:
        parts = name.split(".")
        for start in range(len(parts) - 1, -1, -1):
            ending = ".".join(parts[start:])
            if ending.isdigit():
                continue
            if ending in chosen or all(
                other in wanted_set for other in modules if other == ending or other.endswith(f".{ending}")
            ):
                chosen.add(ending)
                break
    return sorted(chosen)
