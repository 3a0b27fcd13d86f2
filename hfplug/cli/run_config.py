"""``--config FILE``: the flags of a command from a JSON or YAML file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfplug.cli.parser import Parser, UsageError
from hfplug.errors import did_you_mean
from hfplug.training.arguments import flag_table

CONFIG_HELP = "JSON or YAML file with flags of this command, e.g. method: lora; what is typed goes before it"
_WORDS = ("on", "off")


def with_config(words: Sequence[str], own: Sequence[str], parser: Parser) -> list[str]:
    """The words of a command with those of its ``--config`` file in front, so that what is typed counts more.

    Args:
        words: All words after ``hfplug``.
        own: The first of them: those for hfplug, before a script.
        parser: The parser of all commands.

    Raises:
        UsageError: The file cannot be read, or names something that is no flag of the command.
    """
    at = next((index for index, word in enumerate(own) if word == "--config" or word.startswith("--config=")), None)
    command = next((index for index, word in enumerate(own) if not word.startswith("-")), None)
    if at is None or command is None or command > at:
        return list(words)
    child = _child(parser, own[command])
    if child is None or not any("--config" in action.option_strings and not action.type for action in child._actions):
        return list(words)  # no such command, or one whose --config is another thing
    value = own[at].partition("=")[2] if "=" in own[at] else (own[at + 1] if at + 1 < len(own) else "")
    if not value:
        raise UsageError("--config needs a file.", fix=f"Type: hfplug {own[command]} --config settings.yaml script.py")
    length = 1 if "=" in own[at] else 2
    read = flags_of(Path(value), child)
    return [*words[: command + 1], *read, *words[command + 1 : at], *words[at + length :]]


def flags_of(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """The flags in a file, as words.

    Args:
        path: A file with one object of names and plain values; ``.json`` is read as JSON, all else as YAML.
        parser: Of the command.

    Raises:
        UsageError: It cannot be read, is no such object, or a name in it is no flag.
    """
    actions = {
        option.removeprefix("--").replace("-", "_"): action
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and option not in ("--config", "--help")
    }
    words: list[str] = []
    for key, value in _read(path).items():
        name = str(key).replace("-", "_")
        if name not in actions:
            fix = did_you_mean(name, list(actions)) or f"Type: {parser.prog} --help"
            raise UsageError(f"{path} names {key!r}, which is no flag of {parser.prog}.", fix=fix)
        words += _words(path, name, value, actions[name])
    return words


def _read(path: Path) -> dict[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"--config {path} cannot be read: {reason}.", fix="Check the path.") from error
    import yaml

    try:
        values = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix.lower() == ".json" else "YAML"
        reason = " ".join(str(error).split())
        raise UsageError(f"--config {path} is no {kind}: {reason}.", fix='Write, say, {"method": "lora"}.') from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(
            f"--config {path} holds a {type(values).__name__}, and flags have names.", fix="Write, say, method: lora"
        )
    return values


def _words(path: Path, name: str, value: Any, action: argparse.Action) -> list[str]:
    flag = f"--{name}"
    if value is None:
        return []
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UsageError(f"{path}: {name} must be true or false, not {value!r}.", fix=f"Write {name}: true")
        return [flag] if value else []
    if isinstance(value, bool):
        # YAML reads a bare on or off as true or false.
        takes = action.choices or _choices(name)
        value = _WORDS[0 if value else 1] if takes and set(_WORDS) <= set(takes) else str(value).lower()
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, (dict, list)) for item in value):
            raise UsageError(f"{path}: {name} must be a plain list, not {value!r}.", fix=f"Write {name}: [a, b]")
        value = ",".join(map(str, value))
    if isinstance(value, dict):
        raise UsageError(f"{path}: {name} must be one value, not {value!r}.", fix="Write each flag on its own line.")
    return [f"{flag}={value}"]


def _choices(name: str) -> Sequence[str]:
    entry = flag_table().get(name)
    return (entry[1].metadata.get("choices") or ()) if entry is not None else ()


def _child(parser: argparse.ArgumentParser, command: str) -> argparse.ArgumentParser | None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices.get(command)
    return None
