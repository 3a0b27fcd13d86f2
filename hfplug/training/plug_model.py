"""Putting a method onto a model that a script handed to its Trainer, or leaving it alone, and saying which."""

from __future__ import annotations

import logging
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.fit import count_saved_labels
from hfplug.errors import BaseModelError, HfplugError, MethodError, MismatchError
from hfplug.methods import TuningMethod
from hfplug.methods.defaults import chosen_words
from hfplug.methods.method import OTHER, PEFT_NAMES
from hfplug.models.anatomy import count_parameters, new_modules
from hfplug.models.base import task_type_of
from hfplug.models.ends import embedding_rows
from hfplug.models.factory import Applied, applied_to, apply_method, remember
from hfplug.models.matrix_shares import matrix_shares, share_words
from hfplug.models.quantize_loaded import quantize_loaded
from hfplug.training.load_notes import LoadNote, note_of
from hfplug.training.plug_exchange import Plug, become, is_plugged, twin_of
from hfplug.training.plug_network import load_network
from hfplug.training.plug_settings import read_settings

logger = logging.getLogger(__name__)

# Models of which it was said already that they are left alone.
_TOLD: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def plug_model(model: Any, method: TuningMethod, *, device: torch.device | str | None = None) -> str:
    """Put a method onto a model, in place: the object itself becomes the tuned model.

    Args:
        model: What a script hands to its Trainer.
        method: The method.
        device: Where the Trainer will put it; asked for by methods that quantise the base.

    Returns:
        ``"plugged"``; ``"kept"`` if the method is on it already; ``"own"`` if the script put PEFT on it itself.

    Raises:
        MethodError: The method does not fit the model, or the model is none of transformers'.
        HfplugError: As :func:`~hfplug.models.factory.apply_method`.
    """
    known = applied_to(model) if isinstance(model, nn.Module) else None
    if is_plugged(model) or (known is not None and known.method == method.settled(known.anatomy)):
        return _keep(model, method, known)
    if has_peft(model):
        if model not in _TOLD:
            _TOLD.add(model)
            logger.warning(
                "The script put an adapter of its own on its %s; it is kept, and %s is not put on it.",
                _shown(model),
                method.name,
            )
        return "own"
    _refuse_unfit(model)
    kind = _task_of(model)
    if PEFT_NAMES.get(kind, kind) == OTHER and method.virtual_tokens():
        raise MethodError(
            f"{method.name} puts vectors before the input, which PEFT does not do on a {type(model).__name__}.",
            fix="Use lora.",
        )
    method.check_task_type(kind)
    note = note_of(model)
    if method.quantization() is not None and not getattr(model, "is_quantized", False):
        _quantize(model, method, kind, note, device)
    _put_on(model, method, kind, note)
    return "plugged"


def plug_saved(model: Any, method: TuningMethod, folder: Path) -> None:
    """Put a saved adapter onto its base, so that a script can go on from what it wrote.

    Args:
        model: The base, as a script's ``from_pretrained`` loaded it; it becomes the tuned model.
        method: The method of this run.
        folder: The adapter's folder.

    Raises:
        MismatchError: It was made by another method or with other settings.
    """
    plug_model(model, method)
    if not is_plugged(model):
        kind = (read_settings(folder) or {}).get("peft_type")
        raise MismatchError(
            f"{str(folder)!r} holds an adapter ({getattr(kind, 'value', kind)}), and this run is {method.name}.",
            fix="Run with the method that it was made with, or let the script load the base.",
        )
    model.load_adapter(str(folder), "default", is_trainable=True)
    load_network(model, folder)
    logger.info("The adapter in %s is on its base; training goes on from it.", folder)


def saved_labels(folder: Path) -> int | None:
    """Labels of the head in an adapter's folder, or None if it has none.

    Args:
        folder: The adapter's folder.
    """
    try:
        return count_saved_labels(AdapterDir.open(folder))
    except HfplugError:
        return None


def has_peft(model: Any) -> bool:
    """Whether a model has an adapter of PEFT on it, as a ``PeftModel`` or inside."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(model, nn.Module):
        return False
    return isinstance(model, PeftModel) or any(isinstance(module, BaseTunerLayer) for module in model.modules())


def _task_of(model: Any) -> str:
    """What a model is for; a class of the script's own, with a head of its own, is for something else."""
    try:
        return task_type_of(model)
    except BaseModelError:
        return OTHER


def _put_on(model: Any, method: TuningMethod, kind: str, note: LoadNote) -> None:
    new = _new_tokens(model, note)
    was = type(model).__name__
    tuned = apply_method(twin_of(model), method, task_type=kind, missing_keys=note.missing, new_tokens=new)
    applied = applied_to(tuned)
    if applied is None:
        raise MethodError(f"{method.name} was not put on this {was}.")
    # Where PEFT has no part, the twin has the model's own state, so that what was done to it was done to the model.
    if has_peft(tuned) and hasattr(tuned, "peft_config"):
        trained = new and getattr(tuned.active_peft_config, "trainable_token_indices", None)
        become(model, tuned, Plug(method=method, save_embeddings=False if trained else "auto"))
    remember(model, applied)
    _say(model, applied, note, new)


def _say(model: Any, applied: Applied, note: LoadNote, new: tuple[int, ...]) -> None:
    method = applied.method
    trainable = count_parameters(model, trainable="only")
    total = applied.anatomy.parameters
    parts = [f"{trainable:,} of {total:,} parameters train ({100 * trainable / max(total, 1):.2f} %)"]
    in_matrices = share_words(matrix_shares(model), applied.anatomy)
    parts += [in_matrices] if in_matrices else []
    if applied.anatomy.new_modules and method.peft_config(applied.anatomy) is not None:
        parts.append(f"with {', '.join(applied.anatomy.new_modules)}, which starts at random or is the head")
    if method.chosen:
        parts.append(f"for this model {chosen_words(method)}")
    if new:
        parts.append(f"{len(new)} rows were added to the vocabulary and are saved")
    name = applied.base_name or "made from a configuration"
    logger.info("%s is on the script's %s (%s): %s.", method.name, _shown(model), name, "; ".join(parts))
    if not applied.base_name and method.category != "all weights":
        logger.warning(
            "This model was not loaded but made from a configuration: its frozen weights are random, and %s over "
            "them learns little. Use --method full to train it from scratch.",
            method.name,
        )


def _keep(model: Any, method: TuningMethod, known: Applied | None) -> str:
    if known is not None and known.method != method.settled(known.anatomy):
        raise MethodError(
            f"This model has {known.method.name} on it already ({known.method.changed_settings() or 'defaults'}), and "
            f"{method.name} was asked for.",
            fix="Use one method and one set of settings for a model, or load it afresh.",
        )
    return "kept"


def _refuse_unfit(model: Any) -> None:
    from transformers import PreTrainedModel

    if isinstance(model, PreTrainedModel):
        return
    compiled = getattr(model, "_orig_mod", None)
    if isinstance(compiled, PreTrainedModel):
        raise MethodError(
            f"The script compiles its {_shown(compiled)} before the Trainer gets it, and the method has to be on it "
            "first.",
            fix="Leave torch.compile out of the script and let Trainer do it: --torch_compile.",
        )
    inside = [module for module in model.modules() if isinstance(module, PreTrainedModel)] if _is_module(model) else []
    if inside:
        raise MethodError(
            f"The Trainer got a {_shown(model)} of the script's own around a {type(inside[0]).__name__}; what it saves "
            "is not an adapter, so hfplug does not touch it.",
            fix=f"Let the script put the method on the inner model: hfplug.apply_method(inner, ...), or hand the "
            f"{type(inside[0]).__name__} itself to the Trainer.",
        )
    raise MethodError(f"The Trainer got a {_shown(model)}, which is no transformers model.")


def _is_module(model: Any) -> bool:
    return isinstance(model, nn.Module)


def _shown(model: Any) -> str:
    return getattr(model, "__class__", type(model)).__name__


def _new_tokens(model: Any, note: LoadNote) -> tuple[int, ...]:
    rows = embedding_rows(model)
    return tuple(range(note.rows, rows)) if rows is not None and note.rows is not None and rows > note.rows else ()


def _quantize(model: Any, method: TuningMethod, kind: str, note: LoadNote, device: Any) -> None:
    recipe = method.quantization()
    if recipe is None:
        return
    try:
        replaced = quantize_loaded(model, recipe, keep=new_modules(model, kind, note.missing), device=device)
    except HfplugError:
        raise
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise MethodError(
            f"{method.name} could not bring this {_shown(model)} into 4 bits: {error}", fix="Use lora."
        ) from error
    logger.info("%d linear layers of the script's %s are held in 4 bits.", replaced, _shown(model))
