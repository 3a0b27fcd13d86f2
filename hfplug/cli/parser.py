"""An argument parser that says on one line what is wrong and what to type."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from hfplug.errors import HfplugError, did_you_mean


class UsageError(HfplugError):
    """The words of a command are off."""


class Parser(argparse.ArgumentParser):
    """Raises :class:`UsageError` instead of printing the usage, and guesses at misspelt flags.

    Flags may be written with hyphens or with underscores.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**kwargs)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            command = self._command_parser(parsed)
            raise UsageError(f"{command.prog} has no {rest[0]!r}.", fix=command.guess(rest[0]))
        return parsed

    def error(self, message: str) -> NoReturn:
        # argparse says: argument COMMAND: invalid choice: 'studdy' (choose from 'demo', 'study')
        wrong = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        guess = did_you_mean(wrong[1], re.findall(r"[\w-]+", wrong[2])) if wrong else ""
        raise UsageError(f"{message}.", fix=guess or f"Type: {self.prog} --help")

    def guess(self, flag: str) -> str:
        """What was probably meant by a flag that there is not."""
        known = [option for action in self._actions for option in action.option_strings]
        return did_you_mean(flag.partition("=")[0], known) or f"Type: {self.prog} --help"

    def _command_parser(self, parsed: argparse.Namespace) -> Parser:
        """The parser of the command, or of the action of a command, that was typed."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                name = getattr(parsed, action.dest, None)
                if name in action.choices:
                    return action.choices[name]._command_parser(parsed)
        return self


def one_line(text: object) -> str:
    """``text`` on one line and without control characters: it may come from whoever owns a repo or a Hub."""
    return "".join(character for character in " ".join(str(text).split()) if character.isprintable())


def add_flag(parser: argparse._ActionsContainer, name: str, **kwargs: Any) -> None:
    """Add a flag that may be written with hyphens or underscores.

    Args:
        parser: A parser or a group of one.
        name: With underscores and without dashes, e.g. ``"train_split"``.
        **kwargs: As for ``add_argument``.
    """
    spellings = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
    parser.add_argument(*spellings, dest=name, **kwargs)
