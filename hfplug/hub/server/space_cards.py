"""What must hold for the front matter of a Space, beyond what holds for any card.

After the Hub's own reference of its keys (docs/hub/spaces-config-reference). A key that it leaves open is open here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
SDKS = ("gradio", "docker", "static", "streamlit")
_CHOICES: dict[str, tuple[str, ...]] = {
    "sdk": SDKS,
    "colorFrom": COLORS,
    "colorTo": COLORS,
    "suggested_storage": ("small", "medium", "large"),
    "header": ("mini", "default"),
}
_VERSION = re.compile(r"\d+(\.\d+){0,2}([ab]|rc|\.dev|\.post)?\d*")
_PYTHON = re.compile(r"3(\.\d{1,2}){1,2}")
_LONGEST_DESCRIPTION = 60
# Letters, digits and the rest of ASCII make no picture.
_PLAIN = re.compile(r"[\x00-\x7f]")


def space_problems(card: Mapping[str, Any]) -> list[str]:
    """What is wrong with the front matter of a Space; empty if nothing is.

    Args:
        card: Its values, as ``read_card`` gives them.
    """
    errors = []
    if card.get("sdk") is None:
        errors.append('"sdk" is required')
    for key, choices in _CHOICES.items():
        if card.get(key) is not None and card[key] not in choices:
            errors.append(f'"{key}" must be one of [{", ".join(choices)}]')
    for key, pattern in (("sdk_version", _VERSION), ("python_version", _PYTHON)):
        value = card.get(key)
        # YAML reads 3.10 as the number 3.1, which is another Python.
        if value is not None and (not isinstance(value, str) or not pattern.fullmatch(value)):
            errors.append(f'"{key}" must be a string with a version, in quotes')
    for key in ("title", "app_file", "suggested_hardware", "short_description", "emoji"):
        if card.get(key) is not None and not isinstance(card[key], str):
            errors.append(f'"{key}" must be a string')
    for key in ("models", "datasets", "preload_from_hub", "hf_oauth_scopes"):
        if card.get(key) is not None and not isinstance(card[key], list):
            errors.append(f'"{key}" must be an array')
    for key in ("pinned", "fullWidth", "disable_embedding", "hf_oauth"):
        if card.get(key) is not None and not isinstance(card[key], bool):
            errors.append(f'"{key}" must be a boolean')
    app_file, emoji = card.get("app_file"), card.get("emoji")
    if isinstance(app_file, str) and (app_file.startswith("/") or ".." in app_file.split("/")):
        errors.append('"app_file" must be a path inside of the repository')
    if isinstance(emoji, str) and (not emoji or _PLAIN.search(emoji)):
        errors.append('"emoji" must be an emoji')
    if len(str(card.get("short_description") or "")) > _LONGEST_DESCRIPTION:
        errors.append(f'"short_description" length must be less than or equal to {_LONGEST_DESCRIPTION} characters')
    return errors
