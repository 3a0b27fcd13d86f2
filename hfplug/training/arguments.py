"""Every method's settings as flags: one dataclass for ``HfArgumentParser``, made from the registry."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Optional

from hfplug.errors import SettingError, did_you_mean
from hfplug.methods import TuningMethod, get_method, method_names, resolve_method
from hfplug.methods.settings import accepted_types

# A flag of all methods; what it sets stands wherever nothing else is said.
PRESET = "preset"
PRESET_HELP = "settings under a name, those of a paper for example; hfplug methods lists them"


def flag_table() -> dict[str, tuple[str, dataclasses.Field, Any]]:
    """All flags of all methods.

    Returns:
        For each flag (without dashes) the name of the setting, its field and its resolved annotation. A setting
        that several methods share by inheritance has one flag, named after the class that declares it.
    """
    table: dict[str, tuple[str, dataclasses.Field, Any]] = {}
    for name in method_names():
        cls = get_method(name)
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            table.setdefault(flag_name(cls, field.name), (field.name, field, hints[field.name]))
    return table


def flag_name(cls: type[TuningMethod], setting: str) -> str:
    """The flag of a setting: the prefix of the class that declares it, then the setting.

    Args:
        cls: A method.
        setting: One of its settings, e.g. ``"r"``.

    Returns:
        e.g. ``"lora_r"``; a setting that begins with the prefix already keeps its name (``"lora_alpha"``).
    """
    declaring = next(owner for owner in reversed(cls.__mro__) if setting in getattr(owner, "__annotations__", {}))
    prefix = declaring.flag_prefix  # type: ignore[attr-defined]
    return setting if setting.startswith(f"{prefix}_") else f"{prefix}_{setting}"


class MethodArgumentsBase:
    """What :data:`MethodArguments` can do beside holding its fields."""

    flag_prefix: typing.ClassVar[str] = ""

    def settings(self) -> dict[str, Any]:
        """The flags that were given, without those left at None, under the names of the settings.

        Raises:
            SettingError: for a flag that belongs to another method.
        """
        given = {
            field.name.removeprefix(self.flag_prefix): getattr(self, field.name)
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        }
        method, preset = given.pop("method"), given.pop(PRESET)
        own = settings_from_flags(method, {flag: value for flag, value in given.items() if value is not None})
        return own if preset is None else {PRESET: preset, **own}

    def to_method(self) -> TuningMethod:
        """The method with its settings.

        Raises:
            MethodError: for an unknown method.
            SettingError: for a flag of another method, a value out of range, or a preset that the method does not have.
        """
        method = getattr(self, f"{self.flag_prefix}method")
        return resolve_method(method, self.settings())


def settings_from_flags(method: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Turn flags into the settings of one method.

    Args:
        method: Name of the method.
        flags: Flags that were given, e.g. ``{"lora_r": 8}``.

    Returns:
        e.g. ``{"r": 8}``.

    Raises:
        SettingError: for a flag that the method does not have.
    """
    cls = get_method(method)
    own = {flag_name(cls, field.name): field.name for field in dataclasses.fields(cls)}
    settings = {}
    for flag, value in flags.items():
        if flag not in own:
            owners = [
                name
                for name in method_names()
                if flag in {flag_name(get_method(name), field.name) for field in dataclasses.fields(get_method(name))}
            ]
            whose = f"--{flag} is a flag of {', '.join(owners)}" if owners else f"There is no flag --{flag}"
            flags_here = ", ".join(f"--{name}" for name in own) or "none"
            guess = "" if owners else did_you_mean(flag, own)
            raise SettingError(f"{whose}; the flags of {method} are: {flags_here}.", fix=guess or None)
        settings[own[flag]] = value
    return settings


def make_method_arguments(prefix: str = "", *, default: str = "lora") -> type:
    """Make a dataclass of all methods' flags for ``HfArgumentParser``.

    Args:
        prefix: Put before every flag, for scripts whose own dataclasses have flags of the same name (TRL's
            ``ModelConfig`` has ``--lora_r``): ``make_method_arguments("hfplug_")`` gives ``--hfplug_lora_r``.
        default: The method that is used when none is named.

    Returns:
        A dataclass with ``to_method()``.
    """
    help_text = f"tuning method: one of {', '.join(method_names())}"
    fields: list[Any] = [(f"{prefix}method", str, dataclasses.field(default=default, metadata={"help": help_text}))]
    preset_field: Any = dataclasses.field(default=None, metadata={"help": PRESET_HELP})
    fields.append((f"{prefix}{PRESET}", Optional[str], preset_field))  # noqa: UP045 - as in _flag_type
    for flag, (_, field, annotation) in flag_table().items():
        fields.append((f"{prefix}{flag}", _flag_type(annotation), dataclasses.field(**_flag_field(field))))
    namespace = {"__doc__": "Flags of every tuning method; what is not given keeps the method's default."}
    made = dataclasses.make_dataclass("MethodArguments", fields, bases=(MethodArgumentsBase,), namespace=namespace)
    made.flag_prefix = prefix  # type: ignore[attr-defined]
    made.__module__ = __name__
    return made


def _flag_type(annotation: Any) -> Any:
    kinds = [kind for kind in accepted_types(annotation) if kind is not type(None)]
    kind = kinds[0]
    # Optional[...] rather than "| None": HfArgumentParser reads the former on every Python that we support.
    return Optional[list[str]] if kind is tuple else Optional[kind]  # noqa: UP045


def _flag_field(field: dataclasses.Field) -> dict[str, Any]:
    default = " ".join(field.default) if isinstance(field.default, tuple) else field.default
    choices = f"; one of {', '.join(field.metadata['choices'])}" if field.metadata.get("choices") else ""
    # argparse formats help texts with %, so a bare one would crash --help.
    text = f"{field.metadata['help']}{choices} (default: {default})".replace("%", "%%")
    return {"default": None, "metadata": {"help": text}}


MethodArguments = make_method_arguments()
