"""The preflight check that saves the adapter, loads it again and asks for the same outputs."""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import torch
from torch import nn

from hfplug.training.plug_exchange import is_plugged
from hfplug.training.plug_network import prompt_network
from hfplug.training.preflight_sample import Sample, first_rows, has_adapter

Result = tuple[str, str, str]

# By how much the weights are moved: enough for the outputs to differ, too little for them to overflow.
_MOVED = 0.02
# Of the difference that the movement makes in the outputs.
_TOLERANCE = 1e-3


def survives_saving(trainer: Any, sample: Sample) -> Result:
    """Does the adapter come back from the disk as it was: every tensor, and the same outputs for a row?"""
    model = trainer.model
    if not has_adapter(model):
        return "skipped", "only an adapter is tried: a whole model is saved by transformers alone", ""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return "skipped", "the model is going to be sharded", ""
    if prompt_network(model):  # loading puts what it gave in its place, and it would train no more
        return "skipped", "the prompt is computed by a network, which is not saved: only what it gives is", ""
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    row = first_rows(sample.need_small(), 1) if sample.batch is not None else None
    before = {name: one.detach().clone() for name, one in trained.items()}
    model.eval()
    if is_plugged(model):
        model._hfplug.state = "on"
    try:
        _move(trained, before, seed=1)
        wanted, first = {name: one.detach().clone() for name, one in trained.items()}, _outputs(trainer, row)
        with tempfile.TemporaryDirectory(prefix="hfplug-preflight-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save_pretrained(folder, save_embedding_layers=False)
            _move(trained, before, seed=2)
            other = _outputs(trainer, row)
            model.load_adapter(folder, "default", is_trainable=True)
        lost = [name for name, one in trained.items() if not torch.equal(one, wanted[name])]
        again = _outputs(trainer, row)
    finally:
        with torch.no_grad():
            for name, one in trained.items():
                one.copy_(before[name])
    if lost:
        return (
            "error",
            f"{len(lost)} trained tensors do not come back from the disk: {', '.join(lost[:3])}.",
            "Use another method for this model, and report it.",
        )
    return _compared(first, other, again, len(trained), sample.why_not)


def _compared(first: Any, other: Any, again: Any, tensors: int, why_not: str) -> Result:
    saw = f"saved, changed and loaded: all {tensors} trained tensors came back bit for bit"
    if first is None or other is None or again is None:
        return "ok", f"{saw}; outputs were not compared ({why_not or 'this batch gives none'})", ""
    change, error = _distance(first, other), _distance(first, again)
    if not error <= _TOLERANCE * change:
        return (
            "error",
            f"the tensors come back from the disk, and the outputs differ by {error:.3g} (the change itself made "
            f"{change:.3g}): something that was trained is not what was saved.",
            "Use another method for this model, and report it.",
        )
    if change == 0:
        return "warning", f"{saw}, and changing them changes no output of this row.", "Use another method."
    return "ok", f"{saw}, and the same outputs for a row (largest difference {error:.3g})", ""


def saved_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The tensors that PEFT saves of the active adapter, without asking the Hub about the vocabulary.

    Args:
        model: A ``PeftModel``.
    """
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model, save_embedding_layers=False)


def _move(trained: dict[str, nn.Parameter], before: dict[str, torch.Tensor], *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, one in trained.items():
            noise = torch.randn(one.shape, generator=generator).to(one.device)
            one.copy_((before[name].float() + _MOVED * noise).to(one.dtype))


def _outputs(trainer: Any, row: dict[str, Any] | None) -> list[torch.Tensor] | None:
    """Every floating-point output for a row, the loss included."""
    if row is None:
        return None
    with torch.no_grad(), trainer.compute_loss_context_manager():
        outputs = trainer.model(**row)
    values = outputs.values() if isinstance(outputs, dict) else outputs
    found = [one.float() for one in values if isinstance(one, torch.Tensor) and one.is_floating_point()]
    return found or None


def _distance(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True) if a.numel())
