"""What a run of a model that belongs to somebody must not change, put back after it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hfplug.models.tryout import at_rest, on_meta


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, all weights frozen and gradients on; all is put back, buffers too.

    Args:
        model: A transformers model, on any device, ``meta`` included.
    """
    with at_rest(model), torch.enable_grad(), _frozen(model), _buffers_kept(model), _traceable_experts(model):
        yield


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradient is kept in the weights, which may have some already."""
    trained = [one for one in model.parameters() if one.requires_grad]
    try:
        for one in trained:
            one.requires_grad_(False)
        yield
    finally:
        for one in trained:
            one.requires_grad_(True)


@contextlib.contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put back buffers that the run writes into or replaces (position caches that grow, running states)."""
    kept = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
    copies = [
        None if buffer is None or buffer.device.type == "meta" or buffer.numel() > 1_000_000 else buffer.clone()
        for _, _, buffer in kept
    ]
    try:
        yield
    finally:
        for (module, name, buffer), copied in zip(kept, copies, strict=True):
            if copied is not None and buffer is not None and not torch.equal(buffer, copied):
                buffer.copy_(copied)
            module._buffers[name] = buffer


@contextlib.contextmanager
def _traceable_experts(model: Any) -> Iterator[None]:
    """On ``meta``, experts as one batched product: the other ways ask which experts were chosen."""
    if not on_meta(model):
        yield
        return
    configs = {id(one.config): one.config for one in model.modules() if hasattr(one, "config")}.values()
    before = [(config, getattr(config, "_experts_implementation", None)) for config in configs]
    before = [(config, value) for config, value in before if hasattr(config, "_experts_implementation_internal")]
    try:
        for config, _ in before:
            config._experts_implementation_internal = "batched_mm"
        yield
    finally:
        for config, value in before:
            config._experts_implementation_internal = value
