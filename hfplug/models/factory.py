"""The model factory: ``build_model`` (id and method to model), ``apply_method`` (loaded model and method to model)."""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from hfplug.errors import BaseModelError, HfplugError, MethodError
from hfplug.methods import Quantization, TuningMethod, resolve_method
from hfplug.methods.defaults import chosen_words
from hfplug.methods.tuners.names import calling_peft
from hfplug.models import hardware
from hfplug.models.anatomy import Anatomy, new_modules, read_anatomy
from hfplug.models.base import (
    Base,
    auto_class,
    pinned_name,
    read_task_type,
    resolve_base,
    task_type_of,
    tokenizer_source,
)
from hfplug.models.matrix_shares import matrix_shares, share_words
from hfplug.models.placeholders import see_to_input, showing_table
from hfplug.models.quantize import bitsandbytes_config, layers_to_keep, settle_four_bit_layers
from hfplug.models.tryout import try_out
from hfplug.models.untrained import keep_untrained
from hfplug.models.vocabulary import added_rows, save_rows_alone, train_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What hfplug knows of a model that it put a method on.

    Attributes:
        method: The method.
        anatomy: The anatomy of the model as it was before.
        base_name: Repo id or folder of the base; empty for a model made from a configuration.
        base_commit: The commit of the base, or None.
    """

    method: TuningMethod
    anatomy: Anatomy
    base_name: str
    base_commit: str | None


# Beside the models and not on them: a model belongs to the user, and full fine-tuning returns theirs.
_APPLIED: weakref.WeakKeyDictionary[nn.Module, Applied] = weakref.WeakKeyDictionary()


def applied_to(model: nn.Module) -> Applied | None:
    """What hfplug put on a model, or None if it did not."""
    return _APPLIED.get(model)


def remember(model: nn.Module, applied: Applied) -> None:
    """Note what is on a model, for :func:`applied_to`; forgotten when the model is freed."""
    _APPLIED[model] = applied


def build_model(
    base: str | Path,
    method: str | TuningMethod = "lora",
    *,
    task_type: str | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    num_labels: int | None = None,
    trust_remote_code: bool = False,
    **settings: Any,
) -> nn.Module:
    """Load a base and put a tuning method on it.

    Args:
        base: Repo id or folder.
        method: Name of a method, or a method object.
        task_type: ``"seq2seq"``, ``"causal"`` or ``"classification"``; read from the config if None.
        revision: Branch, tag or commit of the base; the commit that it stands for now is pinned.
        dtype: dtype of the weights; ``"auto"`` is that of the checkpoint, or float32 where the method
            trains the base's own weights or this machine is slow in that of the checkpoint.
        device_map: As for ``from_pretrained``.
        num_labels: Number of classes of a new classification head.
        trust_remote_code: Run modelling code from the repo.
        **settings: Settings of the method, e.g. ``r=8``.

    Returns:
        A ``PeftModel`` (or, for ``full``, a transformers model), ready for ``Trainer``.

    Raises:
        MethodError: for an unknown method or one that does not fit the model.
        SettingError: for an unknown, foreign or impossible setting.
        BaseModelError: if the base cannot be found or read.
        MissingExtraError: if the method needs an optional package.
    """
    chosen = resolve_method(method, settings)
    found = resolve_base(base, revision=revision, trust_remote_code=trust_remote_code, num_labels=num_labels)
    kind = read_task_type(found.config, task_type)
    chosen.check_task_type(kind)
    model, missing = load_base(found, kind, chosen, dtype=dtype, device_map=device_map)
    return _apply(model, chosen, kind, missing_keys=missing, base_name=found.name, base_commit=found.commit)


def apply_method(
    model: nn.Module,
    method: str | TuningMethod = "lora",
    *,
    task_type: str | None = None,
    missing_keys: Iterable[str] = (),
    new_tokens: Iterable[int] = (),
    **settings: Any,
) -> nn.Module:
    """Put a tuning method on a loaded model.

    PEFT puts its layers into ``model`` itself, so use the returned model from here on. Nothing else of the
    model is changed, and no copy of its weights is made.

    Args:
        model: A transformers model.
        method: Name of a method, or a method object.
        task_type: As for :func:`build_model`; read from the model's class if None.
        missing_keys: Parameters that the checkpoint did not hold, as ``from_pretrained(output_loading_info=True)``
            tells: their modules start at random, and are trained and saved with the adapter.
        new_tokens: Rows of the embedding that were added after loading; found by the base's configuration if it is on
            this machine. They are trained and saved with the adapter where the method can (lora, dora, qlora,
            embeddings); else PEFT saves the whole embedding, and the log says how large it is.
        **settings: Settings of the method.

    Returns:
        A ``PeftModel``, or ``model`` itself for ``full``.

    Raises:
        MethodError: if the model has an adapter already, is not a transformers model, is not held in 4 bits
            when the method needs that, or does not fit the method.
        SettingError: for an unknown, foreign or impossible setting.
    """
    chosen = resolve_method(method, settings)
    _check_can_take(model, chosen)
    kind = read_task_type(model.config, task_type) if task_type is not None else task_type_of(model)
    chosen.check_task_type(kind)
    name = pinned_name(getattr(model, "name_or_path", "") or "")
    commit = getattr(model.config, "_commit_hash", None)
    return _apply(
        model,
        chosen,
        kind,
        missing_keys=tuple(missing_keys),
        new_tokens=tuple(new_tokens) or added_rows(model, name, commit),
        base_name=name,
        base_commit=commit,
    )


def load_base(
    base: Base,
    task_type: str,
    method: TuningMethod,
    *,
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    token: str | None = None,
    offline: Literal["auto", "on"] = "auto",
    quantization: Quantization | None = None,
) -> tuple[nn.Module, tuple[str, ...]]:
    """Load the weights of a base as a method wants them.

    Args:
        base: A base from :func:`~hfplug.models.base.resolve_base`.
        task_type: PEFT's name of the task type.
        method: The method that will be put on it.
        dtype: As for :func:`build_model`.
        device_map: As for ``from_pretrained``.
        token: Access token for a private or gated base.
        offline: ``"on"`` asks no Hub: the cache only.
        quantization: How to store the base where that is not the method's own choice.

    Returns:
        The model, and the names of the parameters that the checkpoint did not hold.

    Raises:
        BaseModelError: if the weights cannot be read.
    """
    kwargs: dict[str, Any] = {
        "config": base.config,
        "revision": base.revision or "main",
        "trust_remote_code": base.trust_remote_code,
        "dtype": choose_dtype(base, method, dtype),
        # An adapter names its base, so the base is a stranger's too: never a pickle.
        "use_safetensors": True,
    }
    recipe = quantization or method.quantization()
    if device_map is not None:
        kwargs["device_map"] = device_map
    if token is not None:
        kwargs["token"] = token
    if offline == "on":
        kwargs["local_files_only"] = True
    if recipe is not None:
        kwargs["quantization_config"] = bitsandbytes_config(
            recipe,
            model_type=base.config.model_type,
            skip_modules=_modules_to_keep(base, task_type, kwargs),
            needed_for=f"method {method.name!r}",
        )
    model, missing = _from_pretrained(base, task_type, kwargs)
    settle_four_bit_layers(model)
    return model, missing


def _from_pretrained(base: Base, task_type: str, kwargs: dict[str, Any]) -> tuple[nn.Module, tuple[str, ...]]:
    named = getattr(base.config, "transformers_weights", None)
    if named is not None and not str(named).endswith((".safetensors", ".safetensors.index.json")):
        # transformers lets a configuration name the file, and a pickle called adapter_model.bin pass.
        raise _only_a_pickle(base.name, f"its configuration names {named!r}")
    if base.new_head:
        # The user asked for a head of another size; the one in the checkpoint cannot be meant.
        kwargs = {**kwargs, "ignore_mismatched_sizes": True}
    try:
        model, info = auto_class(task_type, base.config).from_pretrained(base.name, output_loading_info=True, **kwargs)  # type: ignore[attr-defined]
    except (OSError, ValueError, RuntimeError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if re.search(r"(no|have a) file named model\.safetensors", first_line):
            raise _only_a_pickle(base.name, "there is no model.safetensors") from error
        raise BaseModelError(
            f"The base {base.name!r} cannot be loaded as a {task_type} model: {first_line}",
            fix="Check that its folder is complete, or pass another task_type.",
        ) from error
    mismatched = (key if isinstance(key, str) else key[0] for key in info.get("mismatched_keys", ()))
    return model, tuple(sorted({*info["missing_keys"], *mismatched}))


def _only_a_pickle(name: str, why: str) -> BaseModelError:
    return BaseModelError(
        f"The base {name!r} holds no weights as safetensors ({why}); a .bin file is a pickle, which can run code when"
        " it is read, and is never read here.",
        fix="If you trust it, convert it: model = AutoModel.from_pretrained(base) of transformers with the class that"
        " it is for, then model.save_pretrained(folder), and pass that folder as the base;"
        " https://huggingface.co/spaces/safetensors/convert does it for a repo.",
    )


def _modules_to_keep(base: Base, task_type: str, kwargs: dict[str, Any]) -> list[str]:
    """Modules that 4 bits would ruin, found on the ``meta`` device, before a weight is read."""
    on_meta = {key: value for key, value in kwargs.items() if key != "device_map"}
    model, missing = _from_pretrained(base, task_type, {**on_meta, "device_map": "meta"})
    return layers_to_keep(model, new_modules(model, task_type, missing))


def choose_dtype(base: Base, method: TuningMethod, dtype: str | torch.dtype) -> torch.dtype:
    """The dtype in which :func:`build_model` holds the weights of a base for a method.

    Raises:
        BaseModelError: ``dtype`` is none that weights can be held in.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype != "auto":
        named = getattr(torch, dtype, None)
        if not isinstance(named, torch.dtype) or not named.is_floating_point:
            raise BaseModelError(f"dtype must be auto, float32, bfloat16 or float16, not {dtype!r}.")
        return named
    stored = getattr(base.config, "dtype", None) or torch.float32
    if isinstance(stored, str):
        stored = getattr(torch, stored.removeprefix("torch."))
    wanted = method.base_dtype(str(stored).removeprefix("torch."))
    return hardware.load_dtype(getattr(torch, wanted), base.config.model_type)


def _check_can_take(model: nn.Module, method: TuningMethod) -> None:
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import PreTrainedModel

    if isinstance(model, PeftModel) or any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise MethodError(
            f"This model has an adapter already, so {method.name} was not put on it.",
            fix="Pass the plain base, or call model.unload() (LoRA) first.",
        )
    if not isinstance(model, PreTrainedModel):
        raise MethodError(
            f"apply_method needs a transformers model, not a {type(model).__name__}.",
            fix="Pass the transformers model itself, before it is wrapped in anything.",
        )
    quantised = getattr(model, "is_quantized", False)
    if method.quantization() is not None and not quantised:
        raise MethodError(
            f"{method.name} needs a base that was loaded in 4 bits, and this one is in {model.dtype}.",
            fix=f"Use hfplug.build_model({model.name_or_path or 'base'!r}, {method.name!r}), which loads it so.",
        )
    if quantised and method.category == "all weights":
        raise MethodError(
            f"{method.name} trains the base's own weights, and 4-bit weights cannot be trained.",
            fix="Use qlora, or load the base without a quantization_config.",
        )


def _apply(
    model: nn.Module,
    method: TuningMethod,
    task_type: str,
    *,
    missing_keys: tuple[str, ...],
    base_name: str,
    base_commit: str | None,
    new_tokens: tuple[int, ...] = (),
) -> nn.Module:
    anatomy = read_anatomy(
        model,
        task_type,
        missing_keys=missing_keys,
        tokenizer_source=tokenizer_source(base_name, base_commit),
        revision=base_commit,
    )
    method = method.settled(anatomy)
    config = method.peft_config(anatomy)
    if config is None:
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        tuned = model
    else:
        alone = bool(new_tokens) and train_rows(config, model, new_tokens, method.name)
        tuned = _wrap(model, config, method, anatomy)
        if alone:
            save_rows_alone(tuned)
        if base_name:
            tuned.active_peft_config.base_model_name_or_path = base_name
    remember(tuned, Applied(method=method, anatomy=anatomy, base_name=base_name, base_commit=base_commit))
    if logger.isEnabledFor(logging.INFO):
        chosen = chosen_words(method)
        said = [method.summary, share_words(matrix_shares(tuned), anatomy), chosen and f"for this model {chosen}"]
        logger.info("%s: %s", method.name, "; ".join(part for part in said if part))
    return tuned


def _wrap(model: nn.Module, config: Any, method: TuningMethod, anatomy: Anatomy) -> nn.Module:
    from peft import get_peft_model, prepare_model_for_kbit_training

    from hfplug.methods.tuners.layers import let_unload

    if getattr(model, "is_quantized", False):
        # Norms to float32 and all frozen; checkpointing stays the Trainer's choice.
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        settle_four_bit_layers(model)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        with calling_peft():
            with showing_table(model, method):
                tuned: Any = get_peft_model(model, config, revision=anatomy.revision)  # type: ignore[arg-type]
            see_to_input(tuned, method, anatomy)
            tuned = method.finish(tuned)
            keep_untrained(tuned)
            let_unload(tuned)
        if method.tried_out == "on":
            try_out(tuned, method)
        return tuned
    except HfplugError:
        _take_off(model, before)
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OSError) as error:
        raise MethodError(
            f"PEFT cannot put {method.name} on this {model.config.model_type} model: {error}",  # type: ignore[union-attr]
            fix="Try another method, or name the layers with target_modules.",
        ) from error


def _take_off(model: nn.Module, before: dict[str, bool]) -> None:
    """Give the user's model back as it came, after a method that does not work on it."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for name, module in list(model.named_modules()):
        holder, _, last = name.rpartition(".")
        if isinstance(module, AuxiliaryTrainingWrapper):
            setattr(model.get_submodule(holder), last, module.original_module)
        elif isinstance(module, BaseTunerLayer):
            setattr(model.get_submodule(holder), last, module.get_base_layer())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(before.get(name, parameter.requires_grad))
    if hasattr(model, "peft_config"):
        del model.peft_config
