"""What the machine at hand computes fast, so that a dtype is chosen for it and not for somebody else's."""

from __future__ import annotations

import os

import torch

T5_FAMILY = frozenset({"t5", "mt5", "umt5", "longt5", "switch_transformers", "pix2struct"})


def has_fast_bfloat16() -> bool:
    """True if bfloat16 products run on units made for them.

    On a GPU: compute capability 8.0 or more. On a CPU: AMX or AVX512-BF16. A CPU without them emulates
    bfloat16, and 4-bit training with the QLoRA paper's bfloat16 compute is then some fifteen times slower
    than with float32.
    """
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability()[0] >= 8
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return True
    checks = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(check() for check in checks if check is not None)


def has_accelerator() -> bool:
    """True if there is a device other than the CPU that torch can use."""
    return torch.accelerator.is_available()


def compute_dtype(model_type: str) -> torch.dtype:
    """The dtype in which a 4-bit layer should multiply on this machine.

    Args:
        model_type: ``config.model_type`` of the base; the T5 family overflows in float16.

    Returns:
        bfloat16 where there are units for it, on an accelerator or a CPU; without them float16 on an accelerator
        and float32 on a CPU, or for a model that overflows in float16. ``benchmarks/compute_dtype.py`` times the
        choices on the machine at hand.
    """
    if has_fast_bfloat16():
        return torch.bfloat16
    if not has_accelerator() or overflows_in_float16(model_type):
        return torch.float32
    return torch.float16


def load_dtype(dtype: torch.dtype, model_type: str) -> torch.dtype:
    """The dtype to hold weights in, given the one they are stored in.

    Args:
        dtype: The dtype of the checkpoint.
        model_type: ``config.model_type`` of the base.

    Returns:
        ``dtype``, or float32 where this machine would be slow or the model would overflow in it.
    """
    if dtype == torch.float16 and (not has_accelerator() or overflows_in_float16(model_type)):
        return torch.bfloat16 if has_accelerator() and has_fast_bfloat16() else torch.float32
    if dtype == torch.bfloat16 and not has_fast_bfloat16():
        return torch.float32
    return dtype


def overflows_in_float16(model_type: str) -> bool:
    """True for the T5 family, whose feed-forward activations leave float16's range (above 65504)."""
    return model_type in T5_FAMILY


def is_sharded_run() -> bool:
    """True under ``accelerate launch`` with FSDP, which shards only tensors of one common dtype."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in {"1", "true", "yes"}


def available_memory() -> int | None:
    """Bytes of main memory that programs can still take; None where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            line = next(line for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not on Linux
        return None
    return int(line.split()[1]) * 1024
