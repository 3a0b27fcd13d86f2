"""hfplug list: adapters on a Hub or below a folder, by owner, base, task and method."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hfplug.cli.parser import add_flag, one_line

if TYPE_CHECKING:
    from hfplug.hub.catalogue import AdapterEntry

DESCRIPTION = """\
What the Hub of HF_ENDPOINT says itself, by tags and cards. With --owner or --base every PEFT adapter, made with
hfplug or not; without either those made with hfplug.

  hfplug list --base google/flan-t5-small --sort rouge
  hfplug list --owner alice --task summary --method lora --json
  hfplug list --folder out/adapters"""

_SHOWN_METRICS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_flag(parser, "owner", help="user or organisation")
    add_flag(parser, "base", help="id of the base, e.g. google/flan-t5-small")
    add_flag(parser, "task", help="e.g. summary")
    add_flag(parser, "method", help="e.g. lora")
    add_flag(parser, "sort", choices=("rouge", "size", "date"), default="date", help="(default: date, newest first)")
    add_flag(parser, "json", action="store_true", help="print JSON instead of a table")
    add_flag(parser, "folder", type=Path, metavar="DIR", help="look below this folder instead of on a Hub")


def run(parsed: argparse.Namespace) -> int:
    """Print what there is."""
    from hfplug.hub.catalogue import find_adapters

    names = ("owner", "base", "task", "method", "sort", "folder")
    entries = find_adapters(**{name: getattr(parsed, name) for name in names})
    if parsed.json:
        print(json.dumps([entry.to_json() for entry in entries], indent=2, ensure_ascii=False))
    elif entries:
        print(_table(entries))
    else:
        print("No adapter was found. Leave out a flag, or type: hfplug list --help")
    return 0


def _table(entries: Sequence[AdapterEntry]) -> str:
    from hfplug.adapters.card_text import size_text

    rows = [("adapter", "base", "method", "task", "size", "metrics", "updated")]
    for entry in entries:
        shown = list(entry.metrics.items())[:_SHOWN_METRICS]
        if entry.rouge is not None:
            shown = [(name, value) for name, value in entry.metrics.items() if "rouge" in name.lower()][:_SHOWN_METRICS]
        notes = "" if entry.visibility in ("public", "local") else f" ({entry.visibility})"
        rows.append(
            (
                entry.name + notes,
                entry.base or "-",
                entry.method or "-",
                entry.task or "-",
                "-" if entry.size is None else size_text(entry.size),
                ", ".join(f"{name} {value:.3g}" for name, value in shown) or "-",
                (entry.updated or "-")[:10],
            )
        )
    widths = [max(len(one_line(row[column])) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(one_line(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
