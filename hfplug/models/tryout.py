"""Short runs of a model on a few tokens: what it keeps in its cache, and whether a method on it works."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hfplug.errors import MethodError
from hfplug.methods import TuningMethod
from hfplug.methods.method import CAUSAL, SEQ2SEQ

_TOKENS = 4

HeadShape = tuple[int, int]
# What a model that fails on an input of a kind does not do, in words.
_REFUSES = {
    "vectors": "it does not take vectors before its text",
    "prefix": "it does not take a cache that it did not fill itself",
}


def cache_shapes(model: nn.Module) -> tuple[tuple[HeadShape, HeadShape], ...]:
    """What a model keeps of each layer: (heads, numbers a head) of the keys and of the values.

    Args:
        model: A transformers model, with weights. It is run once on a few tokens and left as it was.

    Returns:
        A pair for each layer, of the decoder if there is an encoder as well; for an encoder alone, which keeps
        nothing, what its configuration says; empty if neither tells. A layer that keeps something else has (0, 0).
    """
    config: Any = model.config
    try:
        output = _run_with_cache(model)
    except TypeError:  # a forward that knows no cache
        return () if model.can_generate() else _of_encoder(config)  # type: ignore[operator]
    except (RuntimeError, NotImplementedError, ValueError):
        if not on_meta(model):
            raise
        return _of_encoder(config)
    layers = getattr(_kept(output), "layers", None)
    if not layers:
        return _of_encoder(config) if getattr(output, "cache_params", None) is None else ()
    return tuple((_head_shape(layer, "keys"), _values_shape(layer)) for layer in layers)


def kept_cache(model: nn.Module) -> Any:
    """The cache that a model fills for a few tokens (that of a decoder's self-attention), or None.

    Args:
        model: As for :func:`cache_shapes`.
    """
    try:
        return _kept(_run_with_cache(model))
    except TypeError:
        return None


def _run_with_cache(model: Any) -> Any:
    with at_rest(model), torch.no_grad():
        inputs = few_tokens(model)
        try:
            return model(**inputs, use_cache=True)
        except ValueError:  # the word reaches an encoder that refuses it (Switch Transformers); decoders cache anyway
            return model(**inputs)


def _kept(output: Any) -> Any:
    kept = getattr(output, "past_key_values", None)
    return getattr(kept, "self_attention_cache", kept)


def try_out(model: nn.Module, method: TuningMethod) -> None:
    """Run a tuned model forth and back on a few tokens, so that what cannot work is refused before it is trained.

    Args:
        model: What PEFT made of the base and the method. It is left as it was, without gradients.
        method: The method on it.

    Raises:
        MethodError: The run fails, or leaves a trainable tensor without a gradient.
    """
    base: Any = model.get_base_model()  # type: ignore[operator]
    if on_meta(model):
        return
    trainable = {name: one for name, one in model.named_parameters() if one.requires_grad}
    inputs = few_tokens(base)
    if method.virtual_tokens() and str(model.active_peft_config.task_type) in (CAUSAL, SEQ2SEQ):  # type: ignore[union-attr]
        inputs.pop("decoder_input_ids", None)
        inputs = {**inputs, **labelled(base, inputs["input_ids"])}  # as in training
    kind = base.config.model_type
    fix = "Use lora, which does not depend on how a model takes its input."
    try:
        with at_rest(model), torch.enable_grad():
            forth_and_back(model, inputs)
            _write(model.eval(), method, base)
    except Exception as error:  # whatever a model of any kind raises: the user gets one sentence
        why = f"{_REFUSES.get(method.input_kind, 'a short run fails')} ({first_line(error)})"
        raise MethodError(f"{method.name} does not work on this {kind} model: {why}.", fix=fix) from error
    finally:
        without = [name for name, one in trainable.items() if one.grad is None]
        # A new head learns whatever the prompt does (MRA attends to nothing without its CUDA kernel).
        own = {name: one for name, one in trainable.items() if "prompt_encoder" in name} or trainable
        gradients = [one.grad for one in own.values() if one.grad is not None]
        moved = any(bool(one.any()) for one in gradients) and all(_reaches(one, method) for one in gradients)
        dead = max((_dead(one, model.active_peft_config) for one in gradients), default=0.0)
        for one in trainable.values():
            one.grad = None
    if dead:
        raise MethodError(
            f"{method.name} does not work on this {kind} model: {dead:.0%} of the numbers of its prefix get no"
            " gradient, as layers do not read them or do not hand a gradient back.",
            fix=fix,
        )
    if without or not moved:
        which = without[0] if without else "the prompt"
        raise MethodError(f"{method.name} does nothing on this {kind} model: {which} gets no gradient.", fix=fix)


def _reaches(gradient: torch.Tensor, method: TuningMethod) -> bool:
    """Whether a gradient of vectors before a text arrives at more than half: the first may be the token classified."""
    rows = gradient.shape[0]
    if method.input_kind != "vectors" or gradient.dim() != 2 or rows != method.virtual_tokens() or rows == 1:
        return True
    return int(gradient.any(dim=1).sum()) * 2 > rows


def _dead(gradient: torch.Tensor, settings: Any) -> float:
    """Which share of a prefix's columns gets no gradient, if more than a fourth; 0 for anything but a prefix.

    RecurrentGemma has attention in every third layer only, and HRM takes no gradient of its first cycles. What a prefix
    has too much, up to a layer (:mod:`hfplug.methods.prefix_tuning`, :mod:`hfplug.models.prefix_layout`), is let pass.
    """
    if str(getattr(settings.peft_type, "value", settings.peft_type)) != "PREFIX_TUNING":
        return 0.0
    # The prefix itself, or the bias of the network that makes it.
    if gradient.shape[-1] != settings.num_layers * 2 * settings.token_dim:
        return 0.0
    dead = float((~gradient.reshape(-1, gradient.shape[-1]).any(dim=0)).float().mean())
    return dead if dead > max(0.25, 1.01 / settings.num_layers) else 0.0


def forth_and_back(model: nn.Module, inputs: dict[str, Any]) -> None:
    """A step without its update; at rest or, where a model has no gradient at rest, in training.

    Reformer is reversible, and RWKV keeps a state at rest that it writes into.

    Args:
        model: The model; it is left in the mode that it ran in, with its gradients.
        inputs: From :func:`few_tokens`.
    """
    for training in (False, True):
        model.train(training)
        try:
            output = model(**inputs)
            logits = [value for name, value in output.items() if name.endswith("logits")]
            torch.stack([one.float().square().mean() for one in logits]).sum().backward()
            return
        except (RuntimeError, AssertionError):
            if training:
                raise
            model.zero_grad()


def _write(model: Any, method: TuningMethod, base: Any) -> None:
    """Let a tuned model write two tokens, if its base can."""
    if str(model.active_peft_config.task_type) not in (CAUSAL, SEQ2SEQ) or not base.can_generate():
        return
    ids, mask = (few_tokens(base)[name] for name in ("input_ids", "attention_mask"))
    words = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "num_beams": 1}
    with torch.no_grad():
        try:
            base.generate(input_ids=ids, attention_mask=mask, **words)
        except Exception:  # a base of any kind: then nothing is asked of the method
            return
        caller, inputs = method.generation_inputs(model, ids, mask)
        caller.generate(**inputs, **words)  # type: ignore[operator]


def ids_of_text(config: Any) -> list[int]:
    """Ids below 64 that stand for text: none of those that a configuration names as special.

    Args:
        config: Of a model.
    """
    config = config.get_text_config()
    special = {
        value
        for name, value in config.to_dict().items()
        if isinstance(value, int) and name.endswith(("token_id", "token_index"))
    }
    rows = int(getattr(config, "vocab_size", None) or 64)  # CANINE hashes what it is given
    return [one for one in range(min(rows, 64)) if one not in special] or [0]


def few_tokens(model: Any, count: int = _TOKENS) -> dict[str, torch.Tensor]:
    """A row of a few ids that stand for text, with its end where a classifier looks for one.

    Args:
        model: A transformers model.
        count: How many.
    """
    config: Any = model.config.get_text_config()
    rows = int(getattr(config, "vocab_size", None) or 64)
    ids = ids_of_text(model.config)[-count:]
    end = getattr(config, "eos_token_id", None)
    writes = getattr(model.config, "is_encoder_decoder", False)
    if writes and isinstance(end, int) and end < rows:
        ids[-1] = end
    separator = getattr(model.config, "sep_token_id", None)
    if isinstance(separator, int) and type(model).__name__.endswith(("ForQuestionAnswering", "ForMultipleChoice")):
        ids[-3:] = [separator] * 3  # between a question and a text there are two, and one at the end
    row = torch.tensor([ids], device=next(model.parameters()).device)
    if type(model).__name__.endswith("ForMultipleChoice"):
        row = row[:, None]  # a row for each choice
    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    if writes and model.can_generate():
        inputs["decoder_input_ids"] = row
    return inputs


def labelled(base: Any, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Labels of a text that is written, and what a decoder starts from, as transformers' collator makes it of them.

    Args:
        base: The model that is trained. FSMT would make the decoder's ids from the input.
        labels: Shape (batch, length).
    """
    made = getattr(base, "prepare_decoder_input_ids_from_labels", None)
    if made is None or not base.config.is_encoder_decoder:
        return {"labels": labels}
    return {"labels": labels, "decoder_input_ids": made(labels=labels)}


def on_meta(model: nn.Module) -> bool:
    """Whether some weights are not there: on ``meta``, offloaded, or spread over processes."""
    return any(one.device.type == "meta" or hasattr(one, "ds_id") for one in model.parameters())


@contextlib.contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """The model in eval mode and the random numbers apart; both are put back."""
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    try:
        model.eval()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _head_shape(layer: Any, name: str) -> HeadShape:
    kept = getattr(layer, name, None)
    return (int(kept.shape[1]), int(kept.shape[3])) if isinstance(kept, torch.Tensor) and kept.dim() == 4 else (0, 0)


def _values_shape(layer: Any) -> HeadShape:
    """That of the values, or (0, 0) where a layer's keys are its values too (DeepSeek V4)."""
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    same = isinstance(keys, torch.Tensor) and keys.device.type != "meta" and keys.dim() == 4
    return (0, 0) if same and torch.equal(keys, values) else _head_shape(layer, "values")


def _of_encoder(config: Any) -> tuple[tuple[HeadShape, HeadShape], ...]:
    heads, width, layers = (
        getattr(config, name, None) for name in ("num_attention_heads", "hidden_size", "num_hidden_layers")
    )
    if getattr(config, "is_encoder_decoder", False):  # whose decoder may have other numbers of layers and heads
        layers = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None) or layers
        heads = getattr(config, "decoder_attention_heads", None) or heads
    if not (isinstance(heads, int) and isinstance(width, int) and isinstance(layers, int)):
        return ()
    return (((heads, width // heads), (heads, width // heads)),) * layers
