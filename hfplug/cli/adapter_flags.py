"""Flags that the commands which open an adapter share."""

from __future__ import annotations

import argparse

from hfplug.cli.parser import add_flag

ADAPTER = "a folder, or OWNER/NAME[@REVISION] on the Hub"


def add_base_flags(parser: argparse.ArgumentParser) -> None:
    """Where the adapter's base is, and whether a Hub may be asked: ``--base``, ``--revision``, ``--offline``.

    Args:
        parser: Of the command.
    """
    add_flag(parser, "base", help="repo id or folder of the base, if it is not where it was")
    add_flag(parser, "revision", metavar="COMMIT", help="of the base, if it is not the one that the adapter names")
    add_flag(parser, "offline", action="store_const", const="on", default="auto", help="ask no Hub: the cache only")


def add_merge_flags(parser: argparse.ArgumentParser, *, when: str = "") -> None:
    """How an adapter goes into its base's weights: ``--into`` and ``--check``.

    Args:
        parser: Of the command.
        when: Said first, for a command that does not always merge, as ``"merged: "``.
    """
    add_flag(
        parser,
        "into",
        choices=("unquantised", "dequantised"),
        default="unquantised",
        help=f"{when}if it was trained over 4 bits: the base's own weights, or those 4 bits written out in full",
    )
    add_flag(parser, "check", choices=("logits", "off"), default="logits", help=f"{when}compare the answers afterwards")
