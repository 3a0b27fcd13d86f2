"""The guard: stops before the first step if the wrong weights would train."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import TrainerCallback

from hfplug.errors import TrainingError
from hfplug.methods import LearningRate
from hfplug.models.factory import applied_to
from hfplug.models.sharded import sharding_of, unwrapped

logger = logging.getLogger(__name__)


class GuardCallback(TrainerCallback):
    """Checks what would train at the start, and at the first backward pass what gets a gradient."""

    def __init__(self) -> None:
        self._gradients_checked = False

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._gradients_checked = False
        kind = sharding_of(model)
        refuse_sharded_prompt(unwrapped(model), kind)
        if not kind:  # PEFT reads whole tensors
            check_trainable(model)
        if not _is_sharded(args):
            check_optimizer(model, kwargs.get("optimizer"))
        applied = applied_to(model)
        if applied is not None:
            applied.method.check_arguments(args)
        warning = learning_rate_warning(model, args.learning_rate)
        if warning and state.is_world_process_zero:
            logger.warning(warning)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self._gradients_checked or _is_sharded(args):
            return
        self._gradients_checked = True
        check_gradients(model)


def check_trainable(model: nn.Module) -> None:
    """Refuse a model of which nothing would train, or of which weights would train that are never saved.

    Args:
        model: The model as ``Trainer`` holds it.

    Raises:
        TrainingError: naming the tensors.
    """
    trainable = dict(_trainable(model))
    if not trainable:
        raise TrainingError(
            "Nothing would train: every parameter of this model is frozen.",
            fix="Put a method on it before Trainer is made: model = hfplug.apply_method(model, 'lora').",
        )
    if not _is_peft(model):
        return
    unsaved = _not_saved(model, trainable)
    if unsaved:
        raise TrainingError(
            f"{len(unsaved)} tensors of the base would train but would not be saved with the adapter: "
            f"{_some(unsaved)}.",
            fix="Freeze them with requires_grad_(False), or train them as a part of the adapter "
            "(modules_to_save), or choose method 'full'.",
        )


def refuse_sharded_prompt(model: nn.Module, kind: str) -> None:
    """Refuse a soft prompt or prefix under FSDP: PEFT computes what it saves from one process's part, and fails.

    Args:
        model: The model as ``Trainer`` holds it.
        kind: How it is, or will be, sharded: ``"FSDP"``, ``"FSDP2"``, anything else.

    Raises:
        TrainingError: It has one.
    """
    if kind.startswith("FSDP") and _is_peft(model) and model.active_peft_config.is_prompt_learning:  # type: ignore[union-attr]
        raise TrainingError(
            f"A soft prompt or prefix cannot be saved under {kind}: PEFT (0.21) computes it from one process's part.",
            fix="Train it on several processes without FSDP, or use lora.",
        )


def check_optimizer(model: nn.Module, optimizer: Any) -> None:
    """Refuse an optimiser that does not hold what is to be trained.

    That happens when a script builds its optimiser before the method is put on: it then steps over weights that
    get no gradient, and the adapter stays as it was.

    Args:
        model: The model as ``Trainer`` holds it.
        optimizer: The optimiser, or accelerate's wrapper of one; None is accepted.

    Raises:
        TrainingError: naming the tensors.
    """
    if optimizer is None:
        return
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    left_out = [name for name, parameter in _trainable(model) if id(parameter) not in held]
    if left_out:
        raise TrainingError(
            f"The optimizer does not hold {len(left_out)} of the tensors that should train: {_some(left_out)}.",
            fix="Build the optimizer after apply_method, or let Trainer build it.",
        )


def check_gradients(model: nn.Module) -> None:
    """Refuse a trainable tensor that got no gradient in the backward pass just done.

    Under full fine-tuning a part that the task does not use (a pooler, say) is common, and only a warning.

    Args:
        model: The model as ``Trainer`` holds it.

    Raises:
        TrainingError: naming the tensors.
    """
    without = [name for name, parameter in _trainable(model) if parameter.grad is None]
    if not without:
        return
    some_have = any(parameter.grad is not None for _, parameter in _trainable(model))
    if some_have and not _is_peft(model):
        logger.warning("%d trainable tensors got no gradient: %s", len(without), _some(without))
        return
    raise TrainingError(
        f"{len(without)} trainable tensors got no gradient in the first backward pass: {_some(without)}.",
        fix="They sit in layers that this input does not run through, or gradient checkpointing cut the graph: "
        "leave those layers out of target_modules, or pass gradient_checkpointing_kwargs={'use_reentrant': False}.",
    )


def advised_learning_rate(model: nn.Module) -> LearningRate:
    """The learning rate that suits the method on a model of this size, with its range and source.

    Args:
        model: A model that hfplug put a method on.

    Returns:
        For AdamW: ``value`` to use, ``low`` and ``high`` beyond which the guard warns, ``source``.

    Raises:
        TrainingError: hfplug did not put a method on this model.
    """
    applied = applied_to(model)
    if applied is None:
        raise TrainingError(
            f"hfplug put no method on this {type(model).__name__}, so there is no learning rate to advise.",
            fix="Pass what build_model, apply_method or load_adapter returned.",
        )
    return applied.method.learning_rate(applied.anatomy)


def learning_rate_warning(model: nn.Module, learning_rate: float) -> str | None:
    """What is wrong with a learning rate for the method on this model, or None.

    Args:
        model: A model that hfplug put a method on; for any other there is no advice.
        learning_rate: Of AdamW.
    """
    applied = applied_to(model)
    if applied is None:
        return None
    advice = advised_learning_rate(model)
    if advice.low <= learning_rate <= advice.high:
        return None
    word = "low" if learning_rate < advice.low else "high"
    return (
        f"learning_rate={learning_rate:g} is {word} for {applied.method.name} on a model of "
        f"{applied.anatomy.parameters / 1e6:,.0f} million parameters; use learning_rate={advice.value:g} "
        f"({advice.source})."
    )


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _is_peft(model: nn.Module) -> bool:
    from peft import PeftModel

    return isinstance(model, PeftModel)


def _not_saved(model: Any, trainable: dict[str, nn.Parameter]) -> list[str]:
    """The trainable parameters that share no memory with anything that PEFT would save."""
    from peft import get_peft_model_state_dict

    saved: set[int] = set()
    for adapter in model.active_adapters if hasattr(model, "active_adapters") else [model.active_adapter]:
        # Without embeddings: PEFT's "auto" asks the Hub whether the vocabulary was resized.
        state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
        saved |= {tensor.data_ptr() for tensor in state.values()}
    # A soft prompt is saved as computed from its encoder, and a LoRA matrix of two parts as a whole, so they share no
    # memory with it.
    parts = {name for name, module in model.named_modules() if getattr(module, "saved_as_a_whole", False)}
    return [
        name
        for name, parameter in trainable.items()
        if parameter.data_ptr() not in saved
        and ".prompt_encoder." not in f".{name}"
        and name.rpartition(".")[0] not in parts
    ]


def _is_sharded(args: Any) -> bool:
    return bool(getattr(args, "deepspeed", None)) or bool(getattr(args, "fsdp", None)) or _accelerate_shards()


def _accelerate_shards() -> bool:
    from accelerate.state import AcceleratorState

    if not AcceleratorState._shared_state:
        return False
    return str(AcceleratorState().distributed_type).rpartition(".")[2] in {"FSDP", "DEEPSPEED", "MEGATRON_LM"}


def _some(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
