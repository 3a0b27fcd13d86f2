"""Where attention, feed-forward, embeddings and head sit in a transformers model.

A method is told where things are by an :class:`Anatomy`. It is found by running the model once on a few tokens
(:mod:`hfplug.models.trace`, on ``meta`` too) and sorting its layers by what they did (:mod:`hfplug.models.parts`),
not by a table of architectures.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hfplug.methods.method import HEADS_OF_PEFT, PEFT_NAMES
from hfplug.models.ends import embedding_weight, input_embedding, output_embedding, tied_by_peft
from hfplug.models.layout import (
    attention_outputs,
    bias_layers,
    block_of,
    block_stacks,
    compound_layers,
    feed_forward_blocks,
    feed_forward_inputs,
    feed_forward_outputs,
    is_inside,
    key_value_layers,
    linear_shape,
    norm_layers,
    weighted_layers,
)
from hfplug.models.parts import Parts, in_state_space_mixer, part_of, read_parts, unreached
from hfplug.models.trace import Trace, trace


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Where the parts of one model are. All names are full module names.

    Attributes:
        model_type: ``config.model_type``.
        task_type: PEFT's name of the task type.
        loaded_for: The same; or ``MASKED_LM`` or ``MULTIPLE_CHOICE``, for which PEFT has no name.
        parameters: Number of weights, those of a 4-bit layer counted one by one.
        embedding_size: Width of the input embedding.
        embedding_rows: Rows of the input embedding, those of padding at its end included.
        embeddings: Modules that hold the input embedding's weight, itself first: with tied weights the encoder's, the
            decoder's and the output layer too.
        embedding_ties: Modules that PEFT ties to the input embedding, itself among them if it takes its weight from a
            third; a checkpoint may have other weights for some.
        width: Numbers that a block gives a token; with factorised embeddings (ALBERT) not the embedding's.
        layers: Number of blocks (of the encoder plus the decoder, as far as the configuration tells).
        attention_heads: Heads a layer.
        positions: How many positions the configuration says that there are; 0 if it says nothing.
        attention: Linear layers of attention.
        query: Those of ``attention`` that make queries; a fused layer is here and among keys and values.
        key: Those that make keys.
        value: Those that make values.
        mixer: Linear layers that bring positions together otherwise: linear attention, state-space mixers.
        feed_forward: Linear layers of the repeated blocks that are neither attention, mixer nor router.
        feed_forward_input: Those of ``feed_forward`` that lead away from the width of the model: up, and gate.
        experts: Those of ``feed_forward`` that are in one of many alike modules that a router chooses from.
        expert_tensors: Full names of parameters that hold the matrices of all experts of a block.
        routers: Modules that choose among experts.
        linear: All linear layers that an adapter can be put on, but the output head and new modules.
        left_out: Linear layers that no adapter can be put on, and why.
        unreached: The outermost modules that do not run on text (those of pictures and sound), so that no method has
            anything to train there; empty if that is not known.
        key_value: Those of ``attention`` that make keys or values, fused ones included.
        attention_output: Those of ``attention`` that lead back to the width of the model, one an attention module.
        feed_forward_output: Those of ``feed_forward`` that lead back to the width of the model, one a block.
        feed_forward_block: Modules that are the whole feed-forward part of a block, where one module is.
        blocks: The numbered blocks of each stack, the decoder's last.
        encoder: The numbered blocks of the encoder, if there is an encoder beside a decoder.
        decoder: Those of the decoder; of a model that is an encoder or a decoder alone, all blocks.
        input_embeddings: The module that turns ids into vectors, or an empty name.
        output_embeddings: The module that turns vectors into scores of ids, or an empty name.
        tied: Whether these two share one weight.
        head: Modules that turn what the backbone gives into the task's answer.
        quantised: Linear layers that are held in 4 bits.
        read_by: ``"run"`` if the model ran to its end, else why it stopped: what came later is judged by names.
        weighted: Modules that hold weights themselves and learn, the outermost where one holds another.
        compound: Of these those that are more than one layer: experts in one tensor, mixers with numbers of their own.
        norms: Normalisation layers with weights.
        biases: Layers that add a trained vector to their output.
        transposed: Those of ``linear`` that hold their weight as (in, out): GPT-2's ``Conv1D``.
        modules: Every module.
        recomputed: Whether layers run again on the way back (reversible ones).
        others: Where no linear layer lies in a block: what holds a matrix there instead, and its class.
        encoder_decoder: Whether it is an encoder and a decoder.
        new_modules: Modules that start at random and so must be trained and saved: a classification head,
            and whatever the checkpoint did not hold.
        tokenizer_source: Folder or repo id that a tokenizer can be read from, or None.
        revision: The commit of the base, or None.
        cache_reader: Runs the model once and says what it keeps of each layer.
    """

    model_type: str
    task_type: str
    parameters: int
    embedding_size: int
    embedding_rows: int
    embeddings: tuple[str, ...]
    embedding_ties: tuple[str, ...] = ()
    width: int
    layers: int
    attention_heads: int
    attention: tuple[str, ...]
    query: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    value: tuple[str, ...] = ()
    mixer: tuple[str, ...] = ()
    feed_forward: tuple[str, ...]
    feed_forward_input: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()
    expert_tensors: tuple[str, ...] = ()
    routers: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    unreached: tuple[str, ...] = ()
    linear: tuple[str, ...]
    key_value: tuple[str, ...]
    attention_output: tuple[str, ...]
    feed_forward_output: tuple[str, ...]
    feed_forward_block: tuple[str, ...]
    blocks: tuple[tuple[str, ...], ...]
    weighted: tuple[str, ...]
    compound: tuple[str, ...] = ()
    norms: tuple[str, ...]
    biases: tuple[str, ...]
    transposed: tuple[str, ...]
    modules: tuple[str, ...]
    encoder: tuple[str, ...] = ()
    decoder: tuple[str, ...] = ()
    input_embeddings: str = ""
    output_embeddings: str = ""
    tied: bool = False
    head: tuple[str, ...] = ()
    quantised: tuple[str, ...] = ()
    read_by: str = "run"
    loaded_for: str = ""
    recomputed: bool = False
    others: tuple[tuple[str, str], ...] = ()
    encoder_decoder: bool = False
    new_modules: tuple[str, ...] = ()
    tokenizer_source: str | None = None
    revision: str | None = None
    positions: int = 0
    cache_reader: Callable[[], tuple[Any, ...]] = field(default=tuple, repr=False, compare=False)

    def layers_of(self, block: str) -> tuple[str, ...]:
        """The modules of a block that hold weights themselves."""
        return tuple(name for name in self.weighted if is_inside(name, (block,)))

    def cache_shapes(self) -> tuple[Any, ...]:
        """What the model keeps of each layer: (heads, numbers a head) of the keys and of the values."""
        return self.cache_reader()


def read_anatomy(
    model: nn.Module,
    task_type: str,
    *,
    missing_keys: Iterable[str] = (),
    tokenizer_source: str | None = None,
    revision: str | None = None,
) -> Anatomy:
    """Read where the parts of a model are.

    Args:
        model: A transformers model, on any device, ``meta`` included.
        task_type: PEFT's name of the task type.
        missing_keys: Parameters that the checkpoint did not hold, so that they start at random.
        tokenizer_source: Folder or repo id that a tokenizer can be read from.
        revision: The commit of the base.
    """
    modules = dict(model.named_modules())
    new = new_modules(model, task_type, missing_keys)
    config: Any = model.config
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    width = _width(model, text_config)
    seen = trace(model)
    parts = read_parts(model, modules, seen, new, width)
    stacks = block_stacks(modules, seen.learns_within)
    encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
    ends = _ends(model, modules, new)
    weighted = tuple(name for name in weighted_layers(modules) if seen.learns_within(name))
    return Anatomy(
        model_type=config.model_type,
        task_type=PEFT_NAMES.get(task_type, task_type),
        loaded_for=task_type,
        parameters=count_parameters(model),
        width=width,
        embedding_size=_embedding_size(model, text_config),
        **_stated(text_config),
        attention=parts.attention,
        query=parts.query,
        key=parts.key,
        value=parts.value,
        mixer=parts.mixer,
        feed_forward=parts.feed_forward,
        feed_forward_input=feed_forward_inputs(parts.feed_forward, modules, width),
        experts=parts.experts,
        expert_tensors=parts.expert_tensors,
        routers=parts.routers,
        left_out=tuple(parts.left_out.items()),
        others=parts.others,
        linear=parts.linear,
        key_value=_key_value(parts, modules, width),
        attention_output=parts.attention_output or attention_outputs(parts.attention, modules, width),
        feed_forward_output=feed_forward_outputs(parts.feed_forward or dict(parts.others), modules, width),
        feed_forward_block=_feed_forward_block(parts, modules, seen),
        blocks=stacks,
        encoder=stacks[0] if encoder_decoder and len(stacks) > 1 else (),
        decoder=stacks[-1] if stacks else (),
        weighted=weighted,
        compound=compound_layers(weighted, modules),
        norms=tuple(name for name in norm_layers(modules, new) if _is_trained_norm(name, modules, seen)),
        biases=tuple(name for name in bias_layers(modules, (*new, *ends["head"])) if _is_trained_bias(name, seen)),
        transposed=tuple(name for name in parts.linear if type(modules[name]).__name__ == "Conv1D"),
        modules=tuple(name for name in modules if name),
        quantised=tuple(name for name in modules if hasattr(getattr(modules[name], "weight", None), "quant_state")),
        **_of_the_run(modules, seen),
        encoder_decoder=encoder_decoder,
        new_modules=new,
        tokenizer_source=tokenizer_source,
        revision=revision,
        cache_reader=_cache_reader(weakref.ref(model)),
        **ends,
    )


def _of_the_run(modules: dict[str, nn.Module], seen: Trace) -> dict[str, Any]:
    """How far the run came, and how it went back."""
    read_by = "run" if seen.ended == "whole" else seen.ended
    return {"read_by": read_by, "unreached": unreached(modules, seen), "recomputed": bool(seen.recomputed)}


def _ends(model: Any, modules: dict[str, nn.Module], new: tuple[str, ...]) -> dict[str, Any]:
    """Where ids go in and answers come out."""
    names = {id(module): name for name, module in modules.items()}
    first, last = input_embedding(model), output_embedding(model)
    output = names.get(id(last), "")
    return {
        "input_embeddings": names.get(id(first), ""),
        "embedding_rows": _embedding_rows(model),
        "embeddings": _embedding_holders(model),
        "embedding_ties": tied_by_peft(model),
        "output_embeddings": output,
        "tied": last is not None and getattr(last, "weight", None) is getattr(first, "weight", last),
        "head": (output,) if output else tuple(name for name in new if "." not in name),
    }


def _key_value(parts: Parts, modules: dict[str, nn.Module], width: int) -> tuple[str, ...]:
    """What makes keys or values; where the run did not show it, what is called so; of a mixer what leads into it."""
    both = {*parts.key, *parts.value}
    known = {block_of(name) for name in both}
    both |= set(key_value_layers(tuple(name for name in parts.attention if block_of(name) not in known)))
    into = tuple(name for name in parts.mixer if linear_shape(modules[name])[0] == width)
    both |= set(key_value_layers(into) or into)
    both -= set(parts.attention_output)  # with several residual streams (DeepSeek V4) all is weighed with all
    return tuple(name for name in parts.linear if name in both)


def _feed_forward_block(parts: Parts, modules: dict[str, nn.Module], seen: Trace) -> tuple[str, ...]:
    """One module a block; where it is not the only one beside attention, the one that holds the experts."""
    found = [name for name in feed_forward_blocks(modules) if seen.learns_within(name)]
    attention = {part_of(name) for name in parts.attention}
    blocks = {block_of(f"{name}.x") for name in found}
    for holder in dict.fromkeys(part_of(name) for name in (*parts.expert_tensors, *parts.routers)):
        if holder and holder not in attention and block_of(f"{holder}.x") not in blocks:
            found.append(holder)
    return tuple(name for name in modules if name in set(found))


def _is_trained_norm(name: str, modules: dict[str, nn.Module], seen: Trace) -> bool:
    if f"{name}.weight" in seen.read_directly or in_state_space_mixer(name, modules):
        return False  # a copy of the layer would not be seen
    return seen.learns(name)


def _is_trained_bias(name: str, seen: Trace) -> bool:
    return seen.learns(name) or f"{name}.bias" in seen.read_directly


def _cache_reader(model: weakref.ref[nn.Module]) -> Callable[[], tuple[Any, ...]]:
    """Runs the model when it is asked, and not before; what is on a model must not keep it in memory."""

    def read() -> tuple[Any, ...]:
        from hfplug.models.tryout import cache_shapes

        found = model()
        return cache_shapes(found) if found is not None else ()

    return read


def new_modules(model: nn.Module, task_type: str, missing_keys: Iterable[str] = ()) -> tuple[str, ...]:
    """The modules that start at random: a classification head, and what the checkpoint did not hold.

    The head is what is not part of the backbone; the backbone is what ``base_model_prefix`` names.

    Args:
        model: A transformers model.
        task_type: PEFT's name of the task type.
        missing_keys: Parameters that the checkpoint did not hold.

    Returns:
        Full names of modules, none inside another.
    """
    found: list[str] = []
    backbone = getattr(model, "base_model_prefix", "")
    if task_type in HEADS_OF_PEFT and backbone and hasattr(model, backbone):
        found += [
            name for name, child in model.named_children() if name != backbone and any(True for _ in child.parameters())
        ]
    elif task_type in HEADS_OF_PEFT:  # T5's body lies beside its head, which PEFT trains and saves whatever it holds
        found += [name for name, _ in model.named_children() if name in HEADS_OF_PEFT[task_type]]
    for key in missing_keys:
        owner = key.rpartition(".")[0]
        if owner and not is_inside(owner, found):
            found.append(owner)
    return tuple(dict.fromkeys(found))


def count_parameters(model: nn.Module, *, trainable: str = "all") -> int:
    """Count weights, each shared tensor once, 4-bit weights one by one.

    Args:
        model: Any model.
        trainable: ``"all"``, or ``"only"`` for those that require a gradient.
    """
    total = 0
    for parameter in model.parameters():
        if trainable == "only" and not parameter.requires_grad:
            continue
        state = getattr(parameter, "quant_state", None)
        total += state.shape.numel() if state is not None else parameter.numel()
    return total


def _stated(config: Any) -> dict[str, Any]:
    """What the configuration alone says."""
    return {
        "layers": _first_int(config, "num_hidden_layers", "num_layers", "n_layer", default=1),
        "attention_heads": _first_int(config, "num_attention_heads", "num_heads", "n_head", default=1),
        "positions": _first_int(config, "max_position_embeddings", default=0),
    }


def _width(model: nn.Module, config: Any) -> int:
    return _first_int(config, "hidden_size", "d_model", "n_embd", default=_embedding_size(model, config))


def _embedding_size(model: nn.Module, config: Any) -> int:
    weight = embedding_weight(model)
    if weight is not None and weight.dim() == 2:
        return int(weight.shape[1])
    return _first_int(config, "hidden_size", "d_model", "n_embd", default=1)


def _embedding_rows(model: nn.Module) -> int:
    weight = embedding_weight(model)
    return int(weight.shape[0]) if weight is not None and weight.dim() == 2 else 0


def _embedding_holders(model: nn.Module) -> tuple[str, ...]:
    weight = embedding_weight(model)
    if weight is None:
        return ()
    first = input_embedding(model)
    found = [(name, one) for name, one in model.named_modules() if getattr(one, "weight", None) is weight]
    return tuple(name for name, one in sorted(found, key=lambda pair: pair[1] is not first))


def _first_int(config: Any, *names: str, default: int) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return default
