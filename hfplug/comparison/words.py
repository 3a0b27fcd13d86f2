"""Words of a text and where they stand, for marking them.

Nothing but the standard library is imported: a page that marks words needs neither numpy nor torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """A part of a text: ``text[start:end]``, in characters."""

    start: int
    end: int


class Word(NamedTuple):
    """A word of a text: its letters, and ``text[start:end]``."""

    text: str
    start: int
    end: int

    @property
    def key(self) -> str:
        """The word as it is compared: without case, with one kind of apostrophe and hyphen."""
        return self.text.casefold().translate(_ONE_SIGN)


_ONE_SIGN = str.maketrans({"’": "'", "ʼ": "'", "\u2010": "-", "\u2011": "-"})
# Scripts without spaces (Thai, Khmer, Japanese, Chinese) go sign by sign: a whole sentence would be one word.
_NO_SPACES = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Accents and vowel signs that stand beside their letter are no letters to Python.
_SIGNS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0963\u0966-\u0dff"
_LETTER = rf"(?:[^\W_{_NO_SPACES}]|[{_SIGNS}])"
# In this order: #Person1#, U.S., 1,200.50 or 7:30pm or 3rd, O'Neill's or well-known, 我
_WORD = re.compile(
    rf"#\w+#|(?:[^\W\d_]\.){{2,}}|\d+(?:[.,:/'’\u00a0\u202f-]\d+)*{_LETTER}*"
    rf"|{_LETTER}+(?:['’ʼ\u2010\u2011-]{_LETTER}+)*|[{_NO_SPACES}]"
)


def words_of(text: str) -> list[Word]:
    """The words of a text, in order; ``#Person1#``, ``O'Neill``, ``well-known``, ``U.S.`` and ``7:30`` are one each."""
    return [Word(match.group(), match.start(), match.end()) for match in _WORD.finditer(text)]


def joined(text: str, words: Sequence[Word]) -> tuple[Span, ...]:
    """The words as spans; neighbours with only spaces between them become one.

    Args:
        text: The text that the words are of.
        words: Some of its words, in order.
    """
    spans: list[Span] = []
    for word in words:
        if spans and text[spans[-1].end : word.start].isspace():
            spans[-1] = Span(spans[-1].start, word.end)
        else:
            spans.append(Span(word.start, word.end))
    return tuple(spans)
