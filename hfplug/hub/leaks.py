"""The last look at everything that leaves this machine: no access token in any byte of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from hfplug.adapters.record import SECRET_TEXT
from hfplug.errors import UnsafeFileError

_BLOCK = 1 << 20
# Longer than any token; a token that lies across two blocks is seen in the second one.
_OVERLAP = 1024
# A token in use that is shorter than this is no secret, and would be found in ordinary words.
_SHORTEST_TOKEN = 8
_SHAPES = re.compile(SECRET_TEXT.pattern.encode())
# How they begin: looking for these is several times as fast as the pattern is on weights, and a search holds up
# every other thread of Python, training included.
_BEGINNINGS = (b"hf_", b"api_org_", b"gh", b"sk-")


def tokens_in_use(*given: str | None) -> list[str]:
    """The tokens that this process might send: those given, and those that huggingface_hub would use."""
    from huggingface_hub import get_token

    named = (os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"))
    return list(dict.fromkeys(token for token in (*given, get_token(), *named) if token))


def refuse_tokens(name: str, content: bytes | Path, tokens: Iterable[str]) -> None:
    """Refuse a file that holds something that is, or looks like, an access token.

    Args:
        name: How to call the file in the message.
        content: Its bytes, or the file; every byte is read, headers and weights alike.
        tokens: Tokens in use, of any shape.

    Raises:
        UnsafeFileError: It holds one. The message does not repeat it.
    """
    known = [token.encode() for token in tokens if len(token) >= _SHORTEST_TOKEN]
    before = b""
    lines = 1
    for block in _blocks(content):
        window = before + block
        hits = [window.find(token) for token in known]
        hits += [hit for hit in _beginnings(window) if _SHAPES.match(window, hit)]
        if found := [hit for hit in hits if hit >= 0]:
            line = lines + window[: min(found)].count(b"\n")
            where = "" if name.endswith(".safetensors") else f", on line {line}"
            raise UnsafeFileError(
                f"{name} holds what looks like an access token{where}; nothing was pushed.",
                fix="Take it out of that file, and revoke the token: https://huggingface.co/settings/tokens",
            )
        before = window[-_OVERLAP:]
        lines += window[: len(window) - len(before)].count(b"\n")


def _beginnings(window: bytes) -> Iterator[int]:
    for beginning in _BEGINNINGS:
        hit = window.find(beginning)
        while hit >= 0:
            yield hit
            hit = window.find(beginning, hit + 1)


def _blocks(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with open(content, "rb") as file:
        while block := file.read(_BLOCK):
            yield block
