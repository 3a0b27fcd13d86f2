"""Bytes that the tensors of a model take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from hfplug.models.sharded import local_part


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages behind some tensors, each storage once.

    Args:
        tensors: Any tensors; views of one storage count once, tensors without data (``meta``, fake) count their
            would-be size, and tensors that are spread over processes count what this one holds.
    """
    seen: dict[int, int] = {}
    for one in tensors:
        tensor = local_part(one)
        storage = tensor.untyped_storage()
        # What has no data has no address either: there the storage itself tells one from another.
        has_data = tensor.device.type != "meta" and not isinstance(tensor, FakeTensor)
        key = storage.data_ptr() if has_data else storage._cdata
        seen[key] = max(seen.get(key, 0), storage.nbytes())
    return sum(seen.values())


def weight_tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """All parameters and buffers, with the quantisation constants of 4-bit weights.

    Args:
        model: Any model.
    """
    for parameter in model.parameters():
        yield parameter
        yield from _quantisation_constants(getattr(parameter, "quant_state", None))
    yield from model.buffers()


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all weights, buffers and quantisation constants of a model."""
    return tensor_bytes(weight_tensors(model))


def gradient_bytes(model: nn.Module) -> int:
    """Bytes of the gradients that are held now."""
    return tensor_bytes(parameter.grad for parameter in model.parameters() if parameter.grad is not None)


def optimizer_bytes(optimizer: torch.optim.Optimizer | None) -> int:
    """Bytes of an optimiser's states (for AdamW the two moments of each trained weight)."""
    if optimizer is None:
        return 0
    inner = getattr(optimizer, "optimizer", optimizer)
    return tensor_bytes(
        value for state in inner.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    )


def _quantisation_constants(state: object) -> Iterator[torch.Tensor]:
    if state is None:
        return
    for name in ("absmax", "code", "offset"):
        value = getattr(state, name, None)
        if isinstance(value, torch.Tensor):
            yield value
    yield from _quantisation_constants(getattr(state, "state2", None))
