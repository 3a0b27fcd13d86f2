"""The script's own model object becomes the tuned model: its class and its state are exchanged.

A script holds its model in variables that nobody can reach: a closure, an attribute, a collator. So the object itself
is made the ``PeftModel``, and what it was goes on as a second object, the base inside, with the same tensors. Every
reference then is the trained model: its ``generate``, its ``save_pretrained``, a second Trainer on it.

The object still says that it is what it was (``isinstance(model, PreTrainedModel)``), and is a ``PeftModel`` too.
"""

from __future__ import annotations

import functools
import inspect
import types
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from hfplug.methods import TuningMethod
from hfplug.methods.method import CAUSAL, OTHER
from hfplug.methods.soft_prompts import writes_after_vectors
from hfplug.models.soft_outputs import extra_positions
from hfplug.training.plug_settings import refuse_empty, refuse_other_settings, refuse_other_weights
from hfplug.training.plug_soft import soft_forward

# What a script sets on its model and means the base's.
_OF_THE_BASE = ("config", "generation_config")


@dataclass
class Plug:
    """What a plugged model knows of itself.

    Attributes:
        method: The method that is on it.
        state: ``"fresh"`` until it is trained or weights are loaded: until then it gives the base's outputs.
        save_embeddings: As for PEFT's ``save_embedding_layers``.
    """

    method: TuningMethod
    state: str = "fresh"
    save_embeddings: Any = "auto"


class PluggedModel:
    """What is different about a plugged model; put in front of PEFT's class for the task."""

    _hfplug: Plug

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As the base's ``forward``, with outputs as long as the base's."""
        plug, base = self._hfplug, self.get_base_model()
        kwargs = _by_name(base.forward, args, kwargs)
        if plug.state == "fresh":
            if plug.method.untrained == "base" or (self.training and torch.is_grad_enabled()):
                plug.state = "on"
            else:
                return self._as_the_base("__call__", kwargs)
        plain = functools.partial(super().forward)  # type: ignore[misc]
        if not self.active_peft_config.is_prompt_learning:
            if self.active_peft_config.task_type == OTHER:
                # PEFT's class for it passes on what a base of the script's own may not take (inputs_embeds).
                return PeftModel.forward(self, **kwargs)
            return plain(**kwargs)
        return soft_forward(self, kwargs, plain)

    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As the base's ``generate``, positional arguments included."""
        kwargs = _by_name(self.get_base_model().generate, args, kwargs)
        if "inputs" in kwargs:
            kwargs["input_ids"] = kwargs.pop("inputs")
        if self._hfplug.state == "fresh" and self._hfplug.method.untrained != "base":
            return self._as_the_base("generate", kwargs)
        may = self.active_peft_config.task_type == CAUSAL and writes_after_vectors(self.get_base_model())
        if may and extra_positions(self) and _is_left_padded(kwargs):
            return _generate_after_prompt(self, kwargs)
        return super().generate(**kwargs)  # type: ignore[misc]

    def save_pretrained(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save the adapter; the arguments are those of ``PreTrainedModel.save_pretrained``."""
        from transformers import PreTrainedModel

        named = _by_name(functools.partial(PreTrainedModel.save_pretrained, self, save_directory), args, kwargs)
        named.setdefault("save_embedding_layers", self._hfplug.save_embeddings)
        if named.get("is_main_process", True):
            refuse_empty(self, named.get("state_dict"))
        super().save_pretrained(str(save_directory), **named)  # type: ignore[misc]

    def load_adapter(self: Any, model_id: Any, adapter_name: str = "default", *args: Any, **kwargs: Any) -> Any:
        """As PEFT's, but refuses an adapter that was made with other settings."""
        if adapter_name in self.peft_config:
            refuse_other_settings(self, model_id, adapter_name)
            # Else PEFT brings an adapter that somebody (TRL over 4 bits) put into 16 bits back into 32.
            kwargs.setdefault("autocast_adapter_dtype", False)
        result = super().load_adapter(model_id, adapter_name, *args, **kwargs)  # type: ignore[misc]
        self._hfplug.state = "on"
        return result

    def add_adapter(self: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """As PEFT's; a second soft prompt (TRL's reference) does not train beside the first, as with LoRA."""
        result = super().add_adapter(adapter_name, *args, **kwargs)  # type: ignore[misc]
        prompts = getattr(self, "prompt_encoder", {})
        if adapter_name != self.active_adapter and adapter_name in prompts:
            prompts[adapter_name].requires_grad_(False)
        return result

    def load_state_dict(self: Any, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """As torch's, but refuses weights of which none belongs to this model."""
        refuse_other_weights(self, state_dict)
        result = super().load_state_dict(state_dict, *args, **kwargs)  # type: ignore[misc]
        self._hfplug.state = "on"
        return result

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if name == "__class__":
            object.__setattr__(self, name, value)
        elif name in _OF_THE_BASE:
            setattr(self.get_base_model(), name, value)
        else:
            super().__setattr__(name, value)

    def _as_the_base(self: Any, call: str, kwargs: dict[str, Any]) -> Any:
        plug = self._hfplug
        with plug.method.switched_off(self) as base:
            plug.state = "on"  # the block may hand out this very object
            try:
                return getattr(base, call)(**kwargs)
            finally:
                plug.state = "fresh"


def is_plugged(model: Any) -> bool:
    """Whether a model is one whose class was exchanged here."""
    return issubclass(type(model), PluggedModel)


def twin_of(model: nn.Module) -> nn.Module:
    """A second object of the same class with the same state, for PEFT to wrap.

    Args:
        model: A transformers model. What is bound to it in its own state is bound to the twin.
    """
    hook = model.__dict__.get("_hf_hook")
    if hook is not None:  # of accelerate, for a model spread over devices: its forward holds the object
        from accelerate.hooks import remove_hook_from_module

        remove_hook_from_module(model)
    twin = object.__new__(type(model))
    object.__setattr__(twin, "__dict__", model.__dict__)
    for name, value in list(twin.__dict__.items()):
        if isinstance(value, types.MethodType) and value.__self__ is model:
            twin.__dict__[name] = types.MethodType(value.__func__, twin)
    if hook is not None:
        from accelerate.hooks import add_hook_to_module

        add_hook_to_module(twin, hook)
    return twin


def become(model: nn.Module, tuned: nn.Module, plug: Plug) -> None:
    """Make ``model`` the tuned model.

    Args:
        model: The script's object.
        tuned: The ``PeftModel`` around its twin; not to be used afterwards.
        plug: What is on it.
    """
    classes: Any = type(tuned), type(model)
    kind = _plugged_class(*classes)
    tuned.__dict__["_hfplug"] = plug
    object.__setattr__(model, "__dict__", tuned.__dict__)
    object.__setattr__(model, "__class__", kind)


@functools.cache
def _plugged_class(peft_class: type, base_class: type) -> type:
    def change(self: Any, new: type) -> None:
        # FSDP2's fully_shard puts its own class before the one that the object says it has; it belongs before the one
        # that the object really has.
        real = type(self)
        if not issubclass(new, PluggedModel):
            bases = tuple(real if one is base_class else one for one in new.__bases__)
            new = type(new.__name__, bases, {**new.__dict__, "__class__": says})
        object.__dict__["__class__"].__set__(self, new)

    # What the object says it is; what it really is, a PeftModel, is known to isinstance as well.
    says = property(lambda self: base_class if "_hfplug" in self.__dict__ else type(self), change)
    namespace = {"__class__": says, "__module__": base_class.__module__, "__doc__": base_class.__doc__}
    return type(base_class.__name__, (PluggedModel, peft_class), namespace)


def _by_name(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by their names, as ``function`` would take them."""
    if not args:
        return dict(kwargs)
    names = [
        name for name, one in inspect.signature(function).parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    if len(args) > len(names):
        raise TypeError(f"{len(args)} positional arguments were given, and there are {len(names)}")
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _is_left_padded(kwargs: dict[str, Any]) -> bool:
    ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
    return isinstance(ids, torch.Tensor) and isinstance(mask, torch.Tensor) and bool((mask == 0).any())


def _generate_after_prompt(model: Any, kwargs: dict[str, Any]) -> Any:
    """Generate for rows of unequal length: PEFT's way makes a row's answer depend on the other rows' length."""
    ids = kwargs.pop("input_ids")
    base, inputs = model._hfplug.method.generation_inputs(model, ids, kwargs.pop("attention_mask"))
    given = kwargs.get("generation_config") or base.generation_config
    for whole, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        value = kwargs.pop(whole, None) or getattr(given, whole, None)
        if value and kwargs.get(new) is None and getattr(given, new, None) is None:
            kwargs[new] = max(int(value) - ids.shape[1], 0)
    result = base.generate(**inputs, **kwargs)
    sequences = result if isinstance(result, torch.Tensor) else result.sequences
    whole_sequences = torch.cat([ids.repeat_interleave(sequences.shape[0] // ids.shape[0], dim=0), sequences], dim=1)
    if isinstance(result, torch.Tensor):
        return whole_sequences
    result.sequences = whole_sequences
    return result
