"""The flags of all methods on a command that takes several methods at once."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from hfplug.cli.parser import add_flag
from hfplug.errors import SettingError
from hfplug.methods import TuningMethod, get_method, method_names
from hfplug.methods.settings import accepted_types
from hfplug.methods.values import find_preset
from hfplug.training.arguments import PRESET, PRESET_HELP, flag_table, settings_from_flags


def add_method_flags(parser: argparse.ArgumentParser, *, preset_flag: Literal["on", "off"] = "on") -> None:
    """Add every method's settings as flags, from the registry.

    Args:
        parser: The parser of a command.
        preset_flag: ``"off"`` if the command has a ``--preset`` of its own.
    """
    group = parser.add_argument_group("settings of the methods")
    if preset_flag == "on":
        group.add_argument(f"--{PRESET}", dest="method_preset", metavar="NAME", help=PRESET_HELP)
    for flag, (_, field, annotation) in flag_table().items():
        kinds = [kind for kind in accepted_types(annotation) if kind is not type(None)]
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        choices = f"; one of {', '.join(field.metadata['choices'])}" if field.metadata.get("choices") else ""
        text = f"{field.metadata['help']}{choices} (default: {default})".replace("%", "%%")
        converters: dict[Any, Any] = {bool: _truth, tuple: str}
        add_flag(
            group,
            flag,
            type=converters.get(kinds[0], kinds[0]),
            default=None,
            metavar=kinds[0].__name__.upper(),
            help=text,
        )


logger = logging.getLogger(__name__)

ALL = "all"


def method_words(text: str | None, *, default: Sequence[str], base: str | Path | None = None) -> list[str]:
    """The names behind ``--methods``.

    Args:
        text: What was typed: names with commas between them, ``"all"``, or None.
        default: What is meant by None.
        base: Of ``"all"`` those are left out that do not work on this base, and the log says why.
    """
    words = [word.strip() for word in text.split(",") if word.strip()] if text else list(default)
    if words != [ALL]:
        return words
    if base is None:
        return list(method_names())
    from hfplug.models.applicable import methods_for

    answers = methods_for(base)
    for name, why_not in answers.items():
        if why_not is not None:
            logger.warning("%s is left out: %s", name, why_not)
    return [name for name, why_not in answers.items() if why_not is None]


def preset_names() -> tuple[str, ...]:
    """The names of the presets of all methods."""
    return tuple(dict.fromkeys(preset for name in method_names() for preset in get_method(name).presets))


def preset_rate(name: str, preset: str | None) -> float | None:
    """The learning rate of a method's preset, or None if it has none."""
    found = get_method(name).presets.get(preset or "")
    return found.learning_rate if found else None


def methods_from(
    names: Sequence[str], parsed: argparse.Namespace, *, preset: str | None = None
) -> tuple[TuningMethod, ...]:
    """The methods that were named, each with those flags that are its own.

    Args:
        names: What followed ``--methods``.
        parsed: The parsed command line.
        preset: For a command whose ``--preset`` is not that of :func:`add_method_flags`. Of several methods, those
            that lack a preset keep their defaults, and the log says so.

    Raises:
        MethodError: for an unknown method.
        SettingError: for a flag that belongs to none of the named methods, or a preset that none of them has.
    """
    preset = preset or getattr(parsed, "method_preset", None)
    have_it = [name for name in names if preset in get_method(name).presets]
    if preset is not None and not have_it:
        find_preset(get_method(names[0]).name, get_method(names[0]).presets, preset)
    given = {flag: getattr(parsed, flag) for flag in flag_table() if getattr(parsed, flag) is not None}
    used: set[str] = set()
    methods = []
    for name in names:
        cls = get_method(name)
        own: dict[str, Any] = {}
        for flag, value in given.items():
            try:
                own |= settings_from_flags(cls.name, {flag: value})
            except SettingError:
                continue
            used.add(flag)
        if preset is not None and name in have_it:
            own[PRESET] = preset
        elif preset is not None:
            logger.warning("%s has no preset %r: its defaults are used.", name, preset)
        methods.append(cls.from_settings(own))
    for flag in given:
        if flag not in used:
            settings_from_flags(get_method(names[0]).name, {flag: given[flag]})
    return tuple(methods)


def _truth(text: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")
    return words[text.lower()]
