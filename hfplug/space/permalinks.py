"""Addresses that bring somebody else to the same comparison: example, columns, decoding, seed and blind mode.

A dialogue is never part of an address, only the name of an example. Whatever cannot be read is left out with a note:
an address comes from anywhere, so nothing in it may stop the page, and nothing of it is repeated in a message.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hfplug.space.config_parts import NAME, REPO_ID, Switch

EXAMPLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# Name to kind, smallest and largest value; the names are those of hfplug.serving.service.Decoding.
DECODING: dict[str, tuple[type, float, float]] = {
    "max_new_tokens": (int, 1, 4096),
    "temperature": (float, 0.0, 5.0),
    "top_p": (float, 0.0, 1.0),
    "top_k": (int, 0, 10_000),
    "repetition_penalty": (float, 0.1, 10.0),
    "no_repeat_ngram_size": (int, 0, 50),
    "num_beams": (int, 1, 16),
}
LARGEST_SEED = 2**31 - 1
# A column of the settings, or one that a visitor added: its repo, and a commit if it was asked for.
VARIANT = re.compile(rf"{NAME.pattern}|{REPO_ID.pattern}(@[0-9a-f]{{7}})?")
_LONGEST = 4000
_MOST_VARIANTS = 17
_NUMBER = {int: re.compile(r"\d{1,10}"), float: re.compile(r"\d{1,4}(\.\d{1,6})?")}
_PARTS = ("example", "variants", "task", "seed", "blind", *DECODING)


@dataclass(frozen=True, kw_only=True)
class Link:
    """What an address says. What it does not say is None or empty: the page's own choice stays.

    Attributes:
        example: Name of an example.
        variants: Names of columns, in their order.
        task: Name of a task.
        decoding: Settings of ``Decoding``, of those in ``DECODING``.
        seed: Of the sampling, 0 to 2147483647.
        blind: Whether columns are shuffled and unnamed.
    """

    example: str | None = None
    variants: tuple[str, ...] = ()
    task: str | None = None
    decoding: Mapping[str, int | float] = field(default_factory=dict)
    seed: int | None = None
    blind: Switch | None = None

    __hash__ = None  # type: ignore[assignment]  # it holds a mapping


def encode_link(link: Link) -> str:
    """The query string of an address, without a question mark; the same link gives the same text.

    >>> encode_link(Link(example="first-day", variants=("base", "lora"), seed=7, blind="on"))
    'example=first-day&variants=base,lora&seed=7&blind=on'
    """
    parts: dict[str, str] = {}
    if link.example is not None:
        parts["example"] = link.example
    if link.variants:
        parts["variants"] = ",".join(link.variants)
    if link.task is not None:
        parts["task"] = link.task
    for name in DECODING:
        if name in link.decoding:
            parts[name] = _written(link.decoding[name])
    if link.seed is not None:
        parts["seed"] = str(link.seed)
    if link.blind is not None:
        parts["blind"] = link.blind
    return urllib.parse.urlencode(parts, safe=",/@")


def decode_link(
    query: str | Mapping[str, Any],
    *,
    examples: Collection[str] | None = None,
    variants: Collection[str] | None = None,
    tasks: Collection[str] | None = None,
) -> tuple[Link, tuple[str, ...]]:
    """What an address says, and notes about what of it was left out.

    Args:
        query: The query string, with or without a question mark, or its parts (``request.query_params``). Parts that
            are none of ours are left alone: a Hub adds some of its own.
        examples, variants, tasks: The names that there are; None to take any that could be one.

    Returns:
        The link, and a note for people for each part that could not be taken. It never raises.
    """
    parts, notes = _parts(query)
    values: dict[str, Any] = {}
    decoding: dict[str, int | float] = {}
    for name, text in parts.items():
        if name in DECODING:
            number = _number(text, *DECODING[name])
            _keep(decoding, name, number, notes)
        elif name == "seed":
            _keep(values, name, _number(text, int, 0, LARGEST_SEED), notes)
        elif name == "blind":
            _keep(values, name, text if text in ("on", "off") else None, notes)
        elif name == "variants":
            found = _variants(text, variants, notes)
            _keep(values, name, found or None, notes)
        else:
            pattern, known = (EXAMPLE_ID, examples) if name == "example" else (NAME, tasks)
            _keep(values, name, _known(text, pattern, known), notes)
    return Link(**values, decoding=decoding), tuple(dict.fromkeys(notes))


def _parts(query: str | Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The parts that are ours, each once."""
    if isinstance(query, str):
        if len(query) > _LONGEST:
            return {}, ["The address is too long to be one of this page's; it was not read."]
        try:
            pairs = urllib.parse.parse_qsl(query.removeprefix("?"), max_num_fields=64, keep_blank_values=False)
        except ValueError:
            return {}, ["The address could not be read."]
    else:
        pairs = [(str(name), str(value)) for name, value in query.items()]
        if sum(len(name) + len(value) for name, value in pairs) > _LONGEST:
            return {}, ["The address is too long to be one of this page's; it was not read."]
    found: dict[str, str] = {}
    notes = []
    for name, value in pairs:
        if name not in _PARTS:
            continue
        if name in found:
            notes.append(f"The address says {name} twice; the first is taken.")
            continue
        found[name] = value
    return found, notes


def _keep(values: dict[str, Any], name: str, value: Any, notes: list[str]) -> None:
    if value is None:
        notes.append(f"What the address says for {name} is not known here; it was left out.")
    else:
        values[name] = value


def _variants(text: str, known: Collection[str] | None, notes: list[str]) -> tuple[str, ...]:
    names: Sequence[str] = list(dict.fromkeys(text.split(",")))[: _MOST_VARIANTS + 1]
    found = [name for name in names if _known(name, VARIANT, known) is not None][:_MOST_VARIANTS]
    if found and len(found) < len(names):
        notes.append("The address names columns that are not here; they were left out.")
    return tuple(found)


def _known(text: str, pattern: re.Pattern[str], known: Collection[str] | None) -> str | None:
    return text if pattern.fullmatch(text) and (known is None or text in known) else None


def _number(text: str, kind: type, least: float, most: float) -> Any:
    # fullmatch with ASCII digits: int() takes "1_000", spaces and digits of other alphabets.
    if not text.isascii() or not _NUMBER[kind].fullmatch(text):
        return None
    number = kind(text)
    return number if least <= number <= most else None


def _written(number: int | float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.6f}".rstrip("0").rstrip(".")
