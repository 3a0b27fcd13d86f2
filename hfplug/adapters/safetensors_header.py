"""The header of a safetensors file, read without loading a tensor and without importing torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hfplug.errors import AdapterError

# The format's names of floating-point numbers. Whole numbers, and 4-bit weights stored as such, have others.
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LARGEST_HEADER = 100 * 1024 * 1024  # the format's own limit


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Name to ``{"dtype", "shape", "data_offsets"}`` of every tensor in a safetensors file.

    Args:
        path: The file.

    Raises:
        AdapterError: The file is a Git LFS pointer, is cut short or too long, is no safetensors file, or holds no
            tensor or an empty one.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        if start == b"version ":
            raise AdapterError(
                f"{path} is a Git LFS pointer, not the weights themselves.",
                fix=f"Type: git -C {path.parent} lfs pull",
            )
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > _LARGEST_HEADER or 8 + length > size:
            raise _broken(path, f"it has {size:,} bytes, fewer than its header needs")
        text = file.read(length)
    try:
        header = json.loads(text)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise _broken(path, "its header cannot be read") from error
    if 8 + length + end != size:
        raise _broken(path, f"its header announces {8 + length + end:,} bytes and it has {size:,}")
    empty = [name for name, entry in tensors.items() if 0 in entry["shape"]]
    if empty:
        raise AdapterError(
            f"{len(empty)} of {len(tensors)} tensors in {path} are empty, e.g. {empty[0]} of shape "
            f"{tuple(tensors[empty[0]]['shape'])}: they were saved from one process's part of a sharded model.",
            fix="Gather before saving: zero3_save_16bit_model: true (ZeRO-3), fsdp_state_dict_type: FULL_STATE_DICT.",
        )
    if not tensors:
        raise AdapterError(f"{path} holds no tensor.", fix="Train again; nothing was saved here.")
    return tensors


def stored_dtypes(files: Iterable[Path]) -> list[str]:
    """The number formats of the floating-point weights in safetensors files, e.g. ``["float32"]``, sorted."""
    codes = {entry["dtype"] for file in files for entry in read_header(file).values()}
    return sorted(FLOATS[code] for code in codes if code in FLOATS)


def _broken(path: Path, why: str) -> AdapterError:
    return AdapterError(
        f"{os.fspath(path)} is not a whole safetensors file: {why}.",
        fix="Copy or download it again, or export from another checkpoint.",
    )
