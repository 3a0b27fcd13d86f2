"""An adapter laid out over a base without numbers, and merged into one layer at a time by PEFT itself.

The base is made on the ``meta`` device, where a tensor has a shape and no memory; PEFT puts its layers on it and gives
each tensor of the adapter's file its place there. A layer is then merged on its own: it is given the base's weights,
PEFT's own ``merge`` runs in float32, and the result is read off. So whatever PEFT can merge (LoRA with all its patterns
and scales, DoRA, IA3, copies of layers, biases, …) goes into a base of any size in the memory of one layer.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.merge_loaded import REFUSALS_OF_PEFT, tuner_layers
from hfplug.errors import AdapterError, MethodError
from hfplug.methods import TuningMethod
from hfplug.methods.tuners.names import calling_peft
from hfplug.models.base import Base, auto_class
from hfplug.models.ends import embedding_rows

_NAME = "merging"
_BEFORE = "base_model.model."
# What PEFT puts between a module's own name and its weights.
_WRAPPERS = (".base_layer", ".original_module", ".token_adapter")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """An adapter on a base without numbers.

    Attributes:
        adapter: The adapter.
        tuned: A ``PeftModel`` on the ``meta`` device, with the adapter's own tensors in float32.
        shapes: Name of each parameter of the plain base to its shape.
        layers: Name of each of PEFT's layers to the name of the base's module that it stands for.
        replaced: Name of a parameter of the base to the tensor that takes its place: a head, a trained bias.
        tied: Names of parameters that are one and the same as others.
        architecture: Class of the base.
        prefix: What a class with a head puts before the names of the rest, with the dot; or empty.
    """

    adapter: AdapterDir
    tuned: nn.Module
    shapes: Mapping[str, list[int]]
    layers: Mapping[str, str]
    replaced: Mapping[str, torch.Tensor]
    tied: frozenset[str]
    architecture: str
    prefix: str

    @functools.cached_property
    def changed(self) -> dict[str, str]:
        """Name of each parameter that the adapter may change to PEFT's layer there, or an empty text if replaced."""
        found = dict.fromkeys(self.replaced, "")
        for layer, module in self.layers.items():
            base: Any = self.tuned.get_submodule(layer).get_base_layer()  # type: ignore[operator]
            for inner, _ in base.named_parameters():
                found.setdefault(f"{module}.{inner}", layer)
        return found

    def inside(self, layer: str) -> list[str]:
        """Names of the base's parameters in one of PEFT's layers."""
        base: Any = self.tuned.get_submodule(layer).get_base_layer()  # type: ignore[operator]
        return [f"{self.layers[layer]}.{inner}" for inner, _ in base.named_parameters()]

    def merge_layer(self, layer: str, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Merge the adapter into one layer.

        Args:
            layer: Name of one of PEFT's layers.
            weights: All of :meth:`inside`, as the base has them.

        Returns:
            The same names, merged, in float32 (float64 for a base in float64).

        Raises:
            AdapterError: The result has numbers that are not finite.
            MethodError: PEFT cannot merge this kind of layer.
        """
        exact = torch.float64 if any(one.dtype == torch.float64 for one in weights.values()) else torch.float32
        module = self.layers[layer]
        made: Any = copy.deepcopy(self.tuned.get_submodule(layer))  # the base's part of it holds no numbers
        base = made.get_base_layer()
        for name, tensor in weights.items():
            parent, _, last = name.removeprefix(f"{module}.").rpartition(".")
            setattr(base.get_submodule(parent), last, nn.Parameter(tensor.to(exact), requires_grad=False))
        if exact == torch.float64:
            made.to(exact)
        with torch.no_grad():
            try:
                for inner in tuner_layers(made):
                    inner.merge(safe_merge=True, adapter_names=[_NAME])
            except ValueError as error:  # PEFT found NaN or infinity
                raise not_finite(module, "float32") from error
            except REFUSALS_OF_PEFT as error:
                raise MethodError(
                    f"PEFT cannot merge {type(made).__name__} at {module}: {error}.",
                    fix="Serve it beside its base with hfplug.Service.",
                ) from error
        return {f"{module}.{name}": one.detach() for name, one in made.get_base_layer().named_parameters()}


def lay_out(adapter: AdapterDir, method: TuningMethod, base: Base, task_type: str) -> Layout | str:
    """Put an adapter on a base without loading a weight of the base.

    Args:
        adapter: An adapter of PEFT.
        method: Its method.
        base: Its base.
        task_type: PEFT's name of the task type.

    Returns:
        The layout, or why it cannot be had without the base's weights.
    """
    if method.loading(adapter.config) == "into":
        return f"it changes the base when it is loaded ({_kind(adapter)})"
    with torch.device("meta"):
        auto: Any = auto_class(task_type, base.config)
        model = auto.from_config(copy.deepcopy(base.config), trust_remote_code=base.trust_remote_code)
    rows, wanted = embedding_rows(model), adapter.lock.vocab_size if adapter.lock else None
    if None not in (rows, wanted) and rows != wanted:
        return f"its base had {wanted} rows in the embedding, and this one has {rows}"
    shapes = {name: list(one.shape) for name, one in model.named_parameters(remove_duplicate=False)}
    tied = _tied_names(model)
    architecture, prefix = type(model).__name__, getattr(model, "base_model_prefix", "")
    laid = _put_on_nothing(adapter, model)
    if isinstance(laid, str):
        return laid
    tuned, tensors = laid
    layers = _layers_of(tuned)
    replaced: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        plain = _plain_name(key)
        if plain in shapes:
            replaced[plain] = tensor
        elif not any(key.startswith(f"{layer}.") for layer in layers):
            return f"{key} is no part of a layer that can be merged"
    for layer in layers:
        if reason := _lacking(tuned.get_submodule(layer), layer):
            return reason
    return Layout(
        adapter=adapter,
        tuned=tuned,
        shapes=shapes,
        layers=layers,
        replaced=replaced,
        tied=tied,
        architecture=architecture,
        prefix=f"{prefix}." if prefix else "",
    )


def not_finite(name: str, dtype: str) -> AdapterError:
    """The error for numbers that a format cannot hold.

    Args:
        name: Of the tensor. dtype: Name of the format.
    """
    return AdapterError(
        f"The merged {name} has numbers that are not finite in {dtype}.",
        fix="Pass --dtype bfloat16 or float32 (dtype= in Python); if it stays so, the adapter is broken.",
    )


# --------------------------------------------------------------------------------------------------- parts


def _put_on_nothing(adapter: AdapterDir, model: nn.Module) -> tuple[nn.Module, dict[str, torch.Tensor]] | str:
    """PEFT's layers on the base without numbers; and the adapter's tensors by the names that they have there."""
    from peft import PeftConfig, PeftModel, set_peft_model_state_dict
    from safetensors.torch import load_file

    held = {name: tensor for file in adapter.weights for name, tensor in load_file(file).items()}
    exact = {name: one.float() if one.dtype in (torch.float16, torch.bfloat16) else one for name, one in held.items()}
    found: dict[str, torch.Tensor] = {}
    try:
        with calling_peft():
            config = PeftConfig.from_pretrained(str(adapter.path))
            tuned: Any = PeftModel(model, config, adapter_name=_NAME, low_cpu_mem_usage=True)
            real = tuned.load_state_dict

            def note(tensors: Mapping[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
                found.update(tensors)
                return real(tensors, *args, **kwargs)

            # PEFT renames the file's tensors here, and moves them to the device of the base afterwards, which is none.
            tuned.load_state_dict = note
            result = set_peft_model_state_dict(tuned, exact, adapter_name=_NAME, low_cpu_mem_usage=True)
            del tuned.load_state_dict
            tuned.load_state_dict(found, strict=False, assign=True)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError, IndexError) as error:
        return f"PEFT cannot lay it out without the weights ({(str(error).splitlines() or [''])[0]})"
    if result.unexpected_keys:
        return f"{result.unexpected_keys[0]} has no place in the base"
    return tuned, found


def _layers_of(tuned: nn.Module) -> dict[str, str]:
    """Name of each of PEFT's layers, outermost only, to that of the base's module."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: dict[str, str] = {}
    for name, module in tuned.named_modules():
        if isinstance(module, BaseTunerLayer) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = _plain_name(name)
    return found


def _plain_name(name: str) -> str:
    """The name in the plain base of what has this name in a ``PeftModel``."""
    name = name.removeprefix(_BEFORE).replace(f".modules_to_save.{_NAME}", "")
    for word in _WRAPPERS:
        name = name.replace(f"{word}.", ".").removesuffix(word)
    return name


def _lacking(layer: nn.Module, name: str) -> str:
    """What of a layer's own tensors the adapter's file did not hold; an empty text if it held all."""
    base = {id(one) for one in layer.get_base_layer().parameters()}  # type: ignore[operator]
    base |= {id(one) for one in layer.get_base_layer().buffers()}  # type: ignore[operator]
    for inner, one in [*layer.named_parameters(), *layer.named_buffers()]:
        if one.device.type == "meta" and id(one) not in base:
            return f"{name}.{inner} is not in the adapter's file"
    return ""


def _tied_names(model: nn.Module) -> frozenset[str]:
    holders: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        holders.setdefault(id(parameter), []).append(name)
    return frozenset(name for names in holders.values() if len(names) > 1 for name in names)


def _kind(adapter: AdapterDir) -> str:
    start = adapter.config.get("init_lora_weights")
    return f"init_lora_weights={start!r}" if isinstance(start, str) else f"type {adapter.config.get('peft_type')}"
