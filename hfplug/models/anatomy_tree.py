"""The parts of a model as a tree with numbers of parameters, from its configuration alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hfplug.errors import BaseModelError, HfplugError, MethodError
from hfplug.methods import Lora
from hfplug.methods.method import OTHER
from hfplug.models.anatomy import Anatomy, count_parameters, read_anatomy
from hfplug.models.anatomy_parts import ATTENTION, EXPERTS, FEED_FORWARD, MIXER, Place, Places, feed_forward_kind
from hfplug.models.base import Base, auto_class, class_of, read_task_type, resolve_base, task_type_of
from hfplug.models.layout import is_inside, linear_shape
from hfplug.models.parts import in_state_space_mixer
from hfplug.models.quantize import layers_to_keep


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A module, a weight that a module holds beside others, or several alike under one line.

    Attributes:
        name: The last part of its name; ``"0-79"`` or ``"0-2,4-6"`` for blocks that are alike.
        kind: Its class; of a weight its shape, e.g. ``"8 x 14336 x 4096"``.
        part: The part of the model that its own weights belong to: ``attention``, ``feed-forward``, ``experts``,
            ``mixer``, ``router``, ``norm``, ``embedding``, ``head``, ``outside the blocks``, ``does not run on text``,
            ``other``; empty if it has none of its own.
        role: What it does there: ``query``, ``key``, ``query + key + value``, ``attention output``, ``input
            embedding``, …; of a module that holds blocks ``encoder`` or ``decoder``; or empty.
        times: How many modules the line stands for.
        parameters: Numbers in one of them. A weight that two modules share is counted where it comes first, so that
            what is below a line adds up to it.
        shares: Full name of the module that its weights were counted in, or empty.
        held_in: How the configuration says that its weight is stored (``"4 bits"``), or empty.
        no_adapter: Why no adapter can be put on it, or empty.
        children: Its own parts.
    """

    name: str
    kind: str
    part: str = ""
    role: str = ""
    times: int = 1
    parameters: int
    shares: str = ""
    held_in: str = ""
    no_adapter: str = ""
    children: tuple[Branch, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Tree:
    """What ``hfplug anatomy`` prints.

    Attributes:
        model_type: ``config.model_type``.
        task_type: PEFT's name of the task type; ``MASKED_LM`` and ``MULTIPLE_CHOICE`` where PEFT has none.
        parameters: Numbers in the model, a shared one once.
        matrices: Those in linear layers and stacked experts, the output layer and new modules left out.
        parts: Numbers of each part; they add up to ``parameters``.
        notes: Of a part what there is to say: whether feed-forward is gated, how many experts there are.
        read_by: ``"run"`` if the model ran to its end on a few tokens, else why it stopped.
        tied: Whether the output layer is the input embedding.
        left_out: Linear layers that no adapter can be put on, each with the reason.
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
    notes: dict[str, str]
    read_by: str
    tied: bool
    left_out: dict[str, str]
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
        task_type: As for :func:`~hfplug.models.factory.build_model`; if None, the class that the configuration names.
        revision: Branch, tag or commit of the base.
        trust_remote_code: Run modelling code from the repo.

    Returns:
        The tree.

    Raises:
        BaseModelError: if the base cannot be found or read.
    """
    found = resolve_base(base, revision=revision, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model, kind = _model_of(found, task_type)
    return tree_of(model, kind)


def tree_of(model: nn.Module, task_type: str) -> Tree:
    """Read the parts of a model.

    Args:
        model: A transformers model, on any device, ``meta`` included.
        task_type: PEFT's name of the task type.
    """
    anatomy = read_anatomy(model, task_type)
    modules = dict(model.named_modules())
    adapted = _adapted(anatomy)
    kept = set(layers_to_keep(model, anatomy.new_modules))
    four_bits = [one for name, one in modules.items() if type(one) is nn.Linear and not is_inside(name, kept)]
    stacked = dict(model.named_parameters())
    matrices = sum(_size(modules[name]) for name in anatomy.linear)
    matrices += sum(stacked[name].numel() for name in anatomy.expert_tensors)
    total = count_parameters(model)
    growing = _Growing(model, anatomy)
    return Tree(
        model_type=anatomy.model_type,
        task_type=anatomy.loaded_for,
        parameters=total,
        matrices=matrices,
        parts=growing.parts(),
        notes=_notes(anatomy, modules),
        read_by=anatomy.read_by,
        tied=anatomy.tied,
        left_out={name: why for name, why in anatomy.left_out if not is_inside(name, anatomy.unreached)},
        lora_layers=tuple(dict.fromkeys(name.rpartition(".")[2] for name in adapted)),
        lora_share=sum(_size(modules[name]) for name in adapted) / max(1, matrices),
        lora_trainable=Lora().r * sum(sum(linear_shape(modules[name])) for name in adapted),
        four_bit_share=sum(map(_size, four_bits)) / max(1, total),
        root=growing.branch("", model, type(model).__name__, 1),
    )


def _model_of(found: Base, task_type: str | None) -> tuple[nn.Module, str]:
    """The model without its weights, and its task type."""
    config = copy.deepcopy(found.config)  # the model writes into it
    named = class_of(config) if task_type is None and not found.trust_remote_code else None
    try:
        if named is not None:
            model = named._from_config(config)
            return model, _kind(lambda: task_type_of(model), None)
        kind = _kind(lambda: read_task_type(config, task_type), task_type)
        made: Any = auto_class(kind, config)
        return made.from_config(config, trust_remote_code=found.trust_remote_code), kind
    except HfplugError:
        raise
    except Exception as error:  # whatever the making of a model of any kind raises: the user gets one sentence
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BaseModelError(
            f"No model can be made from the configuration of {found.name!r}: {first}",
            fix="Pass another --task-type, or put its config.json right.",
        ) from error


def _kind(ask: Callable[[], str], given: str | None) -> str:
    """What a model is for; where neither the user nor the model says, its backbone is read."""
    try:
        return ask()
    except BaseModelError:
        if given is not None:
            raise
        return OTHER


def _adapted(anatomy: Anatomy) -> tuple[str, ...]:
    try:
        wanted: Any = Lora().peft_config(anatomy).target_modules  # type: ignore[union-attr]
    except MethodError:
        return ()
    endings = tuple(f".{ending}" for ending in wanted or ())
    return tuple(name for name in anatomy.linear if f".{name}".endswith(endings))


def _notes(anatomy: Anatomy, modules: dict[str, nn.Module]) -> dict[str, str]:
    found = {}
    if kind := feed_forward_kind(anatomy, modules):
        found[FEED_FORWARD] = kind
    if anatomy.mixer:
        states = in_state_space_mixer(anatomy.mixer[0], modules)
        found[MIXER] = "state-space" if states else "linear attention or convolution"
    if anatomy.expert_tensors:
        holder, _, own = anatomy.expert_tensors[0].rpartition(".")
        count = getattr(modules[holder], own).shape[0]
        found[EXPERTS] = f"{count} a block, all in one tensor for each matrix"
    elif anatomy.experts:
        first = anatomy.experts[0].split(".")
        last = max(place for place, part in enumerate(first) if part.isdigit())
        count = len(list(modules[".".join(first[:last])].children()))
        found[EXPERTS] = f"{count} a block, each a module of its own"
    if set(anatomy.query) & {*anatomy.key, *anatomy.value}:
        found[ATTENTION] = "query, key and value in one matrix"
    return found


def _size(module: Any) -> int:
    state = getattr(module.weight, "quant_state", None)
    return int(state.shape.numel() if state is not None else module.weight.numel())


class _Growing:
    """Makes the branches of one model."""

    def __init__(self, model: Any, anatomy: Anatomy) -> None:
        self.model, self.anatomy = model, anatomy
        self.places = Places(model, anatomy)
        self.found: dict[str, Place] = {}
        self.no_adapter = dict(anatomy.left_out)
        self.stored = _stored(model, anatomy)
        # Each weight belongs to the module that holds it first.
        self.owner: dict[int, str] = {}
        self.numbers: dict[int, int] = {}
        for name, module in self.places.modules.items():
            for one in module.parameters(recurse=False):
                self.owner.setdefault(id(one), name)
                state: Any = getattr(one, "quant_state", None)
                self.numbers[id(one)] = int(state.shape.numel() if state is not None else one.numel())
        self.ends: dict[str, str] = {}
        if anatomy.encoder:
            for role, blocks in (("encoder", anatomy.encoder), ("decoder", anatomy.decoder)):
                self.ends[blocks[0].rpartition(".")[0].rpartition(".")[0]] = role

    def place(self, name: str) -> Place:
        if name not in self.found:
            self.found[name] = self.places.of(name)
        return self.found[name]

    def parts(self) -> dict[str, int]:
        """Numbers of each part, the largest first."""
        found: dict[str, int] = {}
        for one, name in self.owner.items():
            part = self.place(name).part
            found[part] = found.get(part, 0) + self.numbers[one]
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def branch(self, path: str, module: nn.Module, name: str, times: int) -> Branch:
        children = [
            self.branch(f"{path}.{keys[0]}" if path else keys[0], getattr(module, keys[0]), _ranges(keys), len(keys))
            for keys in self._alike(path, module)
        ]
        own = list(module.named_parameters(recurse=False))
        place = self.place(path) if own and path else Place("")
        counted = [(key, one, self._counted(path, one)) for key, one in own]
        if own and (children or path in self.places.stacked):
            for key, one, count in counted:
                shape = " x ".join(map(str, one.shape))
                children.append(Branch(name=key, kind=shape, part=place.part, role=place.role, parameters=count))
            place = Place("")
        return Branch(
            name=name,
            kind=type(module).__name__,
            part=place.part,
            role=place.role or self.ends.get(path, ""),
            times=times,
            parameters=sum(count for _, _, count in counted)
            + sum(one.times * one.parameters for one in children if one.name not in dict(own)),
            shares=next((self.owner[id(one)] for _, one in own if self.owner[id(one)] != path), ""),
            held_in=self.stored.get(path, ""),
            no_adapter="" if place.part == "" else self.no_adapter.get(path, ""),
            children=tuple(one for one in children if one.parameters or one.shares),
        )

    def _counted(self, path: str, one: nn.Parameter) -> int:
        return self.numbers[id(one)] if self.owner[id(one)] == path else 0

    def _alike(self, path: str, module: nn.Module) -> list[list[str]]:
        """The children of a module; numbered ones that are alike together."""
        groups: dict[Any, list[str]] = {}
        for key, child in module.named_children():
            inner = f"{path}.{key}" if path else key
            groups.setdefault(self._shape(inner, child) if key.isdigit() else key, []).append(key)
        return list(groups.values())

    def _shape(self, path: str, module: nn.Module) -> tuple[Any, ...]:
        """What two numbered blocks have in common if one line can stand for both."""
        return tuple(
            (name, type(one), self.place(f"{path}.{name}" if name else path) if own else "", own)
            for name, one in module.named_modules()
            for own in [
                tuple(
                    (key, tuple(weight.shape), self._counted(f"{path}.{name}" if name else path, weight))
                    for key, weight in one.named_parameters(recurse=False)
                )
            ]
        )


def _stored(model: Any, anatomy: Anatomy) -> dict[str, str]:
    """How linear layers are held where it is not by their dtype: as loaded, or as the configuration says."""
    found = dict.fromkeys(anatomy.quantised, "4 bits")
    recipe = getattr(model.config, "quantization_config", None)
    if recipe is None or found:
        return found
    from transformers.quantizers.quantizers_utils import should_convert_module

    values = recipe if isinstance(recipe, dict) else recipe.to_dict()
    skipped = next(
        (
            values[key]
            for key in ("llm_int8_skip_modules", "modules_to_not_convert", "ignored_layers")
            if values.get(key)
        ),
        layers_to_keep(model, anatomy.new_modules),
    )
    bits = values.get("bits") or (4 if values.get("load_in_4bit") else 8 if values.get("load_in_8bit") else None)
    word = f"{bits} bits" if bits else str(values.get("quant_method", "quantised"))
    return {
        name: word
        for name, one in model.named_modules()
        if type(one) is nn.Linear and should_convert_module(name, skipped)
    }


def _ranges(keys: list[str]) -> str:
    """Numbers in few words: ``"0-2,4-6"``; a name that is no number as it is."""
    if not keys[0].isdigit():
        return keys[0]
    runs: list[list[int]] = []
    for number in map(int, keys):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
