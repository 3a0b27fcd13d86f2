"""Cutting text into sentences, for ROUGE-Lsum and for the copy-the-first-turns baseline.

ROUGE-Lsum compares sentence by sentence and expects one sentence a line. The usual splitter (NLTK's Punkt)
downloads a model on first use, which a study without a network cannot do; a short rule is enough for
summaries of a few sentences. What it must not do is cut after "Mr." or after "5 p.m.".
"""

from __future__ import annotations

import re

# A full stop after one of these belongs to the word, whatever follows.
_TITLES = frozenset(
    ("mr", "mrs", "ms", "mx", "dr", "prof", "st", "rev", "hon", "capt", "col", "gen", "lt", "sgt", "mt")
    + ("vs", "fig", "eq", "approx", "dept", "est", "e.g", "i.e", "cf")
)
# After these a sentence ends only if the next one visibly starts (a capital, a digit or a speaker's mark).
_MAY_END = frozenset(
    ("a.m", "p.m", "etc", "jr", "sr", "inc", "ltd", "co", "corp", "u.s", "u.k", "ph.d", "b.c", "a.d", "al")
)

# A run of marks with its closing quotes and brackets, and a space after it; the full-width marks need no
# space. The look-behind starts a match at the first mark of a run only, which keeps long runs cheap.
_END = re.compile(r"(?<![.!?…])([.!?…]+)[\"'”’)\]]*\s+(?=\S)|[。！？][\"'”’」』）]*(?=\S)")
_STARTS = re.compile(r"[\"'“‘(\[#]*[A-Z0-9À-ÖØ-Þ]")
_OPENING = "\"'“‘(["


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order.

    Args:
        text: Any text. A line break always ends a sentence.

    Returns:
        The sentences without surrounding space, none of them empty; ``[]`` for a blank text.
    """
    found: list[str] = []
    for line in text.splitlines():
        start = 0
        for match in _END.finditer(line):
            words = line[start : match.start()].split()
            word = words[-1].lstrip(_OPENING).lower() if words else ""
            if _ends_sentence(word, match[1], visible_start=_STARTS.match(line, match.end()) is not None):
                found.append(line[start : match.end()].strip())
                start = match.end()
        found.append(line[start:].strip())
    return [sentence for sentence in found if sentence]


def _ends_sentence(word: str, mark: str | None, *, visible_start: bool) -> bool:
    """Whether a mark ends a sentence, seen with the word before it and with what follows."""
    if mark is None:
        return True
    if mark == "…" or mark.startswith(".."):
        return visible_start
    if mark != ".":
        return True
    if word in _TITLES or (len(word) == 1 and word.isalpha() and word != "i"):
        return False
    return visible_start or word not in _MAY_END
