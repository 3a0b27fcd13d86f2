"""``plug``: hfplug in a notebook or a script, on a Trainer or a model that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from hfplug.errors import TrainingError
from hfplug.methods import TuningMethod, resolve_method
from hfplug.training.plug_model import plug_model
from hfplug.training.plug_trainer import Plan, plug_existing

Plugged = TypeVar("Plugged")


def plug(
    trainer_or_model: Plugged,
    method: str | TuningMethod = "lora",
    *,
    learning_rate: str = "script",
    output: str | Path | None = None,
    push_to: str | None = None,
    push: dict[str, Any] | None = None,
    **settings: Any,
) -> Plugged:
    """Put a tuning method on a Trainer, or on a model, that is there already.

    The very object is changed: every variable that holds the model holds the tuned model afterwards, and the Trainer
    gets the callbacks of :func:`hfplug.adapter_callbacks`.

    Args:
        trainer_or_model: A ``Trainer`` of any class that has not trained yet, or a transformers model.
        method: Name of a method, or a method object.
        learning_rate: ``"script"`` leaves the Trainer's, ``"auto"`` replaces it by the one advised for the method.
        output: Folder of the adapter; ``<output_dir>/adapter`` if None.
        push_to: ``"owner/name"`` on the Hub to push to while training.
        push: Further keywords for the push, as for :func:`hfplug.adapter_callbacks`.
        **settings: Settings of the method, e.g. ``r=8``.

    Returns:
        The same object.

    Raises:
        TrainingError: A choice is not one of those, or it is a model and a Trainer is needed.
        MethodError: The method is unknown or does not fit.
    """
    from transformers import Trainer

    if learning_rate not in ("script", "auto"):
        raise TrainingError(f"learning_rate must be script or auto, not {learning_rate!r}.")
    chosen = resolve_method(method, settings)
    if isinstance(trainer_or_model, Trainer):
        callbacks = {"output": output, "push_to": push_to, **(push or {})}
        plug_existing(trainer_or_model, Plan(method=chosen, learning_rate=learning_rate, callbacks=callbacks))
        return trainer_or_model
    if output is not None or push_to is not None or push or learning_rate != "script":
        raise TrainingError(
            "output, push_to, push and learning_rate belong to a Trainer, and this is a model.",
            fix="Pass the Trainer: hfplug.plug(trainer, method=...).",
        )
    plug_model(trainer_or_model, chosen)
    return trainer_or_model
