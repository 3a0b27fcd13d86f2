"""Weights in another number format, one tensor in memory at a time."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfplug.adapters.safetensors_header import FLOATS, read_header
from hfplug.errors import AdapterError

DTYPES = ("float32", "bfloat16")
_CODES = {name: code for code, name in FLOATS.items()}
_BYTES = {"F32": 4, "BF16": 2}


def check_dtype(dtype: str | None) -> None:
    """Refuse a number format that adapters are not stored in.

    Raises:
        AdapterError: It is none of ``DTYPES``.
    """
    if dtype is not None and dtype not in DTYPES:
        raise AdapterError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.", fix="Type: --dtype bfloat16")


def convert(source: Path, target: Path, dtype: str) -> None:
    """Write ``source`` again with its floating-point tensors in ``dtype``.

    The same tensors give the same bytes, so that what did not change is not pushed again.

    Args:
        source: A safetensors file.
        target: The new one.
        dtype: One of ``DTYPES``.

    Raises:
        AdapterError: A number that was finite is not in ``dtype``.
    """
    import torch
    from safetensors import safe_open

    kind, code = getattr(torch, dtype), _CODES[dtype]
    entries = read_header(source)
    # As safetensors itself does it: large numbers first, so that each tensor starts at a multiple of its own.
    order = sorted(entries, key=lambda name: (-_element_bytes(entries[name], code), name))
    with safe_open(source, framework="pt") as opened, open(target, "wb") as out:
        header: dict[str, Any] = {"__metadata__": dict(opened.metadata() or {"format": "pt"})}
        offset = 0
        for name in order:
            entry = entries[name]
            length = math.prod(entry["shape"]) * _element_bytes(entry, code)
            header[name] = {
                "dtype": code if entry["dtype"] in FLOATS else entry["dtype"],
                "shape": entry["shape"],
                "data_offsets": [offset, offset + length],
            }
            offset += length
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        out.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            tensor = opened.get_tensor(name)
            if entries[name]["dtype"] in FLOATS:
                converted = tensor.to(kind)
                if not bool(torch.isfinite(converted).all()) and bool(torch.isfinite(tensor).all()):
                    raise AdapterError(
                        f"{name!r} in {source.name} does not fit into {dtype}.", fix="Leave out --dtype."
                    )
                tensor = converted
            out.write(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())


def _element_bytes(entry: Mapping[str, Any], code: str) -> int:
    """Bytes of one number of a tensor after the conversion."""
    if entry["dtype"] in FLOATS:
        return _BYTES[code]
    start, end = entry["data_offsets"]
    return (end - start) // max(1, math.prod(entry["shape"]))
