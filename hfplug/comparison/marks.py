"""Which words of an answer to mark: those that differ from another answer, those that the reference has too, and
names and numbers that the source has nowhere.

The last is a cheap sign of invention and no more than that. A flag may be wrong (a right conclusion, a nickname, a sum,
another spelling), and most inventions have no flag: a wrong verb, a "not" too few, a name of the dialogue that did
something else. It reads capitals and English number words, so in a script without capitals it sees digits only, and in
German, where every noun has one, it sees too much.

All functions take plain texts, need the standard library only, and take well under a second for 10,000 words.
"""

from __future__ import annotations

import difflib
import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from hfplug.comparison.invention import unsupported
from hfplug.comparison.words import Span, joined, words_of

__all__ = ["Span", "differing_words", "shared_words", "unsupported"]

# Pairs of equal words up to which difflib is asked: its time grows with them, times the number of blocks.
_PAIRS_FOR_DIFFLIB = 50_000


def differing_words(text: str, other: str) -> tuple[Span, ...]:
    """The words of a text that another text, put beside it in order, does not have at that place.

    Args:
        text: The text to mark.
        other: What it is compared with. Upper and lower case are the same, and so are kinds of apostrophes.

    Returns:
        Places in ``text``, in order; words that follow one another are one.
    """
    words, others = words_of(text), [word.key for word in words_of(other)]
    same = _matched([word.key for word in words], others)
    return joined(text, [word for word, matches in zip(words, same, strict=True) if not matches])


def shared_words(text: str, references: Sequence[str]) -> tuple[Span, ...]:
    """The words of a text that any of the references has, in any order.

    Args:
        text: The text to mark.
        references: One text or more. Upper and lower case are the same; other forms of a word are not.

    Returns:
        Places in ``text``, in order; words that follow one another are one.
    """
    known = {word.key for reference in references for word in words_of(reference)}
    return joined(text, [word for word in words_of(text) if word.key in known])


def _matched(a: Sequence[str], b: Sequence[str]) -> list[bool]:
    """For each word of ``a`` whether it has a partner in ``b``, in order."""
    same = [False] * len(a)
    # Not recursion: a hostile text could make it deep.
    waiting = [(0, len(a), 0, len(b))]
    while waiting:
        a_low, a_high, b_low, b_high = waiting.pop()
        while a_low < a_high and b_low < b_high and a[a_low] == b[b_low]:
            same[a_low] = True
            a_low, b_low = a_low + 1, b_low + 1
        while a_low < a_high and b_low < b_high and a[a_high - 1] == b[b_high - 1]:
            a_high, b_high = a_high - 1, b_high - 1
            same[a_high] = True
        left, right = a[a_low:a_high], b[b_low:b_high]
        counts, others = Counter(left), Counter(right)
        if sum(count * others[word] for word, count in counts.items()) <= _PAIRS_FOR_DIFFLIB:
            for block in difflib.SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks():
                same[a_low + block.a : a_low + block.a + block.size] = [True] * block.size
            continue
        anchors = _anchors(left, right, counts, others)
        for at in range(len(left)) if not anchors else ():
            # Nothing to hold on to: a word is the same as long as the other side has one left.
            same[a_low + at] = others[left[at]] > 0
            others[left[at]] -= 1
        for at_a, _ in anchors:
            same[a_low + at_a] = True
        fences = [(-1, -1), *anchors, (len(left), len(right))] if anchors else []
        for (from_a, from_b), (to_a, to_b) in itertools.pairwise(fences):
            waiting.append((a_low + from_a + 1, a_low + to_a, b_low + from_b + 1, b_low + to_b))
    return same


def _anchors(a: Sequence[str], b: Sequence[str], in_a: Counter[str], in_b: Counter[str]) -> list[tuple[int, int]]:
    """Words that each side has once, as pairs of places that rise on both sides (patience diff)."""
    place_in_b = {word: at for at, word in enumerate(b) if in_b[word] == 1 == in_a[word]}
    pairs = [(at, place_in_b[word]) for at, word in enumerate(a) if word in place_in_b]
    # The longest rising run of places in b: the last place of the best run of each length, and who came before.
    ends: list[int] = []
    ends_at: list[int] = []
    before: list[int] = []
    for number, (_, at_b) in enumerate(pairs):
        length = bisect_left(ends, at_b)
        before.append(ends_at[length - 1] if length else -1)
        ends[length : length + 1] = [at_b]
        ends_at[length : length + 1] = [number]
    run: list[tuple[int, int]] = []
    number = ends_at[-1] if ends_at else -1
    while number >= 0:
        run.append(pairs[number])
        number = before[number]
    return run[::-1]
