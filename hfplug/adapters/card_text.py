"""Texts of people and of data in a page of Markdown: escaped or fenced, so that they cannot break it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; an empty text if there are no rows. Cells must be ``inline`` texts already."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *lines]) if lines else ""


def inline(text: object) -> str:
    """``text`` on one line, with everything escaped that Markdown or HTML would understand."""
    line = " ".join(_printable(str(text)).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|#~])|(?<!\w)_|_(?!\w)", lambda match: "\\" + match[0], line)


def code(text: object) -> str:
    """``text`` as inline code on one line."""
    line = " ".join(_printable(str(text)).split())
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def fence(text: str, language: str = "text") -> str:
    """``text`` as a block of code whose fence is longer than any run of backticks in it."""
    body = "\n".join(_printable(line) for line in text.splitlines())
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", body)), default=0))
    return f"{ticks}{language}\n{body}\n{ticks}"


def _printable(text: str) -> str:
    """``text`` without control characters, changes of direction, and what looks like one of our comments."""
    hidden = ("Cc", "Cs")
    kept = (c for c in text if c in "\n\t" or (unicodedata.category(c) not in hidden and c not in _DIRECTIONS))
    return "".join(kept).replace("<!-- hfplug:", "<!- - hfplug:")


def size_text(size: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} GB"


def number_text(key: str, value: float) -> str:
    """A figure of a record, in the unit that its name says."""
    is_bytes = key.endswith("_bytes") or key in ("weights", "gradients", "optimizer_states", "rest")
    if is_bytes:
        return size_text(value)
    if key.endswith("share"):
        return f"{100 * value:.3g} %"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
