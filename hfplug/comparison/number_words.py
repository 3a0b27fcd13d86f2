"""Numbers in a text, whether written in digits or in English words, so that ``1,200`` and "twelve hundred" are one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from hfplug.comparison.words import Word

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth"
)
_SMALL = {
    **{word: number for number, word in enumerate(_UNITS.split())},
    **{word: 10 * number for number, word in enumerate(_TENS.split(), start=2)},
}
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
# What a number may be based on, beside number words: "half past six", "a quarter to nine", "at noon", "both".
_HINTS = {
    **{word: (number,) for number, word in enumerate(_ORDINALS.split(), start=1)},
    **{f"{word[:-1]}ieth": (10 * number,) for number, word in enumerate(_TENS.split(), start=2)},
    "half": (30, 50), "quarter": (15, 25, 45), "quarters": (15, 45, 75), "dozen": (12,), "noon": (12,),
    "midnight": (0, 12), "couple": (2,), "both": (2,), "pair": (2,), "twice": (2,), "double": (2,), "once": (1,),
    "a": (1,), "an": (1,), "single": (1,), "triple": (3,), "decade": (10,), "century": (100,), "fortnight": (14,),
}  # fmt: skip
_DIGITS = re.compile(r"\d+")
_GROUPED = re.compile(r"\d{1,3}(?:([,.'’\u00a0\u202f])\d{3})(?:\1\d{3})*(?:[.,]\d+)?")
_LETTERS = re.compile(r"[^\W\d_]+$")
_SUFFIXES = {"k": "000", "m": "000000", "bn": "000000000"}


def in_digits(word: Word) -> bool:
    """Whether a word is a number written in digits, a unit behind it or not: ``20``, ``7:30pm``, ``1990s``."""
    return word.text[:1].isdecimal()


def is_grouped(word: str) -> bool:
    """Whether a word is one number with thousands set apart, as ``1,200`` is and ``7:30`` is not."""
    return bool(_GROUPED.fullmatch(word))


def readings(word: str) -> tuple[set[str], list[str]]:
    """What a word that starts with a digit may mean.

    Args:
        word: E.g. ``"1,200"``, ``"7:30pm"``, ``"5k"``, ``"3rd"``.

    Returns:
        The numbers that the whole of it may be, as plain digits, and its groups of digits: of a time or a date each
        one is a number of its own.
    """
    parts = [_plain(digits) for digits in _DIGITS.findall(word)]
    whole = {"".join(_plain_keeping_zeros(digits) for digits in _DIGITS.findall(word)).lstrip("0") or "0"}
    unit = _LETTERS.search(word)
    number = word[: unit.start()] if unit else word
    if unit and unit[0].casefold() in _SUFFIXES and len(parts) == 1:
        whole.add(parts[0] + _SUFFIXES[unit[0].casefold()])
    if len(parts) > 1 and re.search(r"[.,]\d+$", number):
        # The last group may be decimals, and decimals may be nothing but zeros.
        head, tail = parts[:-1], _plain_keeping_zeros(_DIGITS.findall(number)[-1]).rstrip("0")
        if len(head) == 1 or _GROUPED.fullmatch(number):
            joined = "".join([head[0], *(_plain_keeping_zeros(d) for d in _DIGITS.findall(number)[1:-1])])
            whole.add(f"{joined}.{tail}" if tail else joined)
    return whole, parts


def numbers_said(words: Sequence[Word]) -> set[str]:
    """Every number that a text can be said to mention, as plain digits; generous, so that few are missed.

    Args:
        words: The text's words.
    """
    found: set[str] = set()
    run: list[str] = []
    for word in words:
        if in_digits(word):
            whole, parts = readings(word.text)
            found |= whole if is_grouped(word.text) else whole | set(parts)
        for part in word.key.split("-"):
            if part in _SMALL or part in _SCALES or (part == "and" and run):
                run.append(part)
                continue
            found |= _values(run)
            run = []
            found |= {str(number) for number in _HINTS.get(part, ())}
    return found | _values(run)


def in_words(words: Sequence[Word]) -> Iterator[tuple[Sequence[Word], str]]:
    """The numbers that are written in words: the words of each, and its value as plain digits.

    "One" and "two" are left out, because they mostly count nothing ("this one", "the two of them"), and so is a
    scale without a number before it ("hundreds").

    Args:
        words: The text's words.
    """
    run: list[Word] = []
    for word in [*words, Word("", -1, -1)]:
        parts = word.key.split("-")
        counts = all(part in _SMALL or (part in _SCALES and (run or len(parts) > 1)) for part in parts)
        if counts or (word.key == "and" and run and run[-1].key in _SCALES):
            run.append(word)
        else:
            if run and run[-1].key == "and":
                run.pop()
            value = _value([part for item in run for part in item.key.split("-") if part != "and"])
            if run and value not in (1, 2):
                yield run, str(value)
            run = []


def _values(run: Sequence[str]) -> set[str]:
    """What a run of number words can mean: the whole, each word, and the digits said one by one."""
    parts = [part for part in run if part != "and"]
    if not parts:
        return set()
    single = {str(_SMALL.get(part, _SCALES.get(part))) for part in parts}
    spelled = "".join(str(_SMALL.get(part, "")) for part in parts)
    return single | {str(_value(parts))} | ({spelled} if spelled else set())


def _value(parts: Iterable[str]) -> int:
    """The number that words name: ``["two", "hundred", "fifty"]`` is 250."""
    total, group = 0, 0
    for part in parts:
        if part in _SMALL:
            group += _SMALL[part]
        elif part == "hundred":
            group = (group or 1) * 100
        else:
            total, group = total + (group or 1) * _SCALES[part], 0
    return total + group


def _plain_keeping_zeros(digits: str) -> str:
    """The digits 0 to 9, whatever script they are written in."""
    return "".join(str(unicodedata.decimal(digit)) for digit in digits)


def _plain(digits: str) -> str:
    # Not int(): Python refuses numbers of more than 4,300 digits.
    return _plain_keeping_zeros(digits).lstrip("0") or "0"
