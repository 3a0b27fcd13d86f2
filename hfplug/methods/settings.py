"""How the fields of a method are declared and checked: one declaration, and from it keywords, flags and errors."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from hfplug.errors import SettingError

_UNION_TYPES = (typing.Union, types.UnionType)


def setting(
    default: Any,
    *,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] | None = None,
    example: Any = None,
) -> Any:
    """Declare one setting of a method: a dataclass field that knows its range.

    Args:
        default: The value when nothing is said.
        help: One sentence for ``--help``, with the unit.
        low: The smallest value that is allowed (numbers only).
        high: The largest value that is allowed (numbers only).
        choices: The values that are allowed (text only).
        example: A value beside the default, for a setting that takes texts of a form of its own.

    Returns:
        A :func:`dataclasses.field`.
    """
    metadata = {
        "help": help,
        "low": low,
        "high": high,
        "choices": tuple(choices) if choices else None,
        "example": example,
    }
    return dataclasses.field(default=default, metadata=metadata)


def accepted_types(annotation: Any) -> tuple[type, ...]:
    """The plain types behind an annotation, e.g. ``(str, NoneType)`` for ``str | None``.

    Args:
        annotation: A resolved annotation of a setting.

    Returns:
        Types that :func:`isinstance` takes; the item type of a tuple is dropped.
    """
    if typing.get_origin(annotation) in _UNION_TYPES:
        return tuple(kind for part in typing.get_args(annotation) for kind in accepted_types(part))
    return (typing.get_origin(annotation) or annotation,)


def check_setting(method: str, field: dataclasses.Field, annotation: Any, value: Any) -> Any:
    """Check one value against the declaration of its setting.

    Args:
        method: The name of the method, for the message.
        field: The field made by :func:`setting`.
        annotation: The resolved annotation of the field.
        value: What the user passed.

    Returns:
        The value, with an int turned into a float where a float is wanted, and a list, a comma-separated text or a
        mapping (as texts ``key=value``) into a tuple where a tuple is wanted.

    Raises:
        SettingError: if the type, the range or the choice is wrong.
    """
    wanted = accepted_types(annotation)
    if tuple in wanted and isinstance(value, str):
        value = tuple(part.strip() for part in value.split(",") if part.strip())
    elif tuple in wanted and isinstance(value, list):
        value = tuple(value)
    elif tuple in wanted and isinstance(value, Mapping):
        value = tuple(f"{key}={given}" for key, given in value.items())
    if float in wanted and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    is_disguised_bool = isinstance(value, bool) and bool not in wanted
    if is_disguised_bool or not isinstance(value, wanted):
        names = " or ".join("None" if kind is type(None) else kind.__name__ for kind in wanted)
        raise SettingError(f"{method}: {field.name} must be {names}, not {value!r}.", fix=_how_to(field))
    low, high, choices = (field.metadata.get(key) for key in ("low", "high", "choices"))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        too_low = low is not None and not value >= low
        too_high = high is not None and not value <= high
        if too_low or too_high or not math.isfinite(value):
            limits = f"between {low} and {high}" if high is not None else f"at least {low}"
            raise SettingError(f"{method}: {field.name} must be {limits}, not {value!r}.", fix=_how_to(field))
    if choices and value is not None and value not in choices:
        raise SettingError(
            f"{method}: {field.name} must be one of {', '.join(choices)}, not {value!r}.", fix=_how_to(field)
        )
    return value


def _how_to(field: dataclasses.Field) -> str:
    return f"For example {field.name}={field.default!r} (the default)."
