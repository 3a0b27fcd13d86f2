"""The README of a deployed Space: front matter that the Hub configures it by, and a few generated lines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from huggingface_hub.utils import yaml_dump

from hfplug.adapters.card_merge import merge_card, provenance
from hfplug.adapters.card_text import code, inline
from hfplug.errors import SpaceError
from hfplug.space.app_files import app_folder
from hfplug.space.config import BUILT_IN, REPO_ID, SpaceConfig

CARD = "README.md"
# The app was tested with these; whoever deploys gets them, whatever the README said before.
PINNED = ("sdk", "sdk_version", "python_version", "app_file")
_FRONT_MATTER = re.compile(r"\A---\n(.*?)^---\n", re.DOTALL | re.MULTILINE)
# What the Hub writes into a Space that was just made; nobody's text.
_HUBS_OWN = re.compile(
    r"^Check out the configuration reference at https://huggingface\.co/docs/hub/spaces-config-reference\s*$", re.M
)
_SECTION = "space"


def render_space_card(config: SpaceConfig, *, hardware: str | None = None) -> str:
    """The README of a Space with these settings.

    Args:
        config: What it shows. Variants are named as repos.
        hardware: Suggested to whoever duplicates the Space.
    """
    front = front_matter_of((app_folder() / CARD).read_text(encoding="utf-8"))
    front["title"] = config.title
    models = [] if config.base == BUILT_IN else [config.base]
    models += [variant.source for variant in config.variants]
    if models:
        front["models"] = list(dict.fromkeys(models))
    datasets = [name for name in (config.votes,) if REPO_ID.fullmatch(name) and not name.endswith(".jsonl")]
    if datasets:
        front["datasets"] = datasets
    if hardware is not None:
        front["suggested_hardware"] = hardware
    head = yaml_dump(front, sort_keys=False).strip()
    return f"---\n{head}\n---\n\n# {inline(config.title)}\n\n{_section(config, front)}\n"


def merge_space_card(existing: str, new: str) -> tuple[str, tuple[str, ...]]:
    """A README that people may have edited, brought up to date; their text and keys stay.

    Args:
        existing: As it is.
        new: From :func:`render_space_card`.

    Returns:
        The README, and what was changed in it although a person had set it: the versions that the app needs.

    Raises:
        SpaceError: The front matter of ``existing`` is no YAML mapping.
    """
    before, wanted = front_matter_of(existing), front_matter_of(new)
    is_fresh = bool(_HUBS_OWN.search(existing)) and not _HUBS_OWN.sub("", _body(existing)).strip()
    if is_fresh or not existing.strip():
        # A title or an emoji that were chosen when the Space was made stay.
        kept = {key: value for key, value in before.items() if key in ("emoji", "colorFrom", "colorTo", "license")}
        return _with_front(new, {**wanted, **kept}), ()
    merged = merge_card(existing, new)
    front = front_matter_of(merged)
    forced = [key for key in PINNED if front.get(key) != wanted[key]]
    notes = tuple(
        f"The README said {key}: {front.get(key)}; it is {wanted[key]} again, which the app was tested with."
        for key in forced
        if key in before
    )
    if forced:
        merged = _with_front(merged, {**front, **{key: wanted[key] for key in PINNED}})
    return merged, notes


def front_matter_of(text: str) -> dict[str, Any]:
    """The front matter of a README; empty if there is none.

    Raises:
        SpaceError: It is no YAML mapping.
    """
    match = _FRONT_MATTER.match(text.removeprefix("\ufeff").replace("\r\n", "\n"))
    try:
        values = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        raise SpaceError(
            f"The front matter of the README cannot be read: {' '.join(str(error).split())[:200]}.",
            fix="Correct it by hand.",
        ) from None
    if values is not None and not isinstance(values, dict):
        raise SpaceError("The front matter of the README must map keys to values.", fix="Correct it by hand.")
    return values or {}


def _body(text: str) -> str:
    return _FRONT_MATTER.sub("", text.removeprefix("\ufeff").replace("\r\n", "\n"), count=1)


def _with_front(text: str, front: Mapping[str, Any]) -> str:
    line_end = "\r\n" if "\r\n" in text else "\n"
    head = yaml_dump(dict(front), sort_keys=False).strip()
    joined = f"---\n{head}\n---\n\n{_body(text).lstrip(chr(10))}"
    return joined.replace("\n", line_end)


def _section(config: SpaceConfig, front: Mapping[str, Any]) -> str:
    base = "the very small base that comes with hfplug" if config.base == BUILT_IN else code(config.base)
    at = f" at `{config.revision}`" if config.revision else ""
    lines = [
        f"<!-- hfplug:begin {_SECTION} -->",
        provenance(front, [_SECTION]),
        f"{base[0].upper()}{base[1:]}{at} and what was tuned on it answer the same dialogue side by side.",
        "",
    ]
    if config.variants:
        lines += ["| column | repo | revision |", "|---|---|---|"]
        lines += [f"| {v.name} | {code(v.source)} | {v.revision or 'newest'} |" for v in config.variants]
        lines.append("")
    lines += ["Its settings are in `space.json`. Made with `hfplug space deploy`.", f"<!-- hfplug:end {_SECTION} -->"]
    return "\n".join(lines)
