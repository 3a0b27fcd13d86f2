"""A script's Trainer with hfplug in it: its class becomes one that has ours just before ``Trainer``.

``class Mixed(ScriptsTrainer, PluggedTrainer)`` puts :class:`PluggedTrainer` between the script's own class, and what
it is derived from, and ``Trainer`` itself: whatever the script overrides still comes first, and reaches us when it
calls ``super()``.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import Trainer

from hfplug.errors import MismatchError, TrainingError
from hfplug.methods import TuningMethod
from hfplug.models.factory import applied_to
from hfplug.training.callbacks import adapter_callbacks
from hfplug.training.exporter import ExporterCallback
from hfplug.training.guard import advised_learning_rate
from hfplug.training.plug_exchange import is_plugged
from hfplug.training.plug_losses import NeftuneCallback, smoothed_loss
from hfplug.training.plug_model import plug_model
from hfplug.training.plug_network import NETWORK_FILE, load_network, prompt_network, save_network
from hfplug.training.plug_optimizer import leave_out_frozen, refill_optimizer, set_learning_rate
from hfplug.training.plug_push import push_settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done to a script's Trainers.

    Attributes:
        method: The method that is put on.
        learning_rate: ``"script"`` leaves the script's, ``"auto"`` replaces it by the method's.
        callbacks: Keywords for :func:`~hfplug.training.callbacks.adapter_callbacks`; None for no callbacks.
        before_training: Called with the Trainer before its first step: the preflight. None for nothing.
    """

    method: TuningMethod
    learning_rate: str = "script"
    callbacks: dict[str, Any] | None = field(default_factory=dict)
    before_training: Callable[[Any], None] | None = None


class PluggedTrainer(Trainer):
    """What is different about a plugged Trainer."""

    hfplug_plan: Plan
    hfplug_pushes: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(Trainer.__init__).bind_partial(self, *args, **kwargs)
        given = bound.arguments
        given.pop("self", None)
        if given.get("model_init") is not None:
            given["model_init"] = _plugging(given["model_init"], self)
        elif given.get("model") is not None and given.get("train_dataset") is not None:
            _plug(self, given["model"], given.get("args"))
        if getattr(given.get("args"), "push_to_hub", False):
            self.hfplug_pushes, given["args"] = push_settings(given["args"])
        super().__init__(**given)
        settle(self)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.train``, after the method is on the model and the preflight has passed."""
        if self.model_init is None and _plug(self, self.model, self.args) == "plugged":
            settle(self)  # a Trainer that was made to evaluate, and trains after all
        if self.optimizer is not None and applied_to(self.model) is not None:
            refill_optimizer(getattr(self.optimizer, "optimizer", self.optimizer), self.model)
        if self.hfplug_plan.before_training is not None:
            self.hfplug_plan.before_training(self)
        if applied_to(self.model) is not None:
            forget_evaluation(self)
        return super().train(*args, **kwargs)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """As ``Trainer.compute_loss``; label smoothing shifts or not by the base's class."""
        if self.label_smoother is None or self.compute_loss_func is not None or "labels" not in inputs:
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        if not (is_plugged(self.model) and self.model.active_peft_config.is_prompt_learning):
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        return smoothed_loss(self, model, inputs, return_outputs=return_outputs, **kwargs)

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Trainer.create_scheduler``; a ``create_optimizer`` of the script's own may have taken in everything."""
        if self.optimizer is not None and applied_to(self.model) is not None:
            leave_out_frozen(getattr(self.optimizer, "optimizer", self.optimizer))
        return super().create_scheduler(*args, **kwargs)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing where hfplug pushes: Trainer's own would send ``training_args.bin``, a pickle with the token."""
        if self.hfplug_pushes is None:
            return super().push_to_hub(*args, **kwargs)
        logger.info("trainer.push_to_hub() of the script is left out: hfplug pushes to %s.", self.hfplug_pushes)
        return None

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if is_plugged(self.model):
            save_network(self.model, Path(output_dir if output_dir is not None else self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: Any, model: Any = None) -> None:
        refuse_other_kind(resume_from_checkpoint, self.hfplug_plan.method, self.model)
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if is_plugged(self.model):
            load_network(self.model, Path(str(resume_from_checkpoint)))


# What reads a Trainer's signature finds Trainer's own.
PluggedTrainer.__init__.__signature__ = inspect.signature(Trainer.__init__)  # type: ignore[attr-defined]


@functools.cache
def plugged_class(trainer_class: type) -> type:
    """The class of a Trainer with hfplug in it.

    Args:
        trainer_class: ``Trainer`` or a class derived from it.
    """
    if issubclass(trainer_class, PluggedTrainer):
        return trainer_class
    bases = (PluggedTrainer,) if trainer_class is Trainer else (trainer_class, PluggedTrainer)
    namespace = {name: getattr(trainer_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(trainer_class.__name__, bases, namespace)


def settle(trainer: Any) -> None:
    """Give a Trainer that holds its model the callbacks, the optimiser and the learning rate that belong to it.

    Args:
        trainer: A plugged Trainer.
    """
    applied = applied_to(trainer.model)
    if applied is None:
        return
    plan: Plan = trainer.hfplug_plan
    has_ours = any(isinstance(callback, ExporterCallback) for callback in trainer.callback_handler.callbacks)
    if plan.callbacks is not None and not has_ours:
        settings = dict(plan.callbacks)
        if trainer.hfplug_pushes is not None:
            settings.setdefault("push_to", trainer.hfplug_pushes)
        for callback in adapter_callbacks(**settings):
            trainer.add_callback(callback)
            # Trainer has sent this event already.
            callback.on_init_end(
                trainer.args,
                trainer.state,
                trainer.control,
                model=trainer.model,
                processing_class=trainer.processing_class,
            )
    if trainer.optimizer is not None:
        refill_optimizer(getattr(trainer.optimizer, "optimizer", trainer.optimizer), trainer.model)
    is_soft = is_plugged(trainer.model) and trainer.model.active_peft_config.is_prompt_learning
    if trainer.neftune_noise_alpha is not None and is_soft:
        trainer.add_callback(NeftuneCallback(trainer.neftune_noise_alpha))
        trainer.neftune_noise_alpha = None
    if plan.learning_rate == "auto":
        advice = advised_learning_rate(trainer.model)
        logger.info(
            "learning_rate %g of the script is replaced by %g (%s).",
            trainer.args.learning_rate,
            advice.value,
            advice.source,
        )
        trainer.args.learning_rate = advice.value
        set_learning_rate(trainer.optimizer, trainer.lr_scheduler, advice.value)


def forget_evaluation(trainer: Any) -> None:
    """Have the model wrapped for several processes although it was evaluated before it trains.

    accelerate takes a model that was prepared for an evaluation for one that is prepared, and wraps it no more when it
    trains (1.15): each process would train an adapter of its own, without a word.

    Args:
        trainer: A plugged Trainer that is about to train.
    """
    accelerator = trainer.accelerator
    if trainer.args.world_size <= 1 or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return
    if trainer.model_wrapped is not trainer.model:
        return
    accelerator._models = [one for one in accelerator._models if one is not trainer.model]
    trainer.model.__dict__.pop("_is_accelerate_prepared", None)


def refuse_other_kind(checkpoint: Any, method: TuningMethod, model: Any) -> None:
    """Refuse to resume a fully tuned checkpoint with an adapter, or the other way round.

    Args:
        checkpoint: The folder to resume from.
        method: The method of this run.
        model: The Trainer's model.

    Raises:
        MismatchError: They are not of one kind.
    """
    folder = Path(str(checkpoint))
    has_adapter = (folder / "adapter_config.json").is_file()
    has_full = any(folder.glob("model*.safetensors")) or any(folder.glob("pytorch_model*.bin"))
    if is_plugged(model) and has_adapter and prompt_network(model) and not (folder / NETWORK_FILE).is_file():
        raise MismatchError(
            f"{method.name} computes its prompt by a network, which PEFT does not save: {str(folder)!r} holds what the "
            f"network gave, without {NETWORK_FILE}, and training cannot go on from that.",
            fix="Start afresh in another output folder.",
        )
    if is_plugged(model) and has_full and not has_adapter:
        raise MismatchError(
            f"{str(folder)!r} holds a fully tuned model, and this run is {method.name}.",
            fix="Resume with --method full, or start afresh in another output folder.",
        )
    if not is_plugged(model) and applied_to(model) is not None and has_adapter and not has_full:
        from hfplug.training.plug_settings import read_settings

        kind = (read_settings(folder) or {}).get("peft_type")
        raise MismatchError(
            f"{str(folder)!r} holds an adapter ({getattr(kind, 'value', kind)}), and this run is {method.name}.",
            fix="Resume with the method that it was made with, or start afresh in another output folder.",
        )


def plug_before(trainer: Any, given: dict[str, Any]) -> None:
    """Plug the model before the Trainer's outermost ``__init__`` has looked at it.

    Args:
        trainer: A Trainer whose ``__init__`` has not been called.
        given: What it will be called with, by name.
    """
    refuse_own_peft_config(given, trainer.hfplug_plan.method)
    model = given.get("model")
    if model is not None and not isinstance(model, str) and given.get("train_dataset") is not None:
        _plug(trainer, model, given.get("args"))


def refuse_own_peft_config(arguments: dict[str, Any], method: TuningMethod) -> None:
    """Refuse a script that hands a ``peft_config`` to its Trainer (TRL): two methods cannot be on one model.

    Raises:
        TrainingError: with what to leave out.
    """
    config = arguments.get("peft_config")
    if config is not None:
        raise TrainingError(
            f"The script passes a peft_config of its own ({type(config).__name__}) to its Trainer, and {method.name} "
            "was asked for: both cannot be on one model.",
            fix="Leave out the script's flag for it (--use_peft in TRL), or run the script without hfplug.",
        )


def _plug(trainer: Any, model: Any, args: Any) -> str:
    device = None
    if trainer.hfplug_plan.method.quantization() is not None and args is not None:
        device = args.device
    return plug_model(model, trainer.hfplug_plan.method, device=device)


def _plugging(model_init: Callable[..., Any], trainer: Any) -> Callable[..., Any]:
    """The script's ``model_init``, whose model has the method on it; with as many parameters as it had."""

    def finish(model: Any) -> Any:
        if model is not None:
            _plug(trainer, model, getattr(trainer, "args", None))
        return model

    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        one
        for one in inspect.signature(model_init).parameters.values()
        if one.kind in positional and (one.default is one.empty or not isinstance(model_init, functools.partial))
    ]
    if needed:
        return lambda trial: finish(model_init(trial))
    return lambda: finish(model_init())


def plug_existing(trainer: Any, plan: Plan) -> None:
    """Put hfplug into a Trainer that is there already.

    Args:
        trainer: A Trainer of any class that has not trained yet.
        plan: What to do.
    """
    trainer.hfplug_plan = plan
    if trainer.model_init is None:
        _plug(trainer, trainer.model, trainer.args)
    else:
        trainer.model_init = _plugging(trainer.model_init, trainer)
        _plug(trainer, trainer.model, trainer.args)
    if getattr(trainer.args, "push_to_hub", False):
        trainer.hfplug_pushes, trainer.args = push_settings(copy.copy(trainer.args))
    was: Any = type(trainer)
    trainer.__class__ = plugged_class(was)
    settle(trainer)
