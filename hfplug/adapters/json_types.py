"""Whether values that came from a JSON file are what the fields of a dataclass are for."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hfplug.errors import AdapterError

_NAMES: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    type(None): "null",
    Mapping: "an object",
    tuple: "a list",
    Sequence: "a list",
}


def check_types(cls: type, values: Mapping[str, Any], file: str) -> None:
    """Compare values with the annotations of the fields that they are for.

    Args:
        cls: A dataclass whose annotations are of texts, numbers, None, ``Mapping``, ``Sequence`` and ``tuple``.
        values: Names of its fields to values, as ``json.loads`` gives them.
        file: Where they come from, for the message.

    Raises:
        AdapterError: A value is of another kind.
    """
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        if not _fits(value, hints[key]):
            wanted = " or ".join(_NAMES[typing.get_origin(hint) or hint] for hint in _options(hints[key]))
            came = _short(value)
            raise AdapterError(
                f"{key!r} in {file} must hold {wanted}; it holds {came}.", fix="Export the adapter again."
            )


@dataclass
class _Settings:
    """What hfplug itself reads of ``adapter_config.json``, whoever wrote it."""

    peft_type: str | None = None
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    num_virtual_tokens: int | None = None
    modules_to_save: Sequence[str] | None = None
    trainable_token_indices: Mapping[str, Sequence[int]] | Sequence[int] | None = None
    token_indices: Sequence[int] | None = None


def check_settings(config: Mapping[str, Any]) -> None:
    """Compare the settings that hfplug reads of ``adapter_config.json`` with what PEFT writes there.

    Raises:
        AdapterError: One is of another kind.
    """
    known = {item.name for item in dataclasses.fields(_Settings)}
    check_types(_Settings, {key: value for key, value in config.items() if key in known}, "adapter_config.json")


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    options = _options(hint)
    if len(options) > 1:
        return any(_fits(value, option) for option in options)
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is Mapping:
        return isinstance(value, Mapping) and (not inner or all(_fits(item, inner[1]) for item in value.values()))
    if origin in (tuple, Sequence):
        if not isinstance(value, (list, tuple)):
            return False
        if origin is tuple and inner and inner[-1] is not Ellipsis:
            return len(value) == len(inner) and all(map(_fits, value, inner))
        return not inner or all(_fits(item, inner[0]) for item in value)
    if origin in (int, float):
        # A whole number is a number to JSON; true and false are none.
        return isinstance(value, (int, origin)) and not isinstance(value, bool)
    return isinstance(value, origin)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
