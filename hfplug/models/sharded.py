"""Weights that are spread over several processes: FSDP, FSDP2 and DeepSpeed ZeRO-3, through accelerate.

Each process then holds a part. What is not gathered before it is saved is empty or a fragment, and whoever gathers has
to do so on every process at once, or all of them wait for ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor: its shard under FSDP2, else the tensor itself.

    Args:
        tensor: A tensor, perhaps a ``DTensor``, whose own storage has no address.
    """
    return tensor.to_local() if _is_distributed(tensor) else tensor  # type: ignore[attr-defined]


def sharding_of(model: nn.Module) -> str:
    """How a model's weights are spread over processes.

    Args:
        model: A model as ``Trainer`` holds it.

    Returns:
        ``"FSDP2"``, ``"FSDP"`` or ``"ZeRO-3"``; an empty text where each process holds all of them.
    """
    for parameter in model.parameters():
        if _is_distributed(parameter):
            return "FSDP2"
        if hasattr(parameter, "ds_id"):
            return "ZeRO-3"
    return "FSDP" if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()) else ""


def unwrapped(model: Any) -> Any:
    """The model inside a wrapper of FSDP or DDP, or the model itself."""
    while True:
        inner = getattr(model, "_fsdp_wrapped_module", None)
        if inner is None and type(model).__name__ in ("DistributedDataParallel", "DeepSpeedEngine"):
            inner = model.module
        if inner is None:
            return model
        model = inner


def whole_adapter(model: Any, adapter_name: str = "default") -> dict[str, torch.Tensor]:
    """The tensors that PEFT saves of an adapter, gathered whole on the CPU. To be called on every process at once.

    Args:
        model: A ``PeftModel``, sharded or not.
        adapter_name: Which adapter.
    """
    from peft import get_peft_model_state_dict

    inner = unwrapped(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with _gathered(model, trained):
        state = get_peft_model_state_dict(inner, adapter_name=adapter_name, save_embedding_layers=False)
        return {name: _whole(tensor).detach().cpu().clone() for name, tensor in state.items()}


@contextlib.contextmanager
def _gathered(model: Any, parameters: list[nn.Parameter]) -> Iterator[None]:
    kind = sharding_of(model)
    if kind == "ZeRO-3":
        from deepspeed.zero import GatheredParameters

        with GatheredParameters(parameters):
            yield
    elif kind == "FSDP":
        from torch.distributed.fsdp import FullyShardedDataParallel

        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            yield
    else:
        yield


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if _is_distributed(tensor) else tensor  # type: ignore[attr-defined]


def _is_distributed(tensor: torch.Tensor) -> bool:
    # Not isinstance: torch.distributed.tensor takes long to import, and is there already where it is used.
    return hasattr(tensor, "full_tensor") and hasattr(tensor, "to_local")
