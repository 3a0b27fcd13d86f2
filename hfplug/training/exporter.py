"""The exporter: from a Trainer's checkpoint to an adapter's folder, with record, lock and card."""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.files import WEIGHTS, refuse_foreign
from hfplug.adapters.lock import Lock, make_lock
from hfplug.adapters.probe import make_probe
from hfplug.adapters.safetensors_header import read_header
from hfplug.adapters.task import Task
from hfplug.adapters.tokenizers import is_the_bases_tokenizer
from hfplug.errors import AdapterError
from hfplug.models.factory import applied_to
from hfplug.models.quantize import describe_quantization
from hfplug.models.sharded import sharding_of, unwrapped, whole_adapter
from hfplug.training.meter import RunFigures
from hfplug.training.run_record import record_of

logger = logging.getLogger(__name__)


class ExporterCallback(TrainerCallback):
    """Leaves the best checkpoint, or the last, as an :class:`~hfplug.adapters.adapter_dir.AdapterDir`.

    Args:
        output: The folder of the adapter; None for ``<output_dir>/adapter``.
        task: What was taught; stored with the adapter.
        data: What it was taught with, for the record.
        figures: What the run cost, from the meter.
    """

    def __init__(
        self,
        output: str | Path | None = None,
        *,
        task: Task | None = None,
        data: Mapping[str, Any] | None = None,
        figures: RunFigures | None = None,
    ) -> None:
        self.output = Path(output) if output is not None else None
        self.task = task
        self.data = dict(data or {})
        self.figures = figures
        self.exported: AdapterDir | None = None
        self._lock: Lock | None = None

    @property
    def lock(self) -> Lock | None:
        """The lock of the model before its first step; None before training."""
        return self._lock

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        # The last moment at which a model that is going to be sharded is whole.
        if state.is_world_process_zero and model is not None and will_be_sharded(args) and not sharding_of(model):
            self._lock = lock_of(model, kwargs.get("processing_class"), task=self.task)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        refuse_foreign(self._target(args))
        if str(getattr(args.save_strategy, "value", args.save_strategy)) == "no":
            logger.warning(
                "save_strategy='no': nothing is on disk before training ends, and a run that is killed is lost. "
                "Pass save_strategy='epoch' or 'steps' to keep checkpoints."
            )
        # Before the first step: full fine-tuning changes the very weights whose fingerprint is taken.
        if not sharding_of(model):
            self._lock = lock_of(model, kwargs.get("processing_class"), task=self.task)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Empty tensors are found at the first checkpoint, and not in the morning.
        weights = Path(args.output_dir) / f"checkpoint-{state.global_step}" / WEIGHTS["peft"]
        if state.is_world_process_zero and weights.is_file():
            read_header(weights)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        chosen = chosen_checkpoint(args, state)
        restore_best(model, args, state, chosen)
        gathered = None
        if _is_peft(unwrapped(model)) and sharding_of(model) and adapter_source(unwrapped(model), chosen) is None:
            gathered = whole_adapter(model, _active_adapter(unwrapped(model)))  # every process takes part
        if state.is_world_process_zero:
            self._export(args, state, model, kwargs.get("processing_class"), chosen, gathered)
        _wait_for_everyone()

    def _target(self, args: Any) -> Path:
        return self.output if self.output is not None else Path(args.output_dir) / "adapter"

    def _export(
        self, args: Any, state: Any, model: Any, processing_class: Any, chosen: Path | None, gathered: Any = None
    ) -> None:
        kind, model = sharding_of(model), unwrapped(model)
        record = record_of(model, args, state, task=self.task, data=self.data, figures=self.figures, chosen=chosen)
        note: str | None
        if kind:  # a pass through a sharded model takes every process
            lock, note = self._lock, f"There is no probe of its answers: the model was sharded ({kind})."
        else:
            lock, note = with_probe(self._lock, model, processing_class, task=self.task)
        if note:
            record = dataclasses.replace(record, notes=(*record.notes, note))
        parts: dict[str, Any] = {"record": record, "lock": lock, "task": self.task}
        if _is_peft(model) and is_the_bases_tokenizer(processing_class, record.base, record.base_commit):
            parts["tokenizer_files"] = []
        with tempfile.TemporaryDirectory(prefix="hfplug-export-") as scratch:
            source = adapter_source(model, chosen)
            if source is None:
                source = Path(scratch)
                if gathered is not None:
                    save_gathered(model, gathered, source)
                elif kind:
                    logger.error("No checkpoint holds the sharded model, so nothing is exported.")
                    return
                else:
                    save_to(model, source)
            self.exported = AdapterDir.write(self._target(args), source=source, **parts)
        logger.info("Adapter written to %s", self.exported.path)


def chosen_checkpoint(args: Any, state: Any) -> Path | None:
    """The checkpoint that holds what training ended with, or None if there is none.

    Args:
        args: ``TrainingArguments``.
        state: ``TrainerState`` at the end of training.

    Returns:
        The best checkpoint under ``load_best_model_at_end``, else that of the last step, if they are there.
    """
    if args.load_best_model_at_end and state.best_model_checkpoint:
        best = Path(state.best_model_checkpoint)
        return best if best.is_dir() else None
    last = Path(args.output_dir) / f"checkpoint-{state.global_step}"
    return last if last.is_dir() else None


def adapter_source(model: nn.Module, checkpoint: Path | None) -> Path | None:
    """The folder inside a checkpoint that holds the weights of the active adapter, or of the full model.

    Args:
        model: The model as ``Trainer`` holds it.
        checkpoint: A checkpoint folder, or None.

    Returns:
        The folder, or None if the weights are not there. PEFT saves an adapter that is not called "default"
        in a folder of its own name.
    """
    if checkpoint is None:
        return None
    if not _is_peft(model):
        return checkpoint if (checkpoint / "config.json").is_file() else None
    name = _active_adapter(model)
    folder = checkpoint if name == "default" else checkpoint / name
    return folder if (folder / "adapter_config.json").is_file() else None


def save_to(model: nn.Module, folder: Path) -> None:
    """Write what is in memory: the active adapter without a name of its own, or the full model.

    Args:
        model: The model as ``Trainer`` holds it.
        folder: An empty folder; the files are directly in it afterwards.
    """
    if not _is_peft(model):
        model.save_pretrained(folder)  # type: ignore[operator]
        return
    name = _active_adapter(model)
    model.save_pretrained(folder, selected_adapters=[name])  # type: ignore[operator]
    if name != "default":
        for file in (folder / name).iterdir():
            file.rename(folder / file.name)
        (folder / name).rmdir()


def save_gathered(model: Any, tensors: Mapping[str, Any], folder: Path) -> None:
    """Write an adapter whose tensors were gathered from all processes.

    Args:
        model: The ``PeftModel``; only its configuration is read.
        tensors: From :func:`~hfplug.models.sharded.whole_adapter`.
        folder: An empty folder.
    """
    from safetensors.torch import save_file

    config = copy.copy(model.peft_config[_active_adapter(model)])
    config.inference_mode = True
    config.base_model_name_or_path = config.base_model_name_or_path or getattr(model.config, "_name_or_path", None)
    config.save_pretrained(str(folder))
    save_file({name: one.contiguous() for name, one in tensors.items()}, folder / WEIGHTS["peft"], {"format": "pt"})


def restore_best(model: nn.Module, args: Any, state: Any, chosen: Path | None) -> None:
    """Put the best weights into a named adapter, which Trainer leaves at the last ones without a word.

    Args:
        model: The model as ``Trainer`` holds it.
        args: ``TrainingArguments``.
        state: ``TrainerState``.
        chosen: From :func:`chosen_checkpoint`.
    """
    if not (args.load_best_model_at_end and _is_peft(model)):
        return
    name = _active_adapter(model)
    source = adapter_source(model, chosen)
    if name == "default" or source is None:
        return
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(source / "adapter_model.safetensors"), adapter_name=name)


def lock_of(model: nn.Module, tokenizer: Any, *, task: Task | None) -> Lock:
    """The lock of a model that is about to be trained."""
    applied = applied_to(model)
    name = applied.base_name if applied else getattr(_base_of(model), "name_or_path", "")
    commit = applied.base_commit if applied else getattr(model.config, "_commit_hash", None)
    return make_lock(
        model,
        tokenizer,
        base_name=name or None,
        base_commit=commit,
        task=task,
        quantization=describe_quantization(_base_of(model)),
        loaded_for=applied.anatomy.loaded_for if applied else None,
    )


def with_probe(
    lock: Lock | None, model: nn.Module, tokenizer: Any, *, task: Task | None
) -> tuple[Lock | None, str | None]:
    """The lock with a probe of the finished model; without one, and a note why, if the model cannot be asked.

    Args:
        lock: Of the model as it was before the first step.
        model: As ``Trainer`` holds it, with the weights that are exported. It is left as it was.
        tokenizer: What the Trainer was given as ``processing_class``.
        task: What was taught.
    """
    if lock is None:
        return None, None
    try:
        return dataclasses.replace(lock, probe=make_probe(model, tokenizer, task=task)), None
    except Exception as error:  # whatever a model of somebody's does: hours of training matter more than a probe
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        logger.warning("The adapter is exported without a probe of its answers: %s", reason)
        return lock, f"There is no probe of its answers: {reason}"


def will_be_sharded(args: Any) -> bool:
    """Whether Trainer is going to spread the model over processes, by its arguments or accelerate's environment.

    Args:
        args: ``TrainingArguments``.
    """
    return bool(getattr(args, "deepspeed", None) or getattr(args, "fsdp", None)) or any(
        os.environ.get(name, "").lower() == "true" for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    )


def _is_peft(model: nn.Module) -> bool:
    from peft import PeftModel

    return isinstance(model, PeftModel)


def _active_adapter(model: Any) -> str:
    name = model.active_adapter
    if isinstance(name, str):
        return name
    if len(name) != 1:
        raise AdapterError(
            f"{len(name)} adapters are active at once ({', '.join(name)}); one folder holds one adapter.",
            fix="Call model.set_adapter('name') before the training ends.",
        )
    return name[0]


def _base_of(model: Any) -> Any:
    return model.get_base_model() if _is_peft(model) else model


def _wait_for_everyone() -> None:
    from accelerate import PartialState

    PartialState().wait_for_everyone()
