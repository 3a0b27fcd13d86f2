"""What each module of a model is, in words and for a person: the part that it belongs to, and what it does there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from hfplug.models.anatomy import Anatomy
from hfplug.models.layout import attention_module, block_of, is_linear, linear_shape, norm_layers, with_holders
from hfplug.models.parts import in_state_space_mixer, part_of

# The parts of any model, in the order in which a summary of equal numbers tells them.
ATTENTION, MIXER, FEED_FORWARD, EXPERTS, ROUTER = "attention", "mixer", "feed-forward", "experts", "router"
NORM, EMBEDDING, HEAD, OUTSIDE, OTHER = "norm", "embedding", "head", "outside the blocks", "other"
NOT_RUN = "does not run on text"

_WORDS = {"query": {"q", "query", "qkv"}, "key": {"k", "key", "kv", "qkv"}, "value": {"v", "value", "kv", "qkv"}}


class Place(NamedTuple):
    """Where a module belongs.

    Attributes:
        part: One of the parts above.
        role: What it does there, e.g. ``"query"``; empty if no more is known than the part.
    """

    part: str
    role: str = ""


class Places:
    """Answers where a module of one model belongs.

    Args:
        model: The model.
        anatomy: Its anatomy.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy) -> None:
        self.modules = dict(model.named_modules())
        self.backbone = getattr(model, "base_model_prefix", "")
        if not isinstance(self.modules.get(self.backbone), nn.Module):
            self.backbone = ""
        self.new = frozenset(anatomy.new_modules)
        self.unreached = frozenset(anatomy.unreached)
        self.input, self.output = anatomy.input_embeddings, anatomy.output_embeddings
        self.embeddings = frozenset(anatomy.embeddings)
        self.routers = frozenset(anatomy.routers)
        self.linear = frozenset(anatomy.linear)
        self.stacked = frozenset(name.rpartition(".")[0] for name in anatomy.expert_tensors)
        self.roles = _roles(anatomy, self.modules)
        self.norms = frozenset((*anatomy.norms, *norm_layers(self.modules, anatomy.new_modules)))
        self.holders = {part_of(name): FEED_FORWARD for name in anatomy.feed_forward}
        self.holders |= {part_of(name): ATTENTION for name in anatomy.attention}
        self.holders |= {part_of(name): MIXER for name in anatomy.mixer}
        self.holders.pop("", None)
        self.within_stacks = with_holders(name for stack in anatomy.blocks for name in stack)

    def of(self, name: str) -> Place:
        """Where a module's own weights belong.

        Args:
            name: Full name of a module.
        """
        above = _itself_and_holders(name)
        if any(one in self.unreached for one in above):
            return Place(NOT_RUN)
        if any(one in self.new for one in above):
            return Place(HEAD, "new head")
        if name in self.embeddings and name != self.output:
            return Place(EMBEDDING, "input embedding")
        if name == self.output:
            return Place(HEAD, "output")
        if name in self.roles:
            return self.roles[name]
        if any(one in self.stacked for one in above):
            return Place(EXPERTS, "experts")
        if any(one in self.routers for one in above):
            return Place(ROUTER, "router")
        if name in self.norms:
            return Place(NORM, "norm")
        return self._by_place(name, above)

    def _by_place(self, name: str, above: list[str]) -> Place:
        module = self.modules[name]
        part = next((self.holders[one] for one in above if one in self.holders), "")
        if not part and in_state_space_mixer(f"{name}.x", self.modules):
            part = MIXER
        if not part and attention_module(f"{name}.x", self.modules) is not None:
            part = ATTENTION
        if part in ("", FEED_FORWARD) and is_linear(module) and block_of(name) and name in self.linear:
            return Place(ROUTER, "router")  # what is left of the linear layers of blocks
        if part:
            return Place(part)
        if self.backbone and self.backbone not in above:
            return Place(HEAD, "head")
        if isinstance(module, nn.Embedding):
            return Place(EMBEDDING, "embedding")
        if any("expert" in piece for piece in name.split(".")):
            return Place(EXPERTS, "experts")  # stacked in another way: DBRX puts their rows below one another
        if not block_of(name) and name not in self.within_stacks:
            return Place(OUTSIDE)
        return Place(OTHER)


def feed_forward_kind(anatomy: Anatomy, modules: Mapping[str, nn.Module]) -> str:
    """How the feed-forward parts begin: ``"gated"`` if one product of the input multiplies another, else ``"dense"``.

    Args:
        anatomy: Of the model.
        modules: Every module by name.

    Returns:
        Empty if no layer leads into them.
    """
    inner = {block_of(name): linear_shape(modules[name])[0] for name in anatomy.feed_forward_output}
    into: dict[str, list[str]] = {}
    for name in anatomy.feed_forward_input:
        into.setdefault(name.rpartition(".")[0], []).append(name)
    if any(len(names) > 1 for names in into.values()):
        return "gated"
    wide = (linear_shape(modules[name])[1] == 2 * inner.get(block_of(name), 0) for name in anatomy.feed_forward_input)
    return "" if not into else "gated, both halves in one matrix" if all(wide) else "dense"


def endings(names: list[str]) -> str:
    """Names of layers by what their last numbers have in common: ``"layers.*.mixer.out_proj"``."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in names))


def _roles(anatomy: Anatomy, modules: Mapping[str, nn.Module]) -> dict[str, Place]:
    makes: dict[str, list[str]] = {}
    for role, names in (("query", anatomy.query), ("key", anatomy.key), ("value", anatomy.value)):
        for name in names:
            makes.setdefault(name, []).append(role)
    known = {block_of(name) for name in makes}
    found = {
        name: Place(ATTENTION, " + ".join(makes.get(name, () if block_of(name) in known else _makes_by_name(name))))
        for name in anatomy.attention
    }
    found |= {name: Place(ATTENTION, "attention output") for name in anatomy.attention_output}
    for name in anatomy.mixer:
        fed, given = linear_shape(modules[name])
        into, out = fed == anatomy.width, given == anatomy.width
        found[name] = Place(MIXER, "" if into == out else "mixer in" if into else "mixer out")
    leading, narrowing, experts = map(set, (anatomy.feed_forward_input, anatomy.feed_forward_output, anatomy.experts))
    for name in anatomy.feed_forward:
        way = " in" if name in leading else " out" if name in narrowing else ""
        part = EXPERTS if name in experts else FEED_FORWARD
        found[name] = Place(part, f"{'expert' if name in experts else part}{way}")
    return found


def _makes_by_name(name: str) -> list[str]:
    """What a layer of attention makes, where no run of the model showed it (Whisper hears and reads no text)."""
    words = set(name.rpartition(".")[2].lower().split("_"))
    return [role for role, known in _WORDS.items() if words & known]


def _itself_and_holders(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
