"""What a merge is going to do, said before it does it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hfplug.adapters.card_text import size_text


@dataclass(frozen=True, kw_only=True)
class MergePlan:
    """What a merge is going to do.

    Attributes:
        adapters: Names of the adapters.
        methods: Name of the method of each.
        combination: How they are combined, in words; empty for one adapter as it is.
        base: Repo id or folder of the base.
        into: ``"unquantised"`` or ``"dequantised"``.
        dtype: Number format of the merged weights.
        way: ``"shards"``: tensor by tensor, without the model in memory; ``"memory"``: with it.
        why_memory: Why it cannot be done tensor by tensor; None if it can.
        changed: How many of the base's tensors change; None if only the model in memory will tell.
        files: Files of weights that will be written; None if transformers decides.
        size: Bytes of weights that will be written; None if not known.
        check: ``"logits"`` or ``"off"``.
        memory: Bytes of models in memory at once, in float32; 0 if none is loaded.
    """

    adapters: tuple[str, ...]
    methods: tuple[str, ...]
    combination: str
    base: str
    into: str
    dtype: str
    way: Literal["shards", "memory"]
    why_memory: str | None
    changed: int | None
    files: int | None
    size: int | None
    check: str
    memory: int | None

    def __str__(self) -> str:
        what = ", ".join(f"{name} ({method})" for name, method in zip(self.adapters, self.methods, strict=True))
        how = "tensor by tensor" if self.way == "shards" else f"with the model in memory ({self.why_memory})"
        written = [] if self.size is None else [size_text(self.size)]
        written += [] if self.files is None else [f"{self.files} file{'s' if self.files != 1 else ''}"]
        sizes = f" ({', '.join(written)})" if written else ""
        base = Path(self.base).name if Path(self.base).is_absolute() else self.base
        parts = [
            f"{what}{f' by {self.combination}' if self.combination else ''} into the {self.into} base {base}",
            f"{self.changed} tensors change" if self.changed is not None else "",
            f"written in {self.dtype}{sizes}",
            how,
        ]
        text = "; ".join(part for part in parts if part)
        if self.check == "off":
            return f"{text}; the answers are not compared."
        needs = f" (needs {size_text(self.memory)} of memory)" if self.memory else ""
        return f"{text}; then the answers are compared{needs}."
