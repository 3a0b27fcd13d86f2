"""The parts of a Space's settings and their values: what may stand there, and what is said if it may not."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hfplug.adapters.record import SECRET_TEXT
from hfplug.errors import SpaceError, did_you_mean

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,47}")
REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")
REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./+-]{0,198}[A-Za-z0-9_+-])?")
_RESERVED_NAMES = ("base",)
Switch = Literal["on", "off"]


@dataclass(frozen=True, kw_only=True)
class SpaceLimits:
    """How much a visitor may ask for.

    Attributes:
        max_input_tokens: Longest prompt in tokens.
        max_new_tokens: Longest answer in tokens.
        max_input_characters: Longest dialogue in characters.
        max_queue: Requests that may wait.
        variant_bytes: Bytes that variants may hold in memory beyond the base; None for no limit.
        pull_bytes: Bytes of an adapter that a visitor may add; read from the Hub's list of files before any is fetched.
        pull_seconds: Seconds that adding one may take.
        added_variants: Adapters of visitors that are kept; the one that was used longest ago gives way.
    """

    max_input_tokens: int = 1024
    max_new_tokens: int = 200
    max_input_characters: int = 100_000
    max_queue: int = 64
    variant_bytes: int | None = None
    pull_bytes: int = 200_000_000
    pull_seconds: int = 120
    added_variants: int = 8

    def for_service(self) -> dict[str, Any]:
        """Those that ``hfplug.serving.service.Limits`` takes, by its names."""
        names = ("max_input_tokens", "max_new_tokens", "max_input_characters", "max_queue", "variant_bytes")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class VariantSource:
    """A column that the Space's owner chose.

    Attributes:
        name: Its heading.
        source: ``owner/name`` on a Hub, or a folder (relative to the file of settings).
        revision: Branch, tag or commit of a repo; None for the default branch.
    """

    name: str
    source: str
    revision: str | None = None


def parse_variant(text: str) -> VariantSource:
    """A variant as it is typed: ``NAME=SOURCE`` or ``NAME=SOURCE@REVISION``; without a name, that of its source.

    Raises:
        SpaceError: It is neither, or the name is none.
    """
    name, equals, rest = ("", "", text) if Path(text).exists() else text.partition("=")
    rest = rest if equals else text
    source, _, revision = rest.partition("@") if not Path(rest).exists() else (rest, "", "")
    source = source.removeprefix("hf://")
    if not source or (not equals and not (Path(source).exists() or REPO_ID.fullmatch(source))):
        raise SpaceError(f"A variant is NAME=SOURCE, not {text[:80]!r}.", fix="For example lora=me/my-lora@main")
    name = name if equals else Path(source).absolute().name
    return _variant({"name": name, "source": source, "revision": revision or None}, text[:80])


def refuse_secrets(value: Any, where: str) -> None:
    """Refuse settings that hold what looks like a token, in a key or a value, however deep.

    Raises:
        SpaceError: They do. The message does not repeat it.
    """
    items = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
    if isinstance(items, (list, tuple)):
        for item in items:
            refuse_secrets(item, where)
    elif isinstance(value, str) and SECRET_TEXT.search(value):
        raise SpaceError(
            f"{where} holds what looks like an access token.",
            fix="Take it out and revoke it; a token is read from the environment variable HF_TOKEN only.",
        )


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 500:
        raise SpaceError(f"{where} must be a line of text of at most 500 characters.")
    return value.strip()


def _maybe_text(value: Any, where: str) -> str | None:
    return None if value is None or value == "" else _text(value, where)


def _switch(value: Any, where: str) -> Switch:
    if value not in ("on", "off"):
        raise SpaceError(f"{where} must be 'on' or 'off', not {str(value)[:40]!r}.")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise SpaceError(f"{where} must be a list of texts.")
    return tuple(_text(item, f"each of {where}") for item in value)


def _variants(value: Any, where: str) -> tuple[VariantSource, ...]:
    if not isinstance(value, (list, tuple)):
        raise SpaceError(f"{where} must be a list of objects with 'name' and 'source'.")
    return tuple(_variant(item, f"variant {number} of {where}") for number, item in enumerate(value, start=1))


def _variant(value: Any, where: str) -> VariantSource:
    keys = ("name", "source", "revision")
    if not isinstance(value, Mapping) or not {"name", "source"} <= set(value):
        raise SpaceError(f"{where} must be an object with 'name' and 'source'.")
    for name in value:
        if name not in keys:
            raise SpaceError(f"{where} has the key {str(name)[:60]!r}, which there is not.", fix=f"Keys: {keys}")
    name, revision = value["name"], _maybe_text(value.get("revision"), f"'revision' of {where}")
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in _RESERVED_NAMES:
        raise SpaceError(
            f"The name of {where} must be a word of up to 48 letters, digits, '_', '.' and '-', and not 'base'."
        )
    if revision is not None and (not REVISION.fullmatch(revision) or ".." in revision):
        raise SpaceError(f"'revision' of {where} is no branch, tag or commit.")
    return VariantSource(name=name, source=_text(value["source"], f"'source' of {where}"), revision=revision)


def limits_of(value: Any, where: str) -> dict[str, int | None]:
    known = [item.name for item in dataclasses.fields(SpaceLimits)]
    if not isinstance(value, Mapping):
        raise SpaceError(f"{where} must be an object with any of {', '.join(known)}.")
    for name, number in value.items():
        if name not in known:
            guess = did_you_mean(str(name), known)
            raise SpaceError(
                f"{where} has the key {str(name)[:60]!r}, which there is not.",
                fix=guess or f"The keys are {', '.join(known)}.",
            )
        if number is None and name == "variant_bytes":
            continue
        least = 0 if name in ("added_variants", "variant_bytes") else 1
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= 10**13:
            raise SpaceError(f"{name!r} of {where} must be a whole number of at least {least}.")
    return dict(value)


def _votes(value: Any, where: str) -> str:
    text = _text(value, where).removeprefix("hf://").removeprefix("datasets/")
    if text == "off" or text.endswith(".jsonl") or REPO_ID.fullmatch(text):
        return text
    raise SpaceError(f"{where} must be 'off', a file that ends in .jsonl, or a dataset repo OWNER/NAME.")


def _endpoint(value: Any, where: str) -> str | None:
    text = _maybe_text(value, where)
    if text is not None and not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+/?", text):
        raise SpaceError(f"{where} must be the address of a Hub, such as https://huggingface.co, without a password.")
    return text.rstrip("/") if text else None


KEYS: dict[str, Callable[[Any, str], Any]] = {
    "title": _text,
    "base": _text,
    "revision": _maybe_text,
    "variants": _variants,
    "report": _maybe_text,
    "examples": _maybe_text,
    "add_adapters": _switch,
    "allowed_owners": _texts,
    "allowed_bases": _texts,
    "limits": limits_of,
    "votes": _votes,
    "votes_text": _switch,
    "votes_folder": _text,
    "endpoint": _endpoint,
}


def whole_number(text: str, variable: str) -> int | None:
    if text.strip() == "none":
        return None
    try:
        return int(text.replace("_", ""))
    except ValueError:
        raise SpaceError(f"{variable} must be a whole number, not {text[:40]!r}.") from None
