"""Handing memory of a mapped file back: weights that were read once need not stay beside what was made of them."""

from __future__ import annotations

import ctypes
import functools
import mmap
from typing import Any

import torch

# madvise(2), Linux 5.4 and later: write what was changed elsewhere and free the pages. Nothing is lost by it, whatever
# the pages are; those of a file are read again when they are needed. Pages that somebody else maps as well, say a
# teacher from the same file, stay: they cost nothing beside the other's.
_PAGEOUT = 21


def page_out(tensor: torch.Tensor) -> None:
    """Let the system have the memory of a tensor, whose values stay what they are; does nothing where it cannot.

    Args:
        tensor: A contiguous tensor on the CPU, mapped from a checkpoint as safetensors does it, or any other.
    """
    libc = _libc()
    if libc is None or tensor.device.type != "cpu":
        return
    page = mmap.PAGESIZE
    start = -(-tensor.data_ptr() // page) * page
    end = (tensor.data_ptr() + tensor.numel() * tensor.element_size()) // page * page
    if end > start:
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _PAGEOUT)


def trim() -> None:
    """Let the system have what the C library keeps of freed memory; does nothing where it cannot (no glibc)."""
    libc = _libc()
    if libc is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))


@functools.cache
def _libc() -> Any:
    if not hasattr(mmap, "MADV_DONTNEED"):  # no madvise on this system
        return None
    try:
        libc = ctypes.CDLL(None)
        return libc if hasattr(libc, "madvise") else None
    except OSError:
        return None
