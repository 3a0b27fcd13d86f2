"""hfplug methods: list the tuning methods, their settings and where they come from."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import textwrap
from typing import Any

from hfplug.cli.parser import add_flag
from hfplug.methods import TuningMethod, get_method, method_names
from hfplug.methods.method import CAUSAL, CHOICE, CLASSIFICATION, MASKED, OTHER, QUESTIONS, SEQ2SEQ, TASK_TYPES, TOKENS
from hfplug.training.arguments import flag_name

DESCRIPTION = """\
The tuning methods: the class and what each one trains, whether it merges into the base and may share a batch with
others, on which tasks; then the settings with defaults and ranges, the paper, and the presets.

  hfplug methods
  hfplug methods lora --base google/flan-t5-base    one of them; what it trains of a base and at which learning rate
  hfplug methods --json"""

TASK_WORDS = {
    SEQ2SEQ: "seq2seq",
    CAUSAL: "causal",
    CLASSIFICATION: "classification",
    TOKENS: "token classes",
    QUESTIONS: "question answering",
    MASKED: "masked words",
    CHOICE: "multiple choice",
    OTHER: "other",
}
_WIDEST = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the words and flags of this command."""
    parser.add_argument("names", nargs="*", metavar="METHOD", help="only these (default: all)")
    add_flag(parser, "base", help="repo id or folder of a base: say as well what each method trains of it, or why not")
    add_flag(parser, "json", action="store_true", help="print JSON")


def run(parsed: argparse.Namespace) -> int:
    """Print the table."""
    names = [get_method(name).name for name in parsed.names] or list(method_names())
    rows = [_describe(get_method(name)) for name in names]
    if parsed.base:
        from hfplug.models.applicable import shares_of

        for name, share in shares_of(parsed.base, names).items():
            row = next(row for row in rows if row["name"] == name)
            row |= {"on_base": share.why_not or "works", "share": dataclasses.asdict(share)}
    if parsed.json:
        print(json.dumps(rows, indent=1))
        return 0
    width = min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns)
    print(_overview(rows, parsed.base))
    for row in rows:
        print()
        print("\n".join(_lines(row, width)))
    return 0


def _tasks(task_types: tuple[str, ...]) -> str:
    lacking = [TASK_WORDS[task] for task in TASK_TYPES if task not in task_types]
    if not lacking:
        return "all"
    if len(lacking) < len(task_types):
        return f"all but {' and '.join(lacking)}"
    return ", ".join(TASK_WORDS[task] for task in task_types)


def _describe(cls: type[TuningMethod]) -> dict[str, Any]:
    settings = []
    for field in dataclasses.fields(cls):
        low, high, choices = (field.metadata.get(key) for key in ("low", "high", "choices"))
        allowed = f"{low} to {high}" if high is not None else "true, false" if isinstance(field.default, bool) else ""
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        settings.append(
            {
                "flag": flag_name(cls, field.name),
                "name": field.name,
                "default": default,
                "help": field.metadata["help"],
                "range": ", ".join(choices) if choices else allowed,
            }
        )
    presets = {
        name: {"settings": dict(one.settings), "learning_rate": one.learning_rate, "source": one.source}
        for name, one in cls.presets.items()
    }
    return {
        "name": cls.name,
        "category": cls.category,
        "summary": cls.summary,
        "paper": cls.paper,
        "merging": cls.merging,
        "batching": cls.batching,
        "task_types": list(cls.task_types),
        "tasks": _tasks(cls.task_types),
        "extra": cls.extra,
        "settings": settings,
        "presets": presets,
    }


def _overview(rows: list[dict[str, Any]], base: str | None) -> str:
    heads = ["method", "class", "merges", "batched", "tasks"]
    cells = [
        [row["name"], row["category"], _short(row["merging"]), _short(row["batching"]), row["tasks"]] for row in rows
    ]
    if base:
        heads[2:2] = ["trains", "share", "rate"]
        for row, cell in zip(rows, cells, strict=True):
            share = row["share"]
            works = share["why_not"] is None
            cell[2:2] = (
                [f"{share['trainable']:,}", f"{100 * share['share']:.2f} %", f"{share['learning_rate']:g}"]
                if works
                else ["no", "", ""]
            )
    widths = [max(len(line[at]) for line in [heads, *cells]) for at in range(len(heads))]
    right = {"trains", "share", "rate"}
    lines = [heads, ["─" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            text.rjust(width) if head in right else text.ljust(width)
            for head, text, width in zip(heads, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _short(answer: str) -> str:
    """Yes or no, for a cell; what is more is said below the table."""
    if answer == "exact":
        return "yes"
    first = answer.replace(":", ",").partition(",")[0]
    return first if first in ("yes", "no") else "no" if first.startswith("nothing") else "see below"


def _lines(row: dict[str, Any], width: int) -> list[str]:
    """What is said of one method."""
    lines = textwrap.wrap(f"{row['name']}: {row['summary']}", width)
    said = {
        "class": row["category"],
        "paper": row["paper"],
        "merging": row["merging"],
        "batching": row["batching"],
        "tasks": row["tasks"],
    }
    if row["extra"]:
        said["needs"] = f"pip install 'hfplug[{row['extra']}]'"
    share = row.get("share")
    if share and share["why_not"] is not None:
        said["here"] = share["why_not"]
    elif share:
        said["here"] = f"trains {share['trainable']:,} of {share['total']:,} parameters, {100 * share['share']:.2f} %"
        said["here"] += f"; {share['in_words']}" if share["in_words"] else ""
        low, high = f"{share['lowest']:g}", f"{share['highest']:g}"
        said["rate"] = f"{share['learning_rate']:g} with AdamW, from {low} to {high} ({share['source']})"
    for name, preset in row["presets"].items():
        values = " ".join(f"{key}={_shown(value)}" for key, value in preset["settings"].items())
        rate = f", learning rate {preset['learning_rate']:g}" if preset["learning_rate"] else ""
        said[f"--preset {name}"] = f"{values}{rate} ({preset['source']})"
    for word, text in said.items():
        lines += _wrapped(f"    {word:<8}  ", text, width)
    inherited = [one for one in row["settings"] if not one["flag"].startswith(_prefix(row["name"]))]
    reasons = share["defaults"] if share else {}
    for one in row["settings"]:
        here = reasons.get(one["name"])
        if one in inherited and here is None:
            continue
        allowed = f" ({one['range']})" if one["range"] else ""
        text = "" if one in inherited else f"{one['help']}{allowed}"
        value = one["default"] if here is None else here["value"]
        if here is not None:
            text = "; ".join(part for part in (text, f"{here['why']} [{here['source']}]") if part)
        lines += _wrapped(f"    --{one['flag']} = {_shown(value)}  ", text, width)
    if inherited:
        owner = inherited[0]["flag"].partition("_")[0]
        lines.append(f"    and the settings of {owner}: --{owner}_…")
    return lines


def _wrapped(head: str, text: str, width: int) -> list[str]:
    """A paragraph behind its heading; addresses stay whole."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=head,
        subsequent_indent=" " * 14,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _prefix(name: str) -> str:
    return get_method(name).flag_prefix


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
