"""Names and numbers of an answer that its source has nowhere; ``marks.py`` says what that is worth."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from hfplug.comparison.number_words import in_digits, in_words, is_grouped, numbers_said, readings
from hfplug.comparison.words import Span, Word, joined, words_of


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Capital letters that no name needs: "I", "I'm", titles, and what people write instead of a full word.
_NO_NAMES = _set(
    "i i'm i've i'll i'd i'am mr mrs ms mx miss dr prof sir madam mum mom dad ok o.k. tv am pm a.m. p.m. ad bc"
)
# What starts a sentence and is no name.
_STARTERS = _set("""
    a an the this that these those it its he she they we you his her their our your my me him them us who what which
    when where why how if then than so but and or nor for as at by in into of off on onto to from with without about
    after before during since until while although though because however therefore moreover meanwhile finally later
    now today tomorrow yesterday first second third last next also both all each either neither every everyone
    everybody everything someone somebody something anyone anybody anything nobody nothing one two three some any no
    not yes there here due once besides instead overall another other others only even just again more most many much
    few several such same hi hello hey oh well please thanks thank sorry sure okay
""")
# What people do in a summary: a word that starts a sentence and does one of these is somebody.
_DEEDS = _set("""
    accept add admit advise agree ask assure believe book buy call comfort complain confirm congratulate convince deny
    describe disagree discuss encourage explain express feel forget give help hope inform insist introduce invite know
    learn like live love mention need offer order persuade plan prefer promise propose praise recommend refuse regret
    remember remind reply request respond say show suggest talk teach tell thank think want warn wonder work
""")
_PAST = _set("said told thought bought knew felt gave taught forgot")
# Where a sentence may start with a capital that says nothing: what stands before it ends in one of these.
_BEFORE_SENTENCE = re.compile(r"(?:^|[.!?:;…。！？\n•*–—-]|\n\s*\d+[.)])[\s\"'“”‘’«»(\[*_>-]*$")
_TITLE_BEFORE = re.compile(r"\b(?:mr|mrs|ms|mx|dr|prof|st|jr|sr|vs)\.\s*$", re.IGNORECASE)
_LOOK_BACK = 24  # characters before a word that decide whether a sentence starts there
_LIST_MARK = re.compile(r"[ \t]*\d+[.)](?=\s)")
# "American" is said by whoever says "America", "the Smiths" by whoever says "Smith".
_ENDINGS = ("s", "es", "n", "an", "ian", "ish", "ese", "er", "ers", "ns", "ans", "ians")
_SHORTEST_STEM = 4
_WORDS_OF_A_HEADING = 4


def unsupported(text: str, source: str) -> tuple[Span, ...]:
    """The names and numbers of a text that occur in no part of its source: a cheap sign of invention, no more.

    A name is a word with a capital inside a sentence. The first word of a sentence counts as one only if it has a
    capital elsewhere too, or another name, a possessive 's or a verb that people do ("asks") follows. A number
    counts as said if the source has it in digits or in words, with whatever separators, or, for a time or a date,
    each of its parts.

    Args:
        text: A summary, an answer.
        source: What it is about: the whole dialogue, with its speakers' names.

    Returns:
        Places in ``text``, in order; words that follow one another are one.
    """
    words, said = words_of(text), _read(source)
    flagged = {word.start: word for word in _names(text, words) if not _is_known(word, said)}
    flagged |= {word.start: word for word in _numbers(text, words) if not _is_said(word, said.numbers)}
    for run, value in in_words(words):
        if value not in said.numbers:
            flagged |= {word.start: word for word in run}
    return joined(text, [flagged[start] for start in sorted(flagged)])


class _Source(NamedTuple):
    """What a source has: its words under all their keys, its letters without spaces, the numbers that it says."""

    known: frozenset[str]
    squeezed: str
    numbers: frozenset[str]


@functools.lru_cache(maxsize=8)  # one dialogue is asked about for each variant in turn
def _read(source: str) -> _Source:
    words = words_of(source)
    known = {key for word in words for key in _keys(word)} | set(_initials(words))
    squeezed = re.sub("[-']", "", "".join(word.key for word in words))
    return _Source(frozenset(known), squeezed, frozenset(numbers_said(words)))


# --------------------------------------------------------------------------------------------------- names


def _names(text: str, words: Sequence[Word]) -> Iterator[Word]:
    """The words that are names, by their capitals; also ``#Person1#`` and ``B12``."""
    shouted = _without_meaning(text, words)
    inside = [_has_capital(word) and not _starts_sentence(text, word) for word in words]
    names = {word.key for word, is_inside in zip(words, inside, strict=True) if is_inside}
    lower = {word.key for word in words if not _has_capital(word)}
    for at, word in enumerate(words):
        key = _without_possessive(word.key)
        if word.text[0] == "#" or _mixed(word):
            yield word
        elif shouted[at] or not _has_capital(word) or key in _NO_NAMES or key.rstrip(".") in _NO_NAMES:
            continue
        elif inside[at] or (word.key in names and word.key not in lower):
            yield word
        elif key in _STARTERS or not key.isalpha() or len(key) == 1:
            continue
        elif key != word.key or _followed_by_name(text, words, inside, at) or _does_something(words, at):
            yield word


def _has_capital(word: Word) -> bool:
    return word.text[0].isupper() or word.text[0].istitle()


def _mixed(word: Word) -> bool:
    """Whether letters and digits are one word, letters first: ``B12``, ``COVID-19``."""
    return word.text[0].isalpha() and any(letter.isdecimal() for letter in word.text)


def _starts_sentence(text: str, word: Word) -> bool:
    before = text[max(0, word.start - _LOOK_BACK) : word.start]
    if word.start > len(before) and not before.strip():
        return False
    if _TITLE_BEFORE.search(before):
        return False
    # What is cut off in front is no start of the text.
    return bool(_BEFORE_SENTENCE.search(before if word.start <= _LOOK_BACK else f"x{before}"))


def _followed_by_name(text: str, words: Sequence[Word], inside: Sequence[bool], at: int) -> bool:
    """Whether a name follows at once, or after "and": "Tom Smith", "Tom and Mary"."""
    step = 2 if at + 1 < len(words) and words[at + 1].key in ("and", "&", "or") else 1
    if at + step >= len(words) or not inside[at + step] or words[at + step].key in _NO_NAMES:
        return False
    between = text[words[at].end : words[at + step].start]
    return between.strip() == ("" if step == 1 else text[words[at + 1].start : words[at + 1].end])


def _does_something(words: Sequence[Word], at: int) -> bool:
    """Whether what a person does follows: "Sarah mentions", "Sarah also said"."""
    following = [word.key for word in words[at + 1 : at + 3]]
    deed = (
        following[-1] if len(following) == 2 and following[0] in ("also", "then", "first") else "".join(following[:1])
    )
    stems = {deed.removesuffix(ending) for ending in ("s", "es", "ed", "d")} | {deed.removesuffix("ies") + "y"}
    return deed in _PAST or (deed not in _DEEDS and not stems.isdisjoint(_DEEDS))


def _without_meaning(text: str, words: Sequence[Word]) -> list[bool]:
    """For each word whether it stands in a line where nearly all words have capitals, as in a heading."""
    shouted = [False] * len(words)
    start = 0
    while start < len(words):
        end = start + 1
        while end < len(words) and "\n" not in text[words[end - 1].end : words[end].start]:
            end += 1
        line = [word for word in words[start:end] if word.text[0].isalpha()]
        capitals = sum(_has_capital(word) for word in line)
        if len(line) >= _WORDS_OF_A_HEADING and capitals >= 0.75 * len(line):
            shouted[start:end] = [True] * (end - start)
        start = end
    return shouted


def _keys(word: Word) -> Iterator[str]:
    """Under which keys a word of the source is known."""
    key = word.key
    yield key
    yield _without_possessive(key)
    yield key.replace(".", "")
    yield key.strip("#")
    yield from re.split(r"['-]", key)


def _initials(words: Sequence[Word]) -> Iterator[str]:
    """Letters that stand alone, one after another, as one word: "L. A." is "la"."""
    for length in (2, 3):
        for at in range(len(words) - length + 1):
            run = [word.key for word in words[at : at + length]]
            if all(len(key) == 1 for key in run):
                yield "".join(run)


def _is_known(word: Word, said: _Source) -> bool:
    known = said.known
    key = _without_possessive(word.key).strip("#")
    if key in known or key.replace(".", "") in known:
        return True
    if _mixed(word):
        # "B 12" and "B-12" of the source, "B12" of the text.
        return re.sub("[-']", "", key) in said.squeezed
    if "-" in key:
        return all(part in known for part in key.split("-"))
    for ending in _ENDINGS:
        stem = key.removesuffix(ending)
        if key != stem and len(stem) >= _SHORTEST_STEM and stem in known:
            return True
        if len(key) >= _SHORTEST_STEM and key + ending in known:
            return True
    return False


def _without_possessive(key: str) -> str:
    return key.removesuffix("'s").removesuffix("'")


# ------------------------------------------------------------------------------------------------- numbers


def _numbers(text: str, words: Sequence[Word]) -> Iterator[Word]:
    """The numbers in digits, without those that number the lines of a list."""
    marks = {match.end() for match in re.finditer(r"(?m)^[ \t]*\d+(?=[.)]\s)", text)}
    return (word for word in words if in_digits(word) and word.end not in marks)


def _is_said(word: Word, numbers: Collection[str]) -> bool:
    whole, parts = readings(word.text)
    if any(number in numbers for number in whole):
        return True
    if len(parts) == 1 or is_grouped(word.text):
        return False
    # A time or a date: each of its parts, 14:00 as 2 as well. What is all zeros says nothing ("7:00").
    return all(part == "0" or part in numbers or (":" in word.text and str(_hour(part)) in numbers) for part in parts)


def _hour(part: str) -> int:
    """An afternoon's hour of the 24-hour clock on the 12-hour clock; -1 for anything else."""
    return int(part) - 12 if len(part) == 2 and 13 <= int(part) <= 23 else -1
