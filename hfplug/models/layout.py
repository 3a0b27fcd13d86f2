"""What the modules of a transformers model are, read off their shapes and off where they sit."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping

from torch import nn

_ATTENTION = re.compile(r"(attn|attention)(?!.*(norm|connection))", re.IGNORECASE)
# Classes of whole blocks that are called after their attention.
_BLOCK = re.compile(r"(Decoder|Encoder)Layer$")
_KEY_VALUE = {"k", "v", "kv", "qkv", "wk", "wv", "wkv", "wqkv", "key", "value", "keys", "values"}

Modules = Mapping[str, nn.Module]


def is_linear(module: nn.Module) -> bool:
    """Whether a module is one matrix: ``Linear``, a 4-bit one too, or transformers' ``Conv1D`` (GPT-2)."""
    weight = getattr(module, "weight", None)
    if weight is None or any(True for _ in module.children()):
        return False
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """Numbers that go into a linear layer and that come out, also of a 4-bit layer, of ``Conv1D`` and a convolution."""
    if hasattr(module, "in_features"):
        return int(module.in_features), int(module.out_features)  # type: ignore[arg-type]
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.in_channels, module.out_channels
    fed, given = module.weight.shape  # type: ignore[union-attr,misc]
    return int(fed), int(given)


def block_of(name: str) -> str:
    """The innermost numbered block that a module sits in: ``"layers.3"`` for ``"layers.3.mlp.down_proj"``."""
    parts = name.split(".")
    return ".".join(parts[: max((i + 1 for i, part in enumerate(parts[:-1]) if part.isdigit()), default=0)])


def attention_module(name: str, modules: Modules) -> str | None:
    """The outermost attention module that holds a module, or None if none does."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        holder = modules[".".join(parts[:end])]
        if parts[end - 1].isdigit() or hasattr(holder, "config_class"):
            continue  # a block, or a whole model: it holds more than attention
        kind = type(holder).__name__
        if _ATTENTION.search(parts[end - 1]) or (_ATTENTION.search(kind) and not _BLOCK.search(kind)):
            return ".".join(parts[:end])
    return None


def key_value_layers(attention: tuple[str, ...]) -> tuple[str, ...]:
    """What makes keys or values; where no name says so (GPT-2's ``c_attn``), all but the last layer of each block."""
    named = tuple(name for name in attention if _KEY_VALUE & {*name.rpartition(".")[2].lower().split("_")})
    if named:
        return named
    last = {block_of(name): name for name in attention}
    return tuple(name for name in attention if last[block_of(name)] != name)


def attention_outputs(attention: tuple[str, ...], modules: Modules, width: int) -> tuple[str, ...]:
    """The last layer of each attention module that leads to the width of the model and makes no keys or values."""
    inner = set(key_value_layers(attention))
    wide = [name for name in attention if name not in inner and linear_shape(modules[name])[1] == width]
    return tuple({attention_module(name, modules): name for name in wide}.values())


def feed_forward_outputs(names: Iterable[str], modules: Modules, width: int) -> tuple[str, ...]:
    """Of the linear layers of each block the one that narrows to the model's width, else the last of that width."""
    found: dict[str, tuple[int, str]] = {}
    for name in names:
        fed, given = linear_shape(modules[name])
        rank = 2 if fed > given else 0 if fed == given else 1
        if given == width and rank >= found.get(block_of(name), (0, ""))[0]:
            found[block_of(name)] = (rank, name)
    return tuple(name for _, name in found.values())


def feed_forward_inputs(names: tuple[str, ...], modules: Modules, width: int) -> tuple[str, ...]:
    """Of the linear layers of each block those that take the model's width and give another number: up, and gate."""
    shapes = {name: linear_shape(modules[name]) for name in names}
    return tuple(name for name, (fed, given) in shapes.items() if fed == width and given != width)


def feed_forward_blocks(modules: Modules) -> tuple[str, ...]:
    """In each numbered block, the one module beside attention that holds matrices of its own, if it is one.

    BERT's feed-forward part is two modules with a residual in the second, so it has none.
    """
    beside: dict[str, list[str]] = {}
    for name, module in modules.items():
        holder, _, last = name.rpartition(".")
        if not holder.rpartition(".")[2].isdigit() or last.isdigit() or "experts" in holder.split("."):
            continue
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            continue  # T5's blocks hold a list of sub-layers
        if any(parameter.dim() >= 2 or hasattr(parameter, "quant_state") for parameter in module.parameters()):
            beside.setdefault(holder, []).append(name)
    found = []
    for names in beside.values():
        others = [name for name in names if attention_module(f"{name}.x", modules) is None]
        if len(others) == 1 and any(True for _ in modules[others[0]].children()):
            found += others
    return tuple(found)


def norm_layers(modules: Modules, left_out: Collection[str] = ()) -> tuple[str, ...]:
    """Layers that scale each number of their input by a trained one and hold nothing else: LayerNorm, RMSNorm, …

    Args:
        modules: Every module by name.
        left_out: Modules not to look into.
    """
    return tuple(
        name
        for name, module in _leaves(modules, left_out)
        if _sizes(module) and max(_sizes(module).values()) == 1 and "weight" in _sizes(module)
    )


def bias_layers(modules: Modules, left_out: Collection[str] = ()) -> tuple[str, ...]:
    """Layers with weights that add a trained vector, too: linear layers, norms, convolutions.

    Args:
        modules: Every module by name.
        left_out: Modules not to look into.
    """
    return tuple(
        name
        for name, module in _leaves(modules, left_out)
        if _sizes(module).get("bias") == 1 and "weight" in _sizes(module)
    )


def matrix_layers(modules: Modules) -> tuple[str, ...]:
    """Layers of numbered blocks whose weight has two dimensions or more: linear ones, and what stands in for them."""
    leaves = _leaves(modules, ())
    return tuple(name for name, module in leaves if block_of(name) and _sizes(module).get("weight", 0) >= 2)


def is_inside(name: str, owners: Iterable[str]) -> bool:
    """Whether a name is one of the owners, or lies in one."""
    return any(name == owner or name.startswith(f"{owner}.") for owner in owners)


def with_holders(names: Iterable[str]) -> set[str]:
    """These modules and all that one of them lies in: asked thousands of times, ``is_inside`` takes seconds."""
    found: set[str] = set()
    for name in names:
        while name and name not in found:
            found.add(name)
            name = name.rpartition(".")[0]
    return found


def _leaves(modules: Modules, left_out: Collection[str]) -> list[tuple[str, nn.Module]]:
    return [
        (name, module)
        for name, module in modules.items()
        if name
        and not any(True for child in module.children() for _ in child.parameters())
        and not is_inside(name, left_out)
    ]


def _sizes(module: nn.Module) -> dict[str, int]:
    """Name and number of dimensions of each parameter that a module holds itself; 4-bit weights are matrices."""
    own = module.named_parameters(recurse=False)
    return {name: 2 if hasattr(parameter, "quant_state") else parameter.dim() for name, parameter in own}


def block_stacks(modules: Modules, counts: Callable[[str], bool] = lambda block: True) -> tuple[tuple[str, ...], ...]:
    """The outermost lists of numbered blocks, in the order of the model: the encoder's before the decoder's.

    A list that holds less than a tenth of the largest one's weights (of task heads, say) is left out.

    Args:
        modules: Every module by name.
        counts: Says of a block whether it counts; a list of which none does is as if it was not there, however large.
    """
    stacks: dict[str, list[str]] = {}
    for name in modules:
        holder, _, last = name.rpartition(".")
        if last.isdigit() and not any(part.isdigit() for part in holder.split(".")):
            stacks.setdefault(holder, []).append(name)
    sizes = {
        holder: sum(parameter.numel() for name in names for parameter in modules[name].parameters())
        for holder, names in stacks.items()
        if any(counts(name) for name in names)
    }
    largest = max(sizes.values(), default=0)
    return tuple(tuple(names) for holder, names in stacks.items() if sizes.get(holder, 0) * 10 >= largest > 0)


def weighted_layers(modules: Modules) -> tuple[str, ...]:
    """The modules of numbered blocks that hold weights themselves, the outermost where one holds another."""
    found: dict[str, None] = {}
    for name, module in modules.items():
        parts = name.split(".")
        if any(".".join(parts[:end]) in found for end in range(1, len(parts))):
            continue
        if block_of(name) and any(True for _ in module.parameters(recurse=False)):
            found[name] = None
    return tuple(found)


def compound_layers(names: tuple[str, ...], modules: Modules) -> tuple[str, ...]:
    """Of some modules that hold weights those that are more than one layer: no ``weight``, or other layers within."""
    return tuple(
        name
        for name in names
        if not isinstance(getattr(modules[name], "weight", None), nn.Parameter)
        or any(True for child in modules[name].children() for _ in child.parameters())
    )
