"""What the kinds of adapters that hfplug adds have in common: a wrapper for each layer that the settings name."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from hfplug.methods.tuners.names import PeftWord


@dataclass
class LayerConfig(PeftConfig):
    """The part of ``adapter_config.json`` that says which layers.

    Attributes:
        word: The ``peft_type``.
        target_modules: Endings of the names of the layers that are wrapped.
        exclude_modules: Endings of the names of layers to leave out.
        modules_to_save: Endings of the names of modules that are trained and saved as a whole.
    """

    word: ClassVar[str]

    target_modules: list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftWord(self.word)  # type: ignore[assignment]


def let_unload(model: Any) -> None:
    """Let a PEFT model put back modules that hold no ``weight`` of their own: a classification head of two layers.

    PEFT (0.21) asks each module that it puts back when it merges or unloads for its weight, and fails on these.

    Args:
        model: A PEFT model; one without layers of adapters is left as it is.
    """
    tuner = model.base_model
    if isinstance(tuner, BaseTuner):
        tuner._replace_module = functools.partial(_replace_module, tuner._replace_module)  # type: ignore[method-assign]


def _replace_module(usual: Any, parent: Any, name: str, new: nn.Module, old: nn.Module) -> None:
    if hasattr(new, "base_layer") or hasattr(getattr(old, "base_layer", old), "weight"):
        usual(parent, name, new, old)
    else:
        setattr(parent, name, new)


class LayerTuner(BaseTuner):
    """A model whose layers are wrapped one by one.

    Its ``tuner_layer_cls`` is made of the layer, the adapter's name and the settings, and has a method ``add`` that
    takes the name and the settings of a further adapter.
    """

    tuner_layer_cls: Any
    target_module_mapping: dict[str, list[str]] = {}

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, self.tuner_layer_cls):
            target.add(adapter_name, peft_config)
            return
        layer = self.tuner_layer_cls(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)
