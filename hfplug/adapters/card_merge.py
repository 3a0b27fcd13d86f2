"""Merging a rendered card into a README that people may have written or edited.

A person's text is never lost. Of a README only the generated sections are replaced, and of its front matter
only what an earlier card put there and nobody has changed since. What an earlier card put there is kept in a
comment inside its ``summary`` section (``provenance``), which Markdown does not show.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import yaml_dump

from hfplug.errors import AdapterError

# A section never spans the start of another one: a lone "begin" that a person left must not swallow text.
_SECTION = re.compile(
    r"<!-- hfplug:begin (?P<name>[\w-]+) -->(?:(?!<!-- hfplug:begin ).)*?<!-- hfplug:end (?P=name) -->", re.S
)
_PROVENANCE = re.compile(r"<!-- hfplug:generated (\{.*?\}) -->")
_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\n(.*?)^---[ \t]*(?:\n|\Z)", re.S | re.M)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which only true and false are truth values: ``language: no`` is Norwegian."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|True|TRUE|false|False|FALSE"), "tTfF")


def provenance(front_matter: Mapping[str, Any], sections: Sequence[str]) -> str:
    """The comment that says what was generated: the front matter, and the names of the sections."""
    text = json.dumps({"front_matter": front_matter, "sections": list(sections)}, default=str, sort_keys=True)
    # A comment ends at its first "-->".
    return f"<!-- hfplug:generated {text.replace('-', chr(92) + 'u002d').replace('>', chr(92) + 'u003e')} -->"


def merge_card(existing: str, new: str) -> str:
    """A README with its generated sections brought up to date.

    Args:
        existing: The README as it is: one of ours, edited or not, or one that a person wrote.
        new: A card that ``render_card`` made.

    Returns:
        ``existing`` with the sections of ``new`` in the place of the same ones; sections that it never had
        are appended; sections that a person took out stay out; sections that ``new`` no longer has go. Keys
        of the front matter that a person set or changed stay; tags are joined. Line ends stay as they are.

    Raises:
        AdapterError: The front matter of ``existing`` is no YAML mapping.
    """
    line_end = "\r\n" if "\r\n" in existing else "\n"
    existing = existing.removeprefix("\ufeff").replace("\r\n", "\n")
    old_front, old_body = _split(existing)
    new_front, new_body = _split(new)
    if not old_body.strip() or _is_untouched_template(old_body):
        # Nobody has written anything there yet.
        merged = _join(_merge_front_matter(old_front, new_front, {}), new_body)
        return merged.replace("\n", line_end)
    generated = _read_provenance(old_body)
    new_front, new_body = _repeat_what_was_asked_for(new_front, new_body, generated.get("front_matter") or {})
    front = _merge_front_matter(old_front, new_front, generated.get("front_matter") or {})
    body = _merge_sections(old_body, new_body, generated.get("sections") or [])
    return _join(front, body).replace("\n", line_end)


def _repeat_what_was_asked_for(
    front: Mapping[str, Any], body: str, generated: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """A new card with the licence and the language of the earlier one, if it names none itself.

    They do not follow from the adapter. Whoever renders the card again without saying them takes nothing back.
    """
    kept = {key: generated[key] for key in ("license", "language") if key in generated and key not in front}
    found = _read_provenance(body)
    if not kept or not found:
        return dict(front), body
    comment = provenance({**found["front_matter"], **kept}, found["sections"])
    return {**front, **kept}, _PROVENANCE.sub(lambda _: comment, body)


def _merge_sections(old: str, new: str, generated: Sequence[str]) -> str:
    fresh = {match["name"]: match[0] for match in _SECTION.finditer(new)}
    present = {match["name"] for match in _SECTION.finditer(old)}
    placed: set[str] = set()

    def replacement(match: re.Match[str]) -> str:
        name = match["name"]
        # Gone from the card, or a second copy of a section that was pasted twice.
        if name not in fresh or name in placed:
            return ""
        placed.add(name)
        return fresh[name]

    body = _SECTION.sub(replacement, old)
    taken_out = set(generated) - present
    added = [text for name, text in fresh.items() if name not in present | taken_out]
    return "\n\n".join([body.rstrip(), *added]) + "\n"


def _merge_front_matter(old: Mapping[str, Any], new: Mapping[str, Any], generated: Mapping[str, Any]) -> dict[str, Any]:
    """Three ways: what is there, what is new, and what was generated the last time."""
    # Of the new card it is known that this is an id, whatever lies in the current folder.
    known = new.get("base_model")
    merged = dict(old)
    for key in generated:
        # Untouched since we wrote it: the new card decides, also that the key goes.
        if key in merged and key != "tags" and merged[key] == generated[key] and key not in new:
            del merged[key]
    for key, value in new.items():
        if key == "tags":
            stale = [tag for tag in generated.get("tags") or [] if tag not in value]
            kept = old.get("tags") or []
            kept = [kept] if isinstance(kept, str) else list(kept)
            merged["tags"] = list(dict.fromkeys([*(tag for tag in kept if tag not in stale), *value]))
        elif key not in merged or merged[key] == generated.get(key) or _is_local(key, merged[key], known):
            merged[key] = value
    if isinstance(merged.get("tags"), list):
        # PEFT's own cards repeat the base as a tag, "base_model:adapter:<base>".
        merged["tags"] = [tag for tag in merged["tags"] if not _is_local_tag(tag, known)]
    if _is_local("base_model", merged.get("base_model"), known):
        # The Hub rejects a card whose base is a path on somebody's machine.
        merged.pop("base_model")
        merged.pop("base_model_relation", None)
    return merged


def _is_local(key: str, value: Any, known: Any) -> bool:
    if key != "base_model" or not isinstance(value, str) or value == known:
        return False
    return value.startswith((".", "/", "~")) or "\\" in value or value.count("/") > 1 or os.path.exists(value)


def _is_local_tag(tag: object, known: Any) -> bool:
    parts = str(tag).split(":", 2)
    return len(parts) == 3 and parts[0] == "base_model" and _is_local("base_model", parts[2], known)


def _read_provenance(body: str) -> dict[str, Any]:
    match = _PROVENANCE.search(body)
    try:
        found = json.loads(match[1]) if match else {}
    except ValueError:
        return {}  # somebody edited the comment: then everything counts as theirs
    return found if isinstance(found, dict) else {}


def _split(text: str) -> tuple[dict[str, Any], str]:
    """The front matter, and the body after it."""
    match = _FRONT_MATTER.match(text)
    if match is None:
        return {}, text
    try:
        front = yaml.load(match[1], Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        where = str(error).replace("\n", " ")
        raise AdapterError(
            f"The front matter of the README cannot be read as YAML: {where}.", fix="Correct it by hand."
        ) from error
    if front is not None and not isinstance(front, dict):
        raise AdapterError(
            f"The front matter of the README must map keys to values; it is a {type(front).__name__}.",
            fix="Write for example 'license: apache-2.0' between the two lines '---'.",
        )
    return front or {}, text[match.end() :]


def _join(front: Mapping[str, Any], body: str) -> str:
    if not front:
        return body.lstrip("\n")
    head = yaml_dump(dict(front), sort_keys=False).strip()
    return f"---\n{head}\n---\n\n{body.lstrip(chr(10))}"


def _is_untouched_template(body: str) -> bool:
    """Whether this is the form that PEFT saves with every checkpoint, with nothing filled in."""
    if "# Model Card for Model ID" not in body:
        return False
    form = ModelCard.from_template(ModelCardData()).text
    return body.split("### Framework versions")[0].split() == form.split("### Framework versions")[0].split()
