"""The meter: peak memory by its parts, seconds and tokens a second, real and padding tokens apart."""

from __future__ import annotations

import dataclasses
import gc
import json
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import DefaultFlowCallback, TrainerCallback

from hfplug.adapters.atomic import write_json
from hfplug.models.memory import gradient_bytes, optimizer_bytes, weight_bytes, weight_tensors
from hfplug.models.tensor_memory import TensorMemory
from hfplug.training.collate import token_counts

WARMUP_STEPS = 3
FIGURES_FILE = "hfplug_figures.json"


@dataclass
class RunFigures:
    """What one training run cost. Handed from the meter to whoever writes it down.

    Attributes:
        weights: Bytes of weights, buffers and quantisation constants.
        gradients: Bytes of gradients before the optimiser step, the largest seen.
        optimizer_states: Bytes of the optimiser's states.
        peak_training_bytes: The most that tensors held at once; None before it was measured.
        predicted_peak_bytes: What the memory plan predicted of it, where somebody asked the plan before the run.
        process_peak_bytes: Peak resident size of the process, interpreter and libraries included.
        step_seconds: Seconds of each timed step: forward, backward and optimiser, without data loading.
        real_tokens: Tokens of inputs and labels in the timed steps, padding left out.
        padding_tokens: Padding in the timed steps.
        steps: Steps done in all.
        warmup_steps_skipped: Steps left out of the timing: the first ones, and those whose memory was followed.
        processes: Where several processes train: the figures of each, in the order of their ranks.
    """

    weights: int = 0
    gradients: int = 0
    optimizer_states: int = 0
    peak_training_bytes: int | None = None
    predicted_peak_bytes: int | None = None
    process_peak_bytes: int | None = None
    step_seconds: list[float] = field(default_factory=list)
    real_tokens: int = 0
    padding_tokens: int = 0
    steps: int = 0
    warmup_steps_skipped: int = 0
    processes: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RunFigures:
        """The figures that ``dataclasses.asdict`` described."""
        made = cls()
        made.restore(values)
        return made

    @property
    def seconds_per_step(self) -> float | None:
        """Median seconds of the timed steps."""
        return statistics.median(self.step_seconds) if self.step_seconds else None

    @property
    def real_tokens_per_second(self) -> float | None:
        """Real tokens of the timed steps by the seconds of those steps."""
        seconds = sum(self.step_seconds)
        return self.real_tokens / seconds if seconds else None

    @property
    def padding_share(self) -> float | None:
        """Padding by all tokens, between 0 and 1."""
        tokens = self.real_tokens + self.padding_tokens
        return self.padding_tokens / tokens if tokens else None

    @property
    def training_memory(self) -> dict[str, int] | None:
        """The peak by its parts, in bytes; ``rest`` is activations and temporary buffers."""
        if self.peak_training_bytes is None:
            return None
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer_states": self.optimizer_states,
        }
        return {**parts, "rest": self.peak_training_bytes - sum(parts.values())}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Go on from figures that were written down.

        Args:
            values: From ``dataclasses.asdict``; names that this version does not know are left out.
        """
        for item in dataclasses.fields(self):
            if item.name in values:
                setattr(self, item.name, values[item.name])

    def log_entry(self) -> dict[str, float]:
        """The figures under the names by which they go into Trainer's log; what is unknown is left out."""
        entries = {
            "seconds_per_step": self.seconds_per_step,
            "real_tokens_per_second": self.real_tokens_per_second,
            "padding_share": self.padding_share,
            "peak_training_bytes": self.peak_training_bytes,
        }
        memory = {f"memory_{name}_bytes": value for name, value in (self.training_memory or {}).items()}
        return {name: float(f"{value:.6g}") for name, value in {**entries, **memory}.items() if value is not None}


class MeterCallback(TrainerCallback):
    """Measures a run from inside, without a Trainer.

    Tokens are counted by a hook on the model, which is taken off again. On a CPU the tensors of a step are
    followed whenever its batch is larger than every one before, so that the peak is that of the largest batch.

    Args:
        figures: Where the figures go.
    """

    def __init__(self, figures: RunFigures | None = None) -> None:
        self.figures = figures if figures is not None else RunFigures()
        self._hook: Any = None
        self._memory: TensorMemory | None = None
        self._largest = 0
        self._tokens = (0, 0)
        self._started = 0.0
        self._followed = False
        self._forward_peak = 0
        self._optimizer: Any = None
        self._states_before = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._remove_hook()
        self._optimizer = kwargs.get("optimizer")
        self.figures.weights = weight_bytes(model)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._hook = model.register_forward_pre_hook(self._before_forward, with_kwargs=True)

        if state.is_world_process_zero and state.global_step > 0:
            resumed = Path(args.output_dir) / f"checkpoint-{state.global_step}" / FIGURES_FILE
            if resumed.is_file():
                self.figures.restore(json.loads(resumed.read_text(encoding="utf-8")))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A run that is killed and goes on keeps what was measured before.
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and checkpoint.is_dir():
            write_json(checkpoint / FIGURES_FILE, dataclasses.asdict(self.figures))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tokens = (0, 0)
        self._followed = False
        self._started = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.figures.gradients = max(self.figures.gradients, gradient_bytes(model))
        if self._memory is not None:
            self._forward_peak = self._memory.peak
            self._states_before = optimizer_bytes(self._optimizer)
            self._memory.restart_peak()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        elapsed = time.perf_counter() - self._started
        figures = self.figures
        figures.steps += 1
        figures.optimizer_states = optimizer_bytes(self._optimizer)
        self._read_peak()
        if self._followed or figures.steps <= WARMUP_STEPS:
            figures.warmup_steps_skipped += 1
            return
        figures.step_seconds.append(elapsed)
        figures.real_tokens += self._tokens[0]
        figures.padding_tokens += self._tokens[1]

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        entry = self.figures.log_entry()
        if not entry:
            return
        logs.update(entry)  # for the callbacks after this one
        if state.log_history:
            state.log_history[-1].update(entry)
        for reporter in _reporters_before(self):
            reporter.on_log(args, state, control, logs=dict(entry), **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._remove_hook()
        self.figures.process_peak_bytes = process_peak_bytes()
        self.figures.processes = figures_of_all(self.figures)

    def _before_forward(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if not module.training or not torch.is_grad_enabled():
            return
        batch = dict(kwargs)
        if args and isinstance(args[0], torch.Tensor):
            batch.setdefault("input_ids", args[0])
        real, padding = token_counts(batch)
        self._tokens = (self._tokens[0] + real, self._tokens[1] + padding)
        size = sum(value.numel() for value in batch.values() if isinstance(value, torch.Tensor))
        on_cpu = next(module.parameters()).device.type == "cpu"
        if on_cpu and self._memory is None and size > self._largest:
            self._largest = size
            self._follow(module)

    def _follow(self, model: Any) -> None:
        inner = getattr(self._optimizer, "optimizer", self._optimizer)
        states = [
            value
            for state in (inner.state.values() if inner is not None else ())
            for value in state.values()
            if isinstance(value, torch.Tensor)
        ]
        self._memory = TensorMemory([*weight_tensors(model), *states])
        self._memory.follow(parameter.grad for parameter in model.parameters() if parameter.grad is not None)
        self._memory.__enter__()
        self._followed = True

    def _read_peak(self) -> None:
        if torch.cuda.is_available():
            self.figures.peak_training_bytes = torch.cuda.max_memory_allocated()
        if self._memory is None:
            return
        memory, self._memory = self._memory, None
        memory.__exit__(None, None, None)
        memory.close()
        # A steady step holds the states all along, the very first one only makes them at its end.
        steady = self.figures.weights + self.figures.optimizer_states + self._forward_peak
        stepping = self.figures.weights + self._states_before + memory.peak
        self.figures.peak_training_bytes = max(self.figures.peak_training_bytes or 0, steady, stepping)

    def _remove_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


def figures_of_all(figures: RunFigures) -> list[dict[str, Any]]:
    """The figures of every process, in the order of their ranks; empty where there is one. All have to call it.

    Args:
        figures: Of this process.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return []
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, {**dataclasses.asdict(figures), "processes": []})
    return found


def process_peak_bytes() -> int | None:
    """Peak resident size of this process in bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _reporters_before(callback: TrainerCallback) -> list[TrainerCallback]:
    """The reporters (TensorBoard, W&B, Trackio, …) that were told of a log before this callback was.

    Trainer puts its reporters before the callbacks of the user, so that an entry added here would never reach
    them; and a callback is not handed its Trainer. The handler's list is found as the one list that holds both
    this callback and Trainer's own ``DefaultFlowCallback``.
    """
    for holder in gc.get_referrers(callback):
        if isinstance(holder, list) and any(isinstance(item, DefaultFlowCallback) for item in holder):
            before = holder[: holder.index(callback)]
            return [item for item in before if type(item).on_log is not TrainerCallback.on_log]
    return []
