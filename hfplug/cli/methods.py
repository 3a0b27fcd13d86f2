"""hfplug methods: list the tuning methods, their settings and where they come from."""

from __future__ import annotations

import argparse
import dataclasses
import json

from hfplug.cli.parser import add_flag
from hfplug.methods import get_method, method_names
from hfplug.training.arguments import flag_name

DESCRIPTION = "The tuning methods: what each one trains, its settings with defaults and ranges, and its paper."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_flag(parser, "base", help="repo id or folder of a base: say as well whether each method works on it")
    add_flag(parser, "json", action="store_true", help="print JSON")


def run(parsed: argparse.Namespace) -> int:
    """Print the table."""
    rows = [_describe(name) for name in method_names()]
    if parsed.base:
        from hfplug.models.applicable import methods_for

        for name, why_not in methods_for(parsed.base).items():
            next(row for row in rows if row["name"] == name)["on_base"] = why_not or "works"
    if parsed.json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        print(f"{row['name']}  ({row['category']})")
        print(f"    {row['summary']}")
        print(f"    paper: {row['paper']}")
        print(f"    merging: {row['merging']}")
        if "on_base" in row:
            print(f"    on {parsed.base}: {row['on_base']}")
        for setting in row["settings"]:
            print(f"    --{setting['flag']} = {setting['default']}    {setting['help']}{setting['range']}")
        print()
    return 0


def _describe(name: str) -> dict:
    cls = get_method(name)
    settings = []
    for field in dataclasses.fields(cls):
        low, high, choices = (field.metadata.get(key) for key in ("low", "high", "choices"))
        allowed = f" ({low} to {high})" if high is not None else ""
        allowed = f" (one of {', '.join(choices)})" if choices else allowed
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        settings.append(
            {
                "flag": flag_name(cls, field.name),
                "name": field.name,
                "default": default,
                "help": field.metadata["help"],
                "range": allowed,
            }
        )
    return {
        "name": name,
        "category": cls.category,
        "summary": cls.summary,
        "paper": cls.paper,
        "merging": cls.merging,
        "task_types": list(cls.task_types),
        "settings": settings,
    }
