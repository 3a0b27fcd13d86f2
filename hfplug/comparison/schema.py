"""From dataclasses to JSON and back, strictly: what `report.json` may hold is what the dataclasses declare.

A key that is not declared, a number where a text belongs, a missing part: each is a StudyError that names
the place. What a float could not hold in JSON (nan, infinity) becomes null, "not measured".
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from hfplug.errors import StudyError, did_you_mean

T = TypeVar("T")


class Checked:
    """Base of the report's dataclasses: every field is checked and made plain when an object is made.

    Numpy numbers become Python's, lists become tuples, dicts of a nested dataclass become that dataclass,
    so that an object equals what is read back from its JSON.
    """

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            checked = _check(hint, getattr(self, name), f"{type(self).__name__}.{name}")
            object.__setattr__(self, name, checked)

    def to_json(self) -> dict[str, Any]:
        """The object as a dict of plain JSON values, keys in the order of the fields."""
        return {name: _plain(getattr(self, name), name) for name in _hints(type(self))}


def from_json(cls: type[T], data: Any, where: str) -> T:
    """An object of a :class:`Checked` dataclass from plain JSON values.

    Args:
        cls: The dataclass.
        data: What was read.
        where: Words for the message, e.g. ``"report.json, variants[2]"``.

    Returns:
        The object.

    Raises:
        StudyError: A key is unknown or missing, or a value is of the wrong kind.
    """
    if not isinstance(data, Mapping):
        raise StudyError(f"{where}: an object was expected, {_kind(data)} came.")
    declared: Any = cls
    fields = {field.name: field for field in dataclasses.fields(declared)}
    for key in data:
        if key not in fields:
            raise StudyError(f"{where}: the key {key!r} is unknown.", fix=did_you_mean(str(key), fields) or None)
    missing = [
        name
        for name, field in fields.items()
        if name not in data and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise StudyError(f"{where}: the key {missing[0]!r} is missing.")
    return cls(**data)


def _hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _check(hint: Any, value: Any, where: str) -> Any:
    """The value as the type hint wants it, or StudyError."""
    if hint is Any:
        return _plain(value, where)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return None
        return _check(next(kind for kind in inner if kind is not type(None)), value, where)
    if origin is typing.Literal:
        if value in inner:
            return value
        raise StudyError(f"{where}: one of {', '.join(map(repr, inner))} was expected, {value!r} came.")
    if origin is dict:
        if isinstance(value, Mapping):
            return {str(key): _check(inner[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            return _check_tuple(inner, value, where)
    elif dataclasses.is_dataclass(hint):
        kind: Any = hint
        return value if isinstance(value, kind) else from_json(kind, value, where)
    else:
        return _check_scalar(hint, value, where)
    raise StudyError(f"{where}: {origin.__name__} was expected, {_kind(value)} came.")


def _check_tuple(inner: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
    if len(kinds) != len(value):
        raise StudyError(f"{where}: {len(kinds)} values were expected, {len(value)} came.")
    return tuple(
        _check(kind, item, f"{where}[{number}]") for number, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _check_scalar(hint: Any, value: Any, where: str) -> Any:
    boolean = isinstance(value, bool) or type(value).__name__ == "bool"  # numpy's is called bool as well
    if hint is bool and boolean:
        return bool(value)
    if hint is int and isinstance(value, numbers.Integral) and not boolean:
        return int(value)
    if hint is float and isinstance(value, numbers.Real) and not boolean and math.isfinite(value):
        return float(value)
    if hint is str and isinstance(value, str):
        return str(value)
    raise StudyError(f"{where}: {hint.__name__} was expected, {_kind(value)} came.")


def _plain(value: Any, where: str) -> Any:
    """The value with nothing in it that JSON lacks."""
    if isinstance(value, Checked):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{number}]") for number, item in enumerate(value)]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    raise StudyError(f"{where}: {_kind(value)} cannot be written as JSON.", fix="Pass text, numbers, lists or dicts.")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    shown = f" {value!r}" if isinstance(value, (str, int, float)) and len(repr(value)) < 60 else ""
    return type(value).__name__ + shown
