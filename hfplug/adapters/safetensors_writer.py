"""A safetensors file written one tensor at a time: it never has to be in memory as a whole.

The format is a header with the name, number format, shape and place of each tensor, and their bytes one after another
(https://huggingface.co/docs/safetensors/index#format). All that the header says is known before the first number is, so
that it can be written first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from hfplug.adapters.safetensors_header import FLOATS

CODES = {getattr(torch, name): code for code, name in FLOATS.items()}


@dataclass(frozen=True)
class Entry:
    """What the header says of a tensor.

    Attributes:
        code: The format's name of its numbers, e.g. ``"BF16"``.
        shape: Its shape.
        size: Its bytes.
    """

    code: str
    shape: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, shape: Sequence[int], dtype: torch.dtype) -> Entry:
        """A floating-point tensor.

        Args:
            shape: Its shape. dtype: One of ``CODES``.
        """
        count = 1
        for length in shape:
            count *= length
        return cls(CODES[dtype], tuple(shape), count * dtype.itemsize)


class TensorWriter:
    """Writes one file. Use it as a context manager, and write the tensors in the order of :attr:`names`.

    Attributes:
        names: The tensors, the widest numbers first, so that each begins at a multiple of its own size.
        size: Bytes of all tensors.

    Args:
        path: The new file.
        entries: Name of each tensor to what the header says of it.
    """

    def __init__(self, path: Path, entries: Mapping[str, Entry]) -> None:
        self._entries = entries
        self.names = sorted(entries, key=lambda name: (-_width(entries[name]), name))
        self._next = 0
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        start = 0
        for name in self.names:
            entry = entries[name]
            offsets = [start, start + entry.size]
            header[name] = {"dtype": entry.code, "shape": list(entry.shape), "data_offsets": offsets}
            start += entry.size
        self.size = start
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._file = open(path, "xb")  # noqa: SIM115 - closed by __exit__
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write the next tensor.

        Args:
            name: The next of :attr:`names`.
            tensor: On the CPU, in the format and shape that were announced.

        Raises:
            ValueError: It is another one; only a mistake in this package can do that.
            OSError: The disk is full, say.
        """
        entry = self._entries[name]
        data = tensor.detach().contiguous().reshape(-1)
        size = data.numel() * data.element_size()
        if self.names[self._next] != name or size != entry.size or tuple(tensor.shape) != entry.shape:
            raise ValueError(f"{self.names[self._next]} was announced, not {name} of shape {tuple(tensor.shape)}")
        self._next += 1
        if data.numel():
            self._file.write(data.view(torch.uint8).numpy().data)

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None and self._next != len(self.names):
            raise ValueError(f"{self.names[self._next]} was announced and never written")


def _width(entry: Entry) -> int:
    """Bits of one number, which the format's names begin with; a ``BOOL`` has a byte."""
    digits = re.search(r"\d+", entry.code)
    return int(digits[0]) if digits else 8
