"""Exact peak memory of tensors on a CPU, where torch keeps no statistics of its own."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from hfplug.models.sharded import local_part


class TensorMemory(TorchDispatchMode):
    """While it is entered, follows every storage that an operation makes until it is freed.

    The resident size of a process is no measure of a training step: it holds the interpreter and whatever the
    allocator has kept. This counts what the tensors hold, to the byte; the sum agrees with the memory events of
    ``torch.profiler`` (a test compares them), at a small part of their cost.

    Args:
        known: Tensors that exist already and are counted elsewhere (the weights, the optimiser's states).
        timeline: ``"kept"`` notes what is live after every operation, a number for each.

    Attributes:
        live: Bytes held now by storages made since it was entered.
        peak: The most that ``live`` has been since it was made or :meth:`restart_peak` was called.
        timeline: ``live`` after each operation, if it was asked for.
    """

    def __init__(self, known: Iterable[torch.Tensor] = (), *, timeline: Literal["kept", "dropped"] = "dropped") -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.timeline: list[int] = []
        self._keep_timeline = timeline == "kept"
        self._elsewhere = {local_part(tensor).untyped_storage()._cdata for tensor in known}
        self._followed: dict[int, Any] = {}

    def follow(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors from now on until their storages are freed.

        Args:
            tensors: Tensors; those that are counted already are left out.
        """
        for tensor in tensors:
            if tensor.device.type != "cpu":
                continue
            storage = local_part(tensor).untyped_storage()
            key = storage._cdata
            if key in self._elsewhere or key in self._followed:
                continue
            size = storage.nbytes()
            self.live += size
            self._followed[key] = weakref.finalize(storage, self._freed, key, size)
        self.peak = max(self.peak, self.live)

    def restart_peak(self) -> None:
        """Forget the peak so far; what is held now is the new peak."""
        self.peak = self.live

    def close(self) -> None:
        """Stop following; to be called after the mode was left."""
        for finalizer in self._followed.values():
            finalizer.detach()
        self._followed.clear()

    def _freed(self, key: int, size: int) -> None:
        self._followed.pop(key, None)
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.follow(item for item in tree_iter(result) if isinstance(item, torch.Tensor))
        if self._keep_timeline:
            self.timeline.append(self.live)
        return result
