"""Clones of a loaded model that share its weights, and what a model holds beyond another.

A clone is a module tree of its own over the same memory: PEFT may replace its modules, and the tree that it was
made from is not touched. What has to be kept from is a write *into* a shared tensor; whoever loads something that may
do so asks for tensors of its own first (:func:`give_own`) and hands back afterwards what came out unchanged
(:func:`share_again`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hfplug.errors import ServingError


def share(model: nn.Module) -> nn.Module:
    """A second module tree whose parameters and buffers are the memory of the first.

    Args:
        model: Any model. It is only read.

    Returns:
        The clone. Its parameters are objects of their own, so that flags and replaced tensors stay with it; quantised
        ones keep their quantisation state, which is shared as well.

    Raises:
        ServingError: A module holds something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and id(tensor) not in memo:
                memo[id(tensor)] = _alias(tensor)
        for value in vars(module).values():
            if isinstance(value, Tensor) or _is_quantisation_state(value):
                memo.setdefault(id(value), value)
    try:
        return copy.deepcopy(model, memo)
    except (TypeError, RuntimeError, copy.Error) as error:
        raise ServingError(
            f"A {type(model).__name__} cannot be shared between variants: {error}",
            fix="Serve each variant in a process of its own.",
        ) from error


def _alias(tensor: Tensor) -> Tensor:
    """Another object over the same memory, of the same kind and with the same attributes."""
    if isinstance(tensor, nn.Parameter):
        # detach keeps the counter of writes, .data would not.
        alias = torch.Tensor._make_subclass(type(tensor), tensor.detach(), False)
        alias.__dict__.update(tensor.__dict__)
        return alias
    return tensor.detach()


def _is_quantisation_state(value: Any) -> bool:
    return type(value).__name__ == "QuantState" and hasattr(value, "absmax")


def give_own(clone: nn.Module, names: Collection[str] | None = None) -> dict[int, nn.Parameter]:
    """Give a clone parameters of its own, before something writes into them.

    Args:
        clone: From :func:`share`. Tied parameters stay tied.
        names: Full names of parameters; all unquantised ones if None.

    Returns:
        For :func:`share_again`: what was there before, by the ``id`` of the parameter that is there now.
    """
    own: dict[int, nn.Parameter] = {}
    given: dict[int, nn.Parameter] = {}
    wanted = {
        id(parameter)
        for name, parameter in clone.named_parameters(remove_duplicate=False)
        if (names is None or name in names) and not hasattr(parameter, "quant_state")
    }
    for module in clone.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in wanted:
                if id(parameter) not in own:
                    own[id(parameter)] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
                    given[id(own[id(parameter)])] = parameter
                module._parameters[name] = own[id(parameter)]
    return given


def share_again(clone: nn.Module, given: Mapping[int, nn.Parameter]) -> None:
    """Let go of the own memory of every parameter that came out with the same bits.

    Args:
        clone: The clone, or a model around it.
        given: From :func:`give_own`.
    """
    for module in clone.modules():
        for name, parameter in module._parameters.items():
            shared = given.get(id(parameter))
            if parameter is not None and shared is not None and same_bits(parameter, shared):
                module._parameters[name] = shared


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same type, shape and bits (NaN equals itself)."""
    if one.dtype != other.dtype or one.shape != other.shape or one.device != other.device:
        return False
    if one.is_floating_point():
        one, other = (tensor.detach().contiguous().flatten().view(torch.uint8) for tensor in (one, other))
    return torch.equal(one, other)


def replaced_methods(module: nn.Module) -> list[str]:
    """Methods of its class that a module has others of, set on itself; one that was set back does not count."""
    kind = type(module)
    return sorted(
        name
        for name, value in vars(module).items()
        if callable(own := getattr(kind, name, None))
        and not (getattr(value, "__self__", None) is module and getattr(value, "__func__", None) is own)
    )


def write_counts(model: nn.Module) -> dict[str, int]:
    """How often each parameter was written into, as torch counts it; clones count together with their model."""
    return {name: parameter._version for name, parameter in model.named_parameters()}


def memory_of(models: Iterable[nn.Module]) -> dict[tuple[str, int], int]:
    """The memory that models hold: bytes by device and address, each block once.

    Args:
        models: Any models; what they share is counted once.
    """
    found: dict[tuple[str, int], int] = {}
    for model in models:
        for module in model.modules():
            for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
                for tensor in tensors_in(value):
                    storage = tensor.untyped_storage()
                    found[str(tensor.device), storage.data_ptr()] = storage.nbytes()
    return found


def bytes_beyond(models: Iterable[nn.Module], base: Mapping[tuple[str, int], int]) -> int:
    """Bytes that models hold beside what is in ``base`` already.

    Args:
        models: Any models.
        base: From :func:`memory_of`.
    """
    return sum(size for place, size in memory_of(models).items() if place not in base)


def tensors_in(value: Any) -> Iterable[Tensor]:
    """A tensor and whatever belongs to it: of a quantised one, what it is unpacked with."""
    if isinstance(value, Tensor):
        yield value
        yield from tensors_in(getattr(value, "quant_state", None))
    elif _is_quantisation_state(value):
        for part in (value.absmax, value.code, value.offset, *tensors_in(value.state2)):
            if isinstance(part, Tensor):
                yield part
