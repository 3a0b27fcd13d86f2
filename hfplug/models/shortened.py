"""Of many blocks that are alike a few run, and speak for the rest: a model of 80 blocks is read like one of three.

Only on ``meta``, where no two blocks that are built alike differ in anything. Blocks of one list are alike if every
module in them is of the same class, with weights of the same shapes and the same plain settings (a window, a kind of
attention), whatever their place. The first, the second and the last of each kind stay.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from hfplug.models.layout import block_stacks, is_inside
from hfplug.models.tryout import on_meta

# Shorter lists run whole.
FEW_BLOCKS = 8
# What tells a block's place and nothing of its kind.
_PLACES = frozenset({"layer_idx", "layer_index", "layer_id", "layer_number", "block_idx", "layer"})


@contextlib.contextmanager
def shortened(model: nn.Module) -> Iterator[dict[str, str]]:
    """The model with few of the blocks that are alike; all are back afterwards.

    Args:
        model: A transformers model.

    Yields:
        Block that is left out, to the block that speaks for it; empty if nothing is left out.
    """
    spoken_for: dict[str, str] = {}
    put_back: list[tuple[nn.Module, Any]] = []
    modules = dict(model.named_modules())
    try:
        for stack in block_stacks(modules) if on_meta(model) else ():
            holder = modules[stack[0].rpartition(".")[0]]
            if len(stack) <= FEW_BLOCKS or not isinstance(holder, nn.ModuleList) or len(holder) != len(stack):
                continue
            left_out = _left_out(stack, modules)
            put_back.append((holder, holder._modules))
            # Under their own numbers, by which all that is seen is told. A model that asks for one by its place fails.
            kept = [name for name in stack if name not in left_out]
            holder._modules = OrderedDict((name.rpartition(".")[2], modules[name]) for name in kept)  # type: ignore[assignment]
            spoken_for |= left_out
        yield spoken_for
    finally:
        for holder, blocks in put_back:
            holder._modules = blocks


def tell_of_all(seen: dict[str, Any], spoken_for: Mapping[str, str]) -> None:
    """Add what was seen of a block for each block that it speaks for, in place.

    Args:
        seen: What was seen: sets of names of modules and parameters, and tables by such names; all else is left alone.
        spoken_for: From :func:`shortened`.
    """
    inside: dict[str, list[tuple[Any, str]]] = {block: [] for block in spoken_for.values()}
    for found in seen.values():
        if isinstance(found, (set, dict)):
            for block in inside:
                inside[block] += [(found, name) for name in found if is_inside(name, (block,))]
    for left_out, block in spoken_for.items():

        def told(name: str, left_out: str = left_out, block: str = block) -> str:
            return left_out + name[len(block) :] if is_inside(name, (block,)) else name

        for found, name in inside[block]:
            if isinstance(found, set):
                found.add(told(name))
            else:
                value = found[name]
                found[told(name)] = {told(one) for one in value} if isinstance(value, set) else value


def _left_out(stack: tuple[str, ...], modules: dict[str, nn.Module]) -> dict[str, str]:
    kinds: dict[Any, list[str]] = {}
    for name in stack:
        kinds.setdefault(_kind(modules[name]), []).append(name)
    return {name: names[1] for names in kinds.values() if len(names) > 3 for name in names[2:-1]}


def _kind(block: nn.Module) -> tuple[Any, ...]:
    """What a block is built of, without its place."""
    return tuple(
        (
            name,
            type(module),
            tuple((own, one.shape, one.dtype) for own, one in module.named_parameters(recurse=False)),
            tuple((key, value) for key, value in sorted(vars(module).items()) if _is_setting(key, value)),
        )
        for name, module in block.named_modules()
    )


def _is_setting(key: str, value: Any) -> bool:
    return not key.startswith("_") and key not in _PLACES and isinstance(value, (str, int, float, bool, type(None)))
