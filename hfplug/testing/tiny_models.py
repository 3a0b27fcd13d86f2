"""Tiny models with random weights: one of every text architecture that the installed transformers has.

:func:`text_pairs` reads the pairs of model type and task off transformers' own mappings, so that a new version brings
its new architectures along; :func:`tiny_model` makes one, in about a second and with less than a million parameters.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfplug.errors import BaseModelError
from hfplug.testing.tiny_configs import EXCEPTIONS, LARGEST, LAYERS, NEEDS, NOT_TEXT

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

# Our word for a task: the automatic class, and where transformers keeps its mapping.
TASKS = {
    "causal": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    "seq2seq": ("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"),
    "classification": ("AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"),
}
# Heads that stand on the same backbones; they are asked apart from the three tasks above, which bring them all.
FURTHER_TASKS = {
    "token_classification": ("AutoModelForTokenClassification", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES"),
    "question_answering": ("AutoModelForQuestionAnswering", "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES"),
    "masked_lm": ("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES"),
    "multiple_choice": ("AutoModelForMultipleChoice", "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES"),
}
# Tasks whose head is new: the checkpoint of a pretrained model does not hold it.
NEW_HEADS = ("classification", "token_classification", "question_answering", "multiple_choice")
_MOST_LAYERS = 4


@dataclass(frozen=True, order=True)
class Pair:
    """A model type of transformers and a task, with why it is not one of text, if it is not.

    Attributes:
        model_type: As in a ``config.json``.
        task: ``"causal"``, ``"seq2seq"`` or ``"classification"``, or one of ``FURTHER_TASKS``.
        left_out: Why no tiny model is made of it; empty if one is.
    """

    model_type: str
    task: str
    left_out: str = ""

    @property
    def name(self) -> str:
        """The pair in one word, e.g. ``"bert-classification"``."""
        return f"{self.model_type}-{self.task}"


def all_pairs(tasks: Mapping[str, tuple[str, str]] = TASKS) -> tuple[Pair, ...]:
    """Every pair of model type and task in transformers' automatic mappings, also those that are left out.

    Args:
        tasks: Which tasks: ``TASKS``, ``FURTHER_TASKS``.
    """
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto

    found = []
    for task, (_, mapping) in tasks.items():
        for model_type in sorted(getattr(modeling_auto, mapping)):
            why = "" if model_type in CONFIG_MAPPING else "transformers has no configuration of this type"
            package = NEEDS.get(model_type)
            if package is not None and importlib.util.find_spec(package) is None:
                why = f"it needs the package {package}, which is not installed"
            found.append(Pair(model_type, task, why or NOT_TEXT.get(model_type, "")))
    return tuple(found)


def text_pairs(tasks: Mapping[str, tuple[str, str]] = TASKS) -> tuple[Pair, ...]:
    """The pairs of model type and task that take text and of which a tiny model can be made.

    Args:
        tasks: As for :func:`all_pairs`.
    """
    return tuple(pair for pair in all_pairs(tasks) if not pair.left_out)


def auto_class_of(task: str) -> Any:
    """transformers' automatic class for a task of ``TASKS`` or ``FURTHER_TASKS``."""
    import transformers

    return getattr(transformers, {**TASKS, **FURTHER_TASKS}[task][0])


def tiny_model(model_type: str, task: str, *, seed: int = 0) -> nn.Module:
    """A model of a type for a task, with random weights.

    Args:
        model_type: As in a ``config.json``, e.g. ``"llama"``.
        task: As of a :class:`Pair`.
        seed: Of the weights; the caller's random numbers are left as they were.

    Raises:
        BaseModelError: if transformers has no such pair, or it takes no text.
    """
    import torch

    known = {(pair.model_type, pair.task): pair.left_out for pair in all_pairs({**TASKS, **FURTHER_TASKS})}
    why = known.get((model_type, task), "transformers does not map it")
    if why:
        raise BaseModelError(
            f"There is no tiny {model_type} model for {task}: {why}.",
            fix="hfplug.testing.text_pairs() lists the pairs of which there is one.",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = auto_class_of(task).from_config(tiny_config(model_type, task))
    return model.eval()


def tiny_config(model_type: str, task: str = "causal") -> PreTrainedConfig:
    """The configuration of a type with its sizes reduced.

    Args:
        model_type: As in a ``config.json``.
        task: What it is for: an encoder that is to write text is told that it is a decoder.
    """
    from transformers import CONFIG_MAPPING

    config = _reduced(CONFIG_MAPPING[model_type], (model_type,))
    for name, value in EXCEPTIONS.get((model_type, task), {}).items():
        setattr(config, name, value)
    if task == "causal" and vars(config).get("is_decoder") is False and not config.is_encoder_decoder:
        config.is_decoder = True
    if config.is_encoder_decoder and not hasattr(config, "decoder_start_token_id"):
        config.decoder_start_token_id = 0  # T5's is in its checkpoints, not in its class
    if task in NEW_HEADS:
        config.num_labels = 2
        text: Any = config.get_text_config()
        if getattr(text, "pad_token_id", None) is None:
            text.pad_token_id = 0
    return config


def _reduced(config_class: Any, path: tuple[str, ...]) -> Any:
    """An instance of a configuration's class with small sizes, those of the configurations inside it too."""
    own = dict(EXCEPTIONS.get(path, {}))
    fields = {field.name for field in dataclasses.fields(config_class)}
    default = config_class(**own.pop("default", {}))
    inner = {name: value for name, value in vars(default).items() if hasattr(value, "model_type")}
    kept: dict[str, Any] = {name: _reduced(type(value), (*path, name)) for name, value in inner.items()}
    small = {}
    for name in sorted(fields):
        small.update(_smaller(name, _value(default, name)))
    heads, pairs = (_value(default, name) for name in ("num_attention_heads", "num_key_value_heads"))
    if heads is not None and heads == pairs:
        small["num_key_value_heads"] = small.get("num_attention_heads", heads)  # not grouped, as the real one
    small.update(_fewer_layers(default, fields))
    return config_class(**{**small, **kept, **own})


def _value(config: Any, name: str) -> Any:
    """What a configuration holds, without asking it: it refuses to tell what differs from layer to layer."""
    return vars(config).get(config.attribute_map.get(name, name))


def _smaller(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, bool) or not isinstance(value, int):
        return {}
    if value > LARGEST.get(name, value):
        return {name: LARGEST[name]}
    if name.endswith(("token_id", "token_index", "_idx")) and value >= LARGEST["vocab_size"]:
        return {name: LARGEST["vocab_size"] - 1 - sum(map(ord, name)) % 20}
    return {}


def _fewer_layers(default: Any, fields: set[str]) -> dict[str, Any]:
    """As many layers as show each kind, and what the configuration says of each layer for these alone."""
    count = _value(default, LAYERS) if LAYERS in fields else None
    if not isinstance(count, int):
        return {}
    lists = {
        name: value
        for name in sorted(fields)
        if isinstance(value := _value(default, name), (list, tuple)) and len(value) == count
    }
    kinds: dict[str, int] = {}
    for index in range(count):
        kinds.setdefault(repr([value[index] for value in lists.values()]), index)
    chosen = sorted(kinds.values())[:_MOST_LAYERS]
    for index in range(count):
        if len(chosen) < 2 and index not in chosen:
            chosen.append(index)
    chosen = sorted(chosen) if count > 1 else [0]
    return {
        **{name: type(value)(value[index] for index in chosen) for name, value in lists.items()},
        LAYERS: len(chosen),
    }
