"""Two real training steps in a process of their own, to see what a plan is worth on this machine.

A child process, so that what it allocates is gone afterwards and a step that is killed for its memory does not take
the command with it. The weights are the base's, or random ones where a folder holds a configuration alone; the tokens
are random. Run as ``python -m hfplug.models.memory_probe``, it reads what to do from its input as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hfplug.errors import HfplugError, MethodError
from hfplug.methods import TuningMethod, resolve_method
from hfplug.models.base import auto_class, read_task_type, resolve_base
from hfplug.models.factory import apply_method, build_model, choose_dtype
from hfplug.models.memory import tensor_bytes, weight_bytes, weight_tensors
from hfplug.models.memory_method import StepSettings
from hfplug.models.memory_optimizers import find_optimizer
from hfplug.models.memory_shapes import checkpoint_tensors
from hfplug.models.memory_step import batch_shapes, model_loss, set_checkpointing
from hfplug.models.tensor_memory import TensorMemory

STEPS = 2
_ANSWER = "hfplug-probe:"


def probe_peak(
    base: str | Path,
    settings: StepSettings,
    *,
    task_type: str | None = None,
    revision: str | None = None,
) -> Callable[[TuningMethod], int]:
    """What :func:`~hfplug.models.memory_plan.plan_memory` takes as its probe.

    Args:
        base: Repo id or folder.
        settings: The step.
        task_type: As for the plan.
        revision: As for the plan.

    Returns:
        A function that measures the peak of a method in bytes. It raises MethodError if the child fails.
    """

    def measure(method: TuningMethod) -> int:
        order = {
            "base": str(base),
            "method": method.name,
            "method_settings": method.settings(),
            "settings": dataclasses.asdict(settings),
            "task_type": task_type,
            "revision": revision,
        }
        child = subprocess.run(
            [sys.executable, "-m", "hfplug.models.memory_probe"],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [line for line in child.stdout.splitlines() if line.startswith(_ANSWER)]
        if child.returncode or not lines:
            why = (child.stderr.strip().splitlines() or [f"it ended with status {child.returncode}"])[-1]
            why = "it was killed, which is what happens without memory" if child.returncode == -9 else why
            raise MethodError(
                f"The probe of {method.name} failed: {why}", fix="Plan without --probe, or a smaller step."
            )
        return int(lines[-1].removeprefix(_ANSWER))

    return measure


def measure_steps(model: nn.Module, settings: StepSettings, task_type: str) -> int:
    """Train a model for two steps on random tokens.

    Args:
        model: The tuned model, with weights.
        settings: The step.
        task_type: PEFT's name of the task type.

    Returns:
        The most bytes that tensors held at once, weights and optimiser states included.
    """
    optimizer = _optimizer(model, settings.optimizer)
    device = next(model.parameters()).device
    batch = random_batch(model, settings, task_type)
    model.train()
    set_checkpointing(model, settings.checkpointing)
    peak = 0
    for _ in range(STEPS):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            _one_step(model, optimizer, batch, settings.accumulation)
            peak = max(peak, torch.cuda.max_memory_allocated(device))
            continue
        states = [one for state in optimizer.state.values() for one in state.values() if isinstance(one, torch.Tensor)]
        held = weight_bytes(model) + tensor_bytes(states)
        memory = TensorMemory([*weight_tensors(model), *states, *batch.values()])
        with memory:
            _one_step(model, optimizer, batch, settings.accumulation)
        memory.close()
        # The first step makes the states; while its passes run, the later ones hold them already.
        peak = max(peak, held + memory.peak)
    return peak


def random_batch(model: Any, settings: StepSettings, task_type: str) -> dict[str, torch.Tensor]:
    """Random tokens in the shapes of the plan; as in a padded batch, one row is shorter than the others.

    Args:
        model: What they are for; decides the vocabulary and the device.
        settings: The step.
        task_type: PEFT's name of the task type.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    embedding = base.get_input_embeddings()
    device = next(model.parameters()).device
    draws = torch.Generator().manual_seed(0)
    rows = int(getattr(embedding, "num_embeddings", 0) or embedding.weight.shape[0])
    batch = {}
    for name, shape in batch_shapes(task_type, settings.batch, settings.length, settings.target_length).items():
        of_classes = name == "labels" and "CLS" in task_type
        high = base.config.num_labels if of_classes else settings.length if name.endswith("positions") else rows
        batch[name] = torch.randint(0, max(int(high), 1), shape, generator=draws)
    mask = torch.ones_like(batch["attention_mask"])
    mask[0, mask.shape[1] - mask.shape[1] // 8 :] = 0
    batch["attention_mask"] = mask
    return {name: value.to(device) for name, value in batch.items()}


def _one_step(model: nn.Module, optimizer: Any, batch: dict[str, torch.Tensor], accumulation: int) -> None:
    for _ in range(accumulation):
        model_loss(model, dict(batch)).backward()
    optimizer.step()
    optimizer.zero_grad()


def _optimizer(model: nn.Module, name: str) -> Any:
    trained = [one for one in model.parameters() if one.requires_grad]
    found = find_optimizer(name)
    if found.make is not None:
        return found.make(trained)
    from bitsandbytes.optim import AdamW

    if not torch.cuda.is_available():
        raise MethodError(f"{name} runs on a GPU only, so it cannot be probed here.", fix="Plan without --probe.")
    return AdamW(trained, optim_bits=found.bits, is_paged=found.paged == "on")


def _load(order: dict[str, Any], method: TuningMethod) -> tuple[nn.Module, str]:
    base = resolve_base(order["base"], revision=order["revision"])
    kind = read_task_type(base.config, order["task_type"])
    dtype = order["settings"]["dtype"]
    if checkpoint_tensors(base):
        device = "cuda" if torch.cuda.is_available() else None
        model = build_model(
            base.name, method, task_type=kind, revision=order["revision"], dtype=dtype, device_map=device
        )
        return model, kind
    if method.quantization() is not None:
        raise MethodError(f"{method.name} packs weights that are there, and {base.name!r} holds none.")
    chosen = choose_dtype(base, method, dtype)
    model = auto_class(kind, base.config).from_config(base.config, dtype=chosen)  # type: ignore[attr-defined]
    return apply_method(model, method, task_type=kind), kind


def main() -> int:
    """Do what the input says, and print the peak."""
    order = json.load(sys.stdin)
    try:
        method = resolve_method(order["method"], order["method_settings"])
        model, kind = _load(order, method)
        sys.stdout.write(f"{_ANSWER}{measure_steps(model, StepSettings(**order['settings']), kind)}\n")
    except HfplugError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
