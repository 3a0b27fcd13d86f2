"""What one method takes on a base at one step, and the largest batch that fits: part of a memory plan.

    peak = weights + optimiser states + max(step, gradients + the optimiser's own buffers)

``step`` is the most that the forward and backward passes hold at once; what of it is neither gradient nor saved for the
backward pass is called temporary. :data:`TERMS` says where each term is from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hfplug.errors import HfplugError, MethodError, SettingError
from hfplug.methods import TuningMethod
from hfplug.models.anatomy import count_parameters
from hfplug.models.base import Base
from hfplug.models.memory import tensor_bytes, weight_bytes
from hfplug.models.memory_optimizers import DEFAULT_OPTIMIZER, StateBytes, find_optimizer, state_bytes
from hfplug.models.memory_shapes import fake_model, shape_model
from hfplug.models.memory_step import Loss, Shapes, StepBytes, batch_shapes, model_loss, peak_by_rows, step_bytes
from hfplug.models.tryout import first_line

TERMS = {
    "weights": "bytes of every parameter and buffer in the dtype in which it is held, tied ones once; in 4 bits half a "
    "byte a number, a constant for each 64 numbers (8 bits if it is quantised again, with a float32 for each 256 "
    "constants), and all that is not quantised in full (Dettmers et al. 2023, section 3, made by bitsandbytes itself)",
    "gradients": "a number a trained parameter, in its dtype (autograd); 4 bytes in float32",
    "optimizer_states": "by the optimiser; AdamW: two numbers a trained parameter, 8 bytes in float32 "
    "(Kingma and Ba 2015)",
    "activations": "bytes that are held when the forward pass is over, for the backward pass: the model's own code run "
    "on tensors without data at the very batch and length",
    "temporary": "what the same run, or the optimiser's step, holds beside these at its peak",
}
MOST_ROWS = 1_000_000
Choice = Literal["on", "off"]


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """The training step that is planned.

    Attributes:
        batch: Rows a forward pass.
        length: Tokens of an input.
        target_length: Tokens of a target, for an encoder-decoder.
        dtype: As for ``build_model``: ``"auto"`` or a dtype of the weights.
        optimizer: A name that ``TrainingArguments(optim=…)`` takes.
        checkpointing: Gradient checkpointing.
        accumulation: Batches an optimiser step.

    Raises:
        SettingError: for a number below 1 or an optimiser that is not known.
    """

    batch: int = 8
    length: int = 512
    target_length: int = 128
    dtype: str = "auto"
    optimizer: str = DEFAULT_OPTIMIZER
    checkpointing: Choice = "off"
    accumulation: int = 1

    def __post_init__(self) -> None:
        for name in ("batch", "length", "target_length", "accumulation"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SettingError(
                    f"{name} must be 1 or more, not {value!r}.", fix=f"For example --{name.replace('_', '-')} 8."
                )
        object.__setattr__(self, "optimizer", find_optimizer(self.optimizer).name)


@dataclass(frozen=True, kw_only=True)
class MethodMemory:
    """What one method takes, in bytes.

    Attributes:
        method: Its name.
        weights: As in :data:`TERMS`, like the next four.
        gradients: See there.
        optimizer_states: See there.
        activations: See there.
        temporary: See there.
        paged_states: States that move to the host when the device is full; not in the peak.
        parameters: Numbers of the model with the method.
        trainable_parameters: Numbers that train.
        adapter_bytes: What is saved for one task.
        fits: Whether the peak fits onto the device; None without one.
        largest_batch: The most rows that do, 0 if not one does; None without a device.
        measured_peak: What a probe measured; None without one.
        predicted_peak: The peak before it was corrected by a probe.
    """

    method: str
    weights: int
    gradients: int
    optimizer_states: int
    activations: int
    temporary: int
    paged_states: int
    parameters: int
    trainable_parameters: int
    adapter_bytes: int
    fits: bool | None = None
    largest_batch: int | None = None
    measured_peak: int | None = None
    predicted_peak: int | None = None

    @property
    def peak(self) -> int:
        """The most bytes that tensors hold at once."""
        return self.weights + self.gradients + self.optimizer_states + self.activations + self.temporary


class Planned:
    """A method on a base, ready to be asked what it takes at any batch.

    Args:
        base: The base.
        task_type: PEFT's name of the task type.
        method: The method.
        settings: The step; its batch and lengths are those of :meth:`memory` unless shapes are given.
        loss: Computes the loss.

    Raises:
        MethodError: the method does not fit the base.
    """

    def __init__(
        self, base: Base, task_type: str, method: TuningMethod, settings: StepSettings, *, loss: Loss = model_loss
    ) -> None:
        self.method, self.settings, self.task_type, self.loss = method, settings, task_type, loss
        self._steps: dict[int, StepBytes] = {}
        with self._one_sentence():
            self._make(base)

    def _make(self, base: Base) -> None:
        method, settings, task_type = self.method, self.settings, self.task_type
        model = shape_model(base, task_type, method, dtype=settings.dtype)
        self.parameters = count_parameters(model)
        self.trainable = count_parameters(model, trainable="only")
        self.mode: FakeTensorMode = fake_model(model)
        self.model: nn.Module = model
        self.weights = weight_bytes(model)
        with self.mode:
            self.adapter = _saved_bytes(model)
        self.optimizer: StateBytes = state_bytes(find_optimizer(settings.optimizer), model)

    def memory(self, shapes: Shapes | None = None, *, batch: int | None = None) -> MethodMemory:
        """What a step takes.

        Args:
            shapes: What the model is given; by default a batch of the settings.
            batch: Rows, instead of those of the settings.

        Raises:
            MethodError: the step cannot be run at these settings.
        """
        step = self.step(shapes, batch=batch)
        rest = max(step.peak, step.gradients + self.optimizer.temporary) - step.gradients
        activations = min(step.saved, rest)
        return MethodMemory(
            method=self.method.name,
            weights=self.weights,
            gradients=step.gradients,
            optimizer_states=self.optimizer.states,
            activations=activations,
            temporary=rest - activations,
            paged_states=self.optimizer.paged,
            parameters=self.parameters,
            trainable_parameters=self.trainable,
            adapter_bytes=self.adapter,
        )

    def step(self, shapes: Shapes | None = None, *, batch: int | None = None) -> StepBytes:
        """The passes of a step alone; as :meth:`memory`. The last one of each batch is remembered."""
        settings = self.settings
        rows = batch or settings.batch
        if shapes is None and rows in self._steps:
            return self._steps[rows]
        given = shapes or batch_shapes(self.task_type, rows, settings.length, settings.target_length)
        with self._one_sentence():
            step = step_bytes(
                self.model,
                self.mode,
                given,
                loss=self.loss,
                checkpointing=settings.checkpointing,
                accumulation=settings.accumulation,
            )
        if shapes is None:
            self._steps[rows] = step
        return step

    def peak_by_rows(self) -> Callable[[int], int]:
        """The peak at any number of rows, in bytes, of all but weights and states."""
        rows = max(2, self.settings.batch)
        passes = peak_by_rows(self.step(batch=rows), self.step(batch=2 * rows), rows)
        if passes is None:  # not the same operations: each batch is run
            passes = lambda count: self.step(batch=count).peak  # noqa: E731
        update = self.step(batch=rows).gradients + self.optimizer.temporary
        return lambda count: max(passes(count), update)

    @contextlib.contextmanager
    def _one_sentence(self) -> Iterator[None]:
        # torch prints a stack trace of an operation that has no shape rule before it raises; the sentence is enough.
        printing = logging.getLogger("torch._subclasses.fake_tensor")
        before, printing.disabled = printing.disabled, True
        try:
            yield
        except HfplugError:
            raise
        except Exception as error:  # whatever a model of any kind raises: the user gets one sentence
            how = " with gradient checkpointing" if self.settings.checkpointing == "on" else ""
            raise MethodError(
                f"{self.method.name} cannot be planned{how} on this base: {first_line(error)}",
                fix="Plan without gradient checkpointing." if how else "Plan the other methods.",
            ) from error
        finally:
            printing.disabled = before


def corrected(memory: MethodMemory, measured: int) -> tuple[MethodMemory, float]:
    """A prediction put right by a measured peak: what is not weights, gradients or states is scaled.

    Args:
        memory: The prediction.
        measured: The peak of a real run at the same settings, in bytes.

    Returns:
        The corrected memory, and by what activations and temporary buffers were multiplied.
    """
    known = memory.weights + memory.gradients + memory.optimizer_states
    rest = memory.peak - known
    actual = max(measured - known, 0)
    factor = actual / rest if rest else 1.0
    activations = min(round(memory.activations * factor), actual)
    put_right = dataclasses.replace(
        memory,
        activations=activations,
        temporary=actual - activations,
        measured_peak=measured,
        predicted_peak=memory.peak,
    )
    return put_right, factor


def largest_batch(peak_of: Callable[[int], int], batch: int, room: int) -> int:
    """The most rows whose peak is no more than the room there is.

    The peak grows by the same for each row as long as one moment of the step sets it, so a line through two batches
    leads to the answer, and the answer is then tried.

    Args:
        peak_of: Rows to the peak in bytes.
        batch: Rows to begin with.
        room: Bytes.

    Returns:
        Between 0 and :data:`MOST_ROWS`.
    """
    low, high = 0, MOST_ROWS + 1  # low fits, high does not
    here, there = peak_of(batch), peak_of(2 * batch)
    guess, slope = batch, max((there - here) / batch, 1.0)
    for _ in range(24):
        if high - low <= 1:
            break
        guess = min(max(guess, low + 1), high - 1)
        peak = peak_of(guess)
        if peak <= room:
            low = guess
            guess += max(1, int((room - peak) / slope))
        else:
            high = guess
            guess -= max(1, -int(-(peak - room) // slope))
    return low


def fitted(ready: Planned, memory: MethodMemory, room: int, factor: float) -> MethodMemory:
    """The same with the largest batch that fits.

    Args:
        ready: The method on its base.
        memory: What it takes at the batch of the settings.
        room: Bytes that tensors may take.
        factor: By what a probe corrected activations and temporary buffers.
    """
    known = memory.weights + memory.gradients + memory.optimizer_states
    held = ready.peak_by_rows()

    def peak_of(rows: int) -> int:
        return known + round((held(rows) - memory.gradients) * factor)

    return dataclasses.replace(
        memory, fits=memory.peak <= room, largest_batch=largest_batch(peak_of, ready.settings.batch, room)
    )


def _saved_bytes(model: Any) -> int:
    """Bytes of what is saved of a tuned model: of an adapter its own tensors, else all weights."""
    if not hasattr(model, "peft_config"):
        return tensor_bytes(model.parameters())
    from peft import get_peft_model_state_dict

    # By the parameters: packing a 4-bit layer for a file reads its constants, and there are none.
    tensors = dict(model.named_parameters(remove_duplicate=False))
    return tensor_bytes(get_peft_model_state_dict(model, tensors, save_embedding_layers=False).values())
