"""Hugging Face's ZeroGPU: a GPU that is lent to one decorated function at a time, in a process forked for it.

A service with threads, a queue and streams cannot move into such a process for each call, so on ZeroGPU it stays on
the CPU, which that hardware has as well; a GPU of its own (``--hardware t4-small``) is used whole. A Space on ZeroGPU
has to have a decorated function all the same, or it is stopped at its start: :func:`announce` sees to that.
"""

from __future__ import annotations

import importlib
import os
from typing import Any


def on_zero_gpu() -> bool:
    """Whether this process runs on ZeroGPU."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true")


def device() -> str | None:
    """Where a service belongs: on the CPU on ZeroGPU, else where it chooses itself (None)."""
    return "cpu" if on_zero_gpu() else None


def announce() -> Any:
    """On ZeroGPU, decorate a function as it asks for; elsewhere nothing is done.

    Returns:
        The decorated function, or None.
    """
    if not on_zero_gpu():
        return None
    return importlib.import_module("spaces").GPU(_name_of_the_gpu)


def _name_of_the_gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
