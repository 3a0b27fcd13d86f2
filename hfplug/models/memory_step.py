"""What a training step holds at once: the step run on tensors without data, every storage followed.

The model's own code runs, and autograd's, so that what is saved for the backward pass, the loss's copies of the
logits, the masks of dropout and the buffers of the backward pass are counted where they are made and until they are
freed. Nothing is fitted and nothing is extrapolated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from hfplug.methods.method import CLASSIFICATION, QUESTIONS, SEQ2SEQ
from hfplug.models.memory import tensor_bytes, weight_tensors
from hfplug.models.tensor_memory import TensorMemory

Shapes = Mapping[str, Any]
Loss = Callable[[nn.Module, dict[str, Any]], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class StepBytes:
    """What a step makes beside weights and optimiser states.

    Attributes:
        gradients: Bytes of all gradients at its end.
        saved: Bytes that are held when the forward pass is over: what the backward pass needs.
        peak: The most bytes that are held at once, gradients among them.
        timeline: Bytes that are held after each operation.
    """

    gradients: int
    saved: int
    peak: int
    timeline: tuple[int, ...] = ()


def peak_by_rows(here: StepBytes, there: StepBytes, rows: int) -> Callable[[int], int] | None:
    """The peak of a step at any number of rows, from the same step at ``rows`` and at twice as many.

    The same operations run at any batch, and each makes tensors that are a fixed part and a part for each row. So after
    each operation the bytes held are a line over the rows, which two points give, and the peak is the highest line.

    Args:
        here: The step at ``rows`` rows.
        there: The step at ``2 * rows``.
        rows: 2 or more: a batch of one row is broadcast where larger ones are not.

    Returns:
        Rows to bytes; None if the two steps did not run the same operations.
    """
    if len(here.timeline) != len(there.timeline) or not here.timeline:
        return None
    first = torch.tensor(here.timeline, dtype=torch.float64)
    slope = (torch.tensor(there.timeline, dtype=torch.float64) - first) / rows

    def peak(count: int) -> int:
        return int((first + slope * (count - rows)).max().round())

    return peak


def batch_shapes(task_type: str, batch: int, length: int, target_length: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a padded batch for a model of a task type, its labels included.

    Args:
        task_type: PEFT's name of the task type.
        batch: Rows.
        length: Tokens of an input.
        target_length: Tokens of a target, for an encoder-decoder.
    """
    rows = (batch, length)
    shapes: dict[str, tuple[int, ...]] = {"input_ids": rows, "attention_mask": rows}
    if task_type == SEQ2SEQ:
        return {**shapes, "labels": (batch, target_length)}
    if task_type == QUESTIONS:
        return {**shapes, "start_positions": (batch,), "end_positions": (batch,)}
    return {**shapes, "labels": (batch,) if task_type == CLASSIFICATION else rows}


def model_loss(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """The loss that the model itself computes, or some number to differentiate if it computes none.

    Args:
        model: A transformers or PEFT model.
        batch: Its inputs.
    """
    import inspect

    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    known = inspect.signature(base.forward).parameters
    if "labels" in batch and "labels" not in known:
        batch = {name: value for name, value in batch.items() if name != "labels"}
    outputs = model(**batch)
    loss = outputs.get("loss")
    if loss is not None:
        return loss
    return torch.stack([one.float().square().mean() for one in outputs.values() if isinstance(one, torch.Tensor)]).sum()


def step_bytes(
    model: nn.Module,
    mode: FakeTensorMode,
    shapes: Shapes,
    *,
    loss: Loss = model_loss,
    checkpointing: Literal["on", "off"] = "off",
    accumulation: int = 1,
) -> StepBytes:
    """Run the forward and backward passes of a step on tensors without data.

    Args:
        model: From :func:`~hfplug.models.memory_shapes.fake_model`; left as it was, in train mode.
        mode: Its mode.
        shapes: What the model is given: a shape for a tensor of token ids, anything else as it is.
        loss: Computes the loss.
        checkpointing: Whether activations are computed again in the backward pass.
        accumulation: Batches a step. From the second on the gradients are there already.
    """
    model.train()
    set_checkpointing(model, checkpointing)
    with mode:
        batch = {
            name: torch.empty(value, dtype=torch.long, device="cpu") if isinstance(value, (tuple, list)) else value
            for name, value in shapes.items()
        }
        known = [*weight_tensors(model), *(one for one in batch.values() if isinstance(one, torch.Tensor))]
        memory = TensorMemory(known, timeline="kept")
        saved = 0
        # The second batch of a step finds the gradients of the first: that is as bad as it gets.
        for _ in range(min(accumulation, 2)):
            with memory, _KernelsWithoutShapes():
                value = loss(model, batch)
                saved = max(saved, memory.live)
                value.backward()
            del value
    memory.close()
    gradients = tensor_bytes(one.grad for one in model.parameters() if one.grad is not None)
    for one in model.parameters():
        one.grad = None
    return StepBytes(gradients=gradients, saved=saved, peak=memory.peak, timeline=tuple(memory.timeline))


def set_checkpointing(model: Any, state: Literal["on", "off"]) -> None:
    """Switch gradient checkpointing on or off.

    Args:
        model: A transformers or PEFT model; one that cannot be checkpointed is left as it is.
        state: What to switch it to.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not getattr(base, "supports_gradient_checkpointing", False):
        return
    if state == "on":
        # The state of the random numbers is of no size, and tensors without data have none.
        base.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    else:
        base.gradient_checkpointing_disable()


class _KernelsWithoutShapes(TorchDispatchMode):
    """Says what comes out of operations whose shape rules in torch (2.13) are those of a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._grouped_mm.default:
            # The rules allow bfloat16 alone; on a CPU the experts' products run in any dtype.
            left, right = args[0], args[1]
            if left.dim() == 2 and right.dim() == 3:
                return left.new_empty(left.shape[0], right.shape[-1])
            if left.dim() == 2 and right.dim() == 2:
                groups = (args[2] if len(args) > 2 else (kwargs or {})["offs"]).shape[0]
                return left.new_empty(groups, left.shape[0], right.shape[1])
        return func(*args, **(kwargs or {}))
