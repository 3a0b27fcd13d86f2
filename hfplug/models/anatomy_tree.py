"""The parts of a model as a tree with numbers of parameters, from its configuration alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hfplug.errors import MethodError
from hfplug.methods import Lora
from hfplug.models.anatomy import Anatomy, count_parameters, read_anatomy
from hfplug.models.base import auto_class, read_task_type, resolve_base
from hfplug.models.layout import is_inside, linear_shape
from hfplug.models.quantize import layers_to_keep


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A module, or several alike under one line.

    Attributes:
        name: The last part of its name; ``"0-79"`` for blocks that are alike.
        kind: Its class.
        part: What it is: ``attention``, ``feed-forward``, ``norm``, ``embedding``, ``head``, ``new``, or empty.
        times: How many modules the line stands for.
        parameters: Numbers in one of them.
        children: Its own parts.
    """

    name: str
    kind: str
    part: str
    times: int
    parameters: int
    children: tuple[Branch, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Tree:
    """What ``hfplug anatomy`` prints.

    Attributes:
        model_type: ``config.model_type``.
        task_type: PEFT's name of the task type.
        parameters: Numbers in the model, a shared one once.
        matrices: Those in linear layers, the output layer and new modules left out.
        parts: Numbers of each part.
        lora_layers: Layers that LoRA goes on by default, as endings of names.
        lora_share: Their share of ``matrices``, 0 to 1.
        lora_trainable: Numbers that LoRA then trains.
        four_bit_share: Share of all parameters that QLoRA holds in 4 bits, 0 to 1.
        root: The tree.
    """

    model_type: str
    task_type: str
    parameters: int
    matrices: int
    parts: dict[str, int]
    lora_layers: tuple[str, ...]
    lora_share: float
    lora_trainable: int
    four_bit_share: float
    root: Branch

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


def anatomy_tree(
    base: str | Path, *, task_type: str | None = None, revision: str | None = None, trust_remote_code: bool = False
) -> Tree:
    """Read the parts of a base from its configuration.

    Args:
        base: Repo id or folder; a folder with a ``config.json`` alone will do.
        task_type: As for :func:`~hfplug.models.factory.build_model`.
        revision: Branch, tag or commit of the base.
        trust_remote_code: Run modelling code from the repo.

    Returns:
        The tree.

    Raises:
        BaseModelError: if the base cannot be found or read.
    """
    found = resolve_base(base, revision=revision, trust_remote_code=trust_remote_code)
    kind = read_task_type(found.config, task_type)
    with torch.device("meta"):
        model = auto_class(kind).from_config(found.config, trust_remote_code=trust_remote_code)  # type: ignore[attr-defined]
    anatomy = read_anatomy(model, kind, revision=found.commit)
    modules = dict(model.named_modules())
    inner = {name: modules[name] for name in anatomy.linear}
    adapted = _adapted(anatomy)
    kept = set(layers_to_keep(model, anatomy.new_modules))
    four_bits = [one for name, one in modules.items() if type(one) is nn.Linear and not is_inside(name, kept)]
    matrices = sum(one.weight.numel() for one in inner.values())  # type: ignore[union-attr,operator]
    total = count_parameters(model)
    return Tree(
        model_type=anatomy.model_type,
        task_type=anatomy.task_type,
        parameters=total,
        matrices=matrices,
        parts=_parts(model, anatomy),
        lora_layers=tuple(dict.fromkeys(name.rpartition(".")[2] for name in adapted)),
        lora_share=sum(modules[name].weight.numel() for name in adapted) / max(1, matrices),  # type: ignore[union-attr,operator,misc]
        lora_trainable=Lora().r * sum(sum(linear_shape(modules[name])) for name in adapted),
        four_bit_share=sum(one.weight.numel() for one in four_bits) / max(1, total),
        root=_branch("", model, anatomy, type(model).__name__),
    )


def _adapted(anatomy: Anatomy) -> tuple[str, ...]:
    try:
        wanted: Any = Lora().peft_config(anatomy).target_modules  # type: ignore[union-attr]
    except MethodError:
        return ()
    return tuple(
        name for name in anatomy.linear if any(name == ending or name.endswith(f".{ending}") for ending in wanted or ())
    )


def _parts(model: nn.Module, anatomy: Anatomy) -> dict[str, int]:
    """Numbers of each part; a weight that two modules share belongs to the first."""
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        part = _part_of(owner, anatomy) or "other"
        found[part] = found.get(part, 0) + parameter.numel()
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _part_of(name: str, anatomy: Anatomy) -> str:
    groups: tuple[tuple[str, Iterable[str]], ...] = (
        ("new", anatomy.new_modules),
        ("embedding", anatomy.embeddings),
        ("head", (anatomy.output_embeddings,)),
        ("attention", anatomy.attention),
        ("feed-forward", anatomy.feed_forward),
        ("norm", anatomy.norms),
    )
    for part, names in groups:
        known = _AS_SETS.setdefault(id(names), (names, frozenset(names)))[1]
        if name in known or (part == "new" and is_inside(name, names)):
            return part
    return "experts" if any("expert" in piece for piece in name.split(".")) else ""


# Membership in tuples of hundreds of names, asked for each module; the tuple is kept so that its id stays its own.
_AS_SETS: dict[int, tuple[Iterable[str], frozenset[str]]] = {}


def _branch(path: str, module: nn.Module, anatomy: Anatomy, name: str, times: int = 1) -> Branch:
    children: list[Branch] = []
    groups: list[tuple[str, list[str]]] = []
    for key, child in module.named_children():
        shape = _shape(child) if key.isdigit() else key
        if groups and key.isdigit() and groups[-1][0] == shape:
            groups[-1][1].append(key)
        else:
            groups.append((shape, [key]))
    for _, keys in groups:
        label = keys[0] if len(keys) == 1 else f"{keys[0]}-{keys[-1]}"
        inner = f"{path}.{keys[0]}" if path else keys[0]
        children.append(_branch(inner, getattr(module, keys[0]), anatomy, label, len(keys)))
    return Branch(
        name=name,
        kind=type(module).__name__,
        part=_part_of(path, anatomy) if path else "",
        times=times,
        parameters=count_parameters(module),
        children=tuple(one for one in children if one.parameters),
    )


def _shape(module: nn.Module) -> str:
    """What two numbered blocks have in common if one line can stand for both."""
    return f"{type(module).__name__} {[(name, tuple(one.shape)) for name, one in module.named_parameters()]}"


def render_tree(tree: Tree) -> str:
    """The tree as lines of text.

    Args:
        tree: From :func:`anatomy_tree`.
    """
    lines: list[str] = []
    _write(tree.root, "", lines)
    lines += ["", f"{tree.parameters:,} parameters, {tree.matrices:,} of them in linear layers that can be adapted"]
    lines += [f"  {part}: {count:,} ({count / max(1, tree.parameters):.1%})" for part, count in tree.parts.items()]
    where = ", ".join(tree.lora_layers) or "no layer"
    lines.append(f"lora trains {tree.lora_trainable:,} beside {where}: {tree.lora_share:.1%} of those matrices")
    lines.append(f"qlora holds {tree.four_bit_share:.1%} of all parameters in 4 bits")
    return "\n".join(lines)


def _write(branch: Branch, indent: str, lines: list[str]) -> None:
    many = f" x{branch.times}" if branch.times > 1 else ""
    part = f"  [{branch.part}]" if branch.part else ""
    lines.append(f"{indent}{branch.name}{many}  {branch.kind}  {branch.parameters:,}{part}")
    for child in branch.children:
        _write(child, indent + "  ", lines)
