"""Which part of a model each linear layer belongs to, from what a run of it showed (:mod:`hfplug.models.trace`).

* Attention: layers whose outputs are compared, those that are weighed by the result, what feeds only these, and the
  layer that the result goes into.
* Mixer: the layers of a sub-module that brings positions together in another way: by a convolution, a running sum, or
  products without a softmax (linear attention, state-space models).
* Feed-forward: the other layers of the repeated blocks, but for routers.

Where a run shows neither attention nor mixer in a block, because it ended early or a kernel hid what it does, the names
of the modules decide.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hfplug.models.ends import output_embedding
from hfplug.models.layout import (
    Modules,
    attention_module,
    block_of,
    is_inside,
    is_linear,
    linear_shape,
    matrix_layers,
    with_holders,
)
from hfplug.models.trace import Trace

_ROUTER = re.compile(r"(^|\.)(gate|router|wg|shared_expert_gate)(\.|$)|router", re.IGNORECASE)
# Of a state-space mixer; the one that leads into it is called.
_READ_BY_KERNELS = ("x_proj", "dt_proj", "out_proj")
_ROUTER_ALONE = re.compile(r"router", re.IGNORECASE)
_NUMBER = re.compile(r"\.\d+(?=\.|$)")
# The names that a user gave to labels stand in a configuration too, and are whatever they are: words, numbers.
_OF_LABELS = ("id2label", "label2id")


@dataclass(kw_only=True)
class Parts:
    """The linear layers of a model, by what they do. All names are full names of modules.

    Attributes:
        linear: All that an adapter can be put on.
        left_out: Those that it cannot, and why.
        attention: The layers of attention.
        query: Those of ``attention`` that make queries; a fused layer is in all three.
        key: Keys.
        value: Values.
        attention_output: Those that lead from attention back to the width of the model.
        mixer: Layers of linear attention and state-space mixers.
        feed_forward: The other layers of blocks, those of experts included.
        experts: Those of ``feed_forward`` that are in one of many alike modules that a router chooses from.
        expert_tensors: Full names of parameters that hold the matrices of all experts of a block.
        routers: Modules that choose among experts.
        others: Where no linear layer lies in a block: what holds a matrix there instead, and its class.
    """

    linear: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    attention: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    value: tuple[str, ...] = ()
    attention_output: tuple[str, ...] = ()
    mixer: tuple[str, ...] = ()
    feed_forward: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()
    expert_tensors: tuple[str, ...] = ()
    routers: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()


def read_parts(model: Any, modules: Modules, seen: Trace, left_out: tuple[str, ...], width: int) -> Parts:
    """Sort the linear layers of a model.

    Args:
        model: The model.
        modules: Every module by name.
        seen: What a run of it showed.
        left_out: Modules not to look into: heads.
        width: Numbers that a block gives a token.

    Returns:
        The parts.
    """
    output = output_embedding(model)
    candidates = [
        name
        for name, module in modules.items()
        if is_linear(module) and module is not output and not is_inside(name, left_out)
    ]
    parts = Parts(left_out=_unfit(candidates, modules, seen))
    parts.linear = tuple(name for name in candidates if name not in parts.left_out)
    parts.routers = tuple(name for name in modules if name in seen.routers)
    parts.expert_tensors = expert_tensors(model, modules)
    if not any(block_of(name) for name in candidates):
        others = [name for name in matrix_layers(modules) if seen.learns(name)]
        parts.others = tuple((name, type(modules[name]).__name__) for name in others)
    choosing = _parts_with_experts(parts)
    _sort_attention(parts, modules, seen, width, choosing)
    _sort_mixers(parts, seen, choosing)
    _add_by_name(parts, modules)
    taken = {*parts.attention, *parts.mixer, *parts.routers}
    parts.feed_forward = tuple(
        name for name in parts.linear if block_of(name) and name not in taken and not _ROUTER.search(name)
    )
    parts.experts = tuple(name for name in parts.feed_forward if _list_in_block(name) and _has_router(name, parts))
    return parts


def _unfit(candidates: list[str], modules: Modules, seen: Trace) -> dict[str, str]:
    """Layers that an adapter would do nothing on, or break, with the reason."""
    found: dict[str, str] = {}
    for name in candidates:
        if name in seen.tuples:
            found[name] = "it does not give one tensor of its width for one that it takes"
        elif f"{name}.weight" in seen.read_directly:
            found[name] = "its weight is read without calling it, so an adapter on it would be left out"
        elif _in_state_space_kernel(name, modules):
            found[name] = "state-space kernels on a GPU read its weight without calling it"
        elif not seen.runs(name):
            found[name] = "it does not run on text"
        elif not seen.learns(name):
            found[name] = "no gradient arrives at it (it only chooses among positions)"
    return found


def _in_state_space_kernel(name: str, modules: Modules) -> bool:
    return name.rpartition(".")[2] in _READ_BY_KERNELS and in_state_space_mixer(name, modules)


def in_state_space_mixer(name: str, modules: Modules) -> bool:
    """Whether a layer is one of a Mamba mixer's own.

    Exception by name: the fused kernels of these exist on GPUs alone, and read the weights of layers instead of calling
    them, so that no run on another machine shows it.
    """
    holder = modules.get(name.rpartition(".")[0])
    return holder is not None and {"A_log", "D"} <= dict(holder.named_parameters(recurse=False)).keys()


def _parts_with_experts(parts: Parts) -> set[str]:
    """The sub-modules of blocks that hold experts or what chooses among them."""
    inside = [*parts.routers, *parts.expert_tensors, *(name for name in parts.linear if _in_experts(name))]
    return {part_of(name) for name in inside} - {""}


def _sort_attention(parts: Parts, modules: Modules, seen: Trace, width: int, choosing: set[str]) -> None:
    linear = set(parts.linear)
    core = (seen.query | seen.key | seen.value) & linear
    outputs = {name for name in seen.fed_attended & linear if _fed_within_block(name, seen)}
    for name in list(outputs):  # a second layer, after one that does not yet give the model's width
        if linear_shape(modules[name])[1] != width:
            further = {one for one in linear if seen.fed_by.get(one) == {name}}
            outputs = (outputs - {name}) | further if further else outputs
            core |= {name} if further else set()
    core = {name for name in core if not _in_experts(name) or attention_module(name, modules)}
    elsewhere = choosing - {part_of(name) for name in core}
    found = {name for name in core | outputs if part_of(name) not in elsewhere}
    pending = list(found)
    while pending:
        name = pending.pop()
        if not _fed_within_block(name, seen):
            continue
        for source in (seen.fed_by.get(name, set()) & linear) - found:
            found.add(source)
            pending.append(source)
    holders = _smallest_holders(found)  # gates, and other layers beside
    found |= {name for name in linear if is_inside(name, holders)}
    found = {name for name in found if name not in seen.routers and not _ROUTER_ALONE.search(name)}
    parts.attention = tuple(name for name in parts.linear if name in found)
    parts.query = tuple(name for name in parts.attention if name in seen.query)
    parts.key = tuple(name for name in parts.attention if name in seen.key)
    parts.value = tuple(name for name in parts.attention if name in seen.value)
    parts.attention_output = tuple(name for name in parts.attention if name in outputs and name not in core)


def _smallest_holders(names: set[str]) -> set[str]:
    """In each sub-module of a block the smallest module that holds all of these layers that are in it."""
    common: dict[str, list[str]] = {}
    for name in names:
        part, holder = part_of(name), name.split(".")[:-1]
        if part:
            pairs = zip(common.get(part, holder), holder, strict=False)
            common[part] = [one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
    return {".".join(path) for path in common.values()}


def _fed_within_block(name: str, seen: Trace) -> bool:
    """Whether all that a layer is fed with was made in its own block: nothing of the stream that runs past it."""
    block = block_of(name)
    sources = seen.fed_by.get(name, set())
    return bool(sources) and bool(block) and all(block_of(source) == block for source in sources)


def _sort_mixers(parts: Parts, seen: Trace, choosing: set[str]) -> None:
    attention = set(parts.attention)
    holders = {part_of(name) for name in seen.mixed if block_of(name)} - {""} - choosing
    holders -= {part_of(name) for name in attention}
    found = {name for name in parts.linear if part_of(name) in holders and name not in attention}
    parts.mixer = tuple(name for name in parts.linear if name in found)


def part_of(name: str) -> str:
    """The sub-module of a block that a layer sits in: ``"layers.3.mixer"`` for ``"layers.3.mixer.in_proj"``."""
    block = block_of(name)
    rest = name[len(block) + 1 :] if block else ""
    return f"{block}.{rest.split('.')[0]}" if "." in rest else ""


def _add_by_name(parts: Parts, modules: Modules) -> None:
    known = {block_of(name) for name in (*parts.attention, *parts.mixer)}
    named = [
        name
        for name in parts.linear
        if block_of(name) and block_of(name) not in known and attention_module(name, modules) and not _in_experts(name)
    ]
    if named:
        found = {*parts.attention, *named}
        parts.attention = tuple(name for name in parts.linear if name in found)


def _in_experts(name: str) -> bool:
    return any("expert" in part for part in name.split("."))


def _list_in_block(name: str) -> str:
    """The list of modules inside a block that a layer is in, or ``""``: ``"h.0.mlp.experts"``."""
    numbers = [match.start() for match in _NUMBER.finditer(name)]
    return name[: numbers[-1]] if len(numbers) >= 2 else ""


def _has_router(name: str, parts: Parts) -> bool:
    holder = _list_in_block(name)
    return "expert" in holder.rpartition(".")[2] or any(
        router.rpartition(".")[0] == holder.rpartition(".")[0] for router in parts.routers
    )


def unreached(modules: Modules, seen: Trace) -> tuple[str, ...]:
    """Outermost modules of whose weights none was used; a tied one is used if it is under any of its names.

    Args:
        modules: Every module by name.
        seen: What a run of the model showed.
    """
    if seen.ended != "whole":
        return ()
    weights = {name: [(key, id(one)) for key, one in modules[name].named_parameters(recurse=False)] for name in modules}
    used = {
        one
        for name, own in weights.items()
        for key, one in own
        if seen.runs(name) or f"{name}.{key}" in seen.read_directly
    }
    reached = with_holders(name for name, own in weights.items() if any(one in used for _, one in own))
    unused = with_holders(name for name, own in weights.items() if own) - reached
    return tuple(name for name in modules if name in unused and name.rpartition(".")[0] not in unused)


def expert_tensors(model: Any, modules: Modules) -> tuple[str, ...]:
    """Full names of the parameters that hold a matrix for each of a number of experts: shape (experts, …, …).

    Args:
        model: A transformers model; its configuration says how many experts there are.
        modules: Every module by name.
    """
    counts = {
        value
        for config in _configs(model.config)
        for key, value in config.items()
        if isinstance(value, int) and "expert" in str(key)
    }
    return tuple(
        f"{name}.{own}"
        for name, module in modules.items()
        for own, parameter in module.named_parameters(recurse=False)
        if _is_stack(parameter, counts) and not isinstance(module, nn.modules.conv._ConvNd)
    )


def _is_stack(parameter: nn.Parameter, counts: set[int]) -> bool:
    return parameter.dim() == 3 and parameter.shape[0] in counts and min(parameter.shape[1:]) > 1


def _configs(config: Any) -> list[dict[str, Any]]:
    values = config.to_dict()
    return [values, *(value for key, value in values.items() if isinstance(value, dict) and key not in _OF_LABELS)]
