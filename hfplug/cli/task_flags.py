"""The flags that commands which score answers share: the task, and the rows."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from hfplug.cli.parser import add_flag

# Fields of a Task that are flags as they are: name -> (type, help).
_TASK: Mapping[str, tuple[type, str]] = {
    "prompt": (str, "template of the prompt, with {COLUMN} where the input goes"),
    "input_column": (str, "column that holds the input"),
    "target_column": (str, "column that holds the text to learn"),
    "max_input_tokens": (int, "longest prompt in tokens; longer inputs are cut at their end"),
    "max_target_tokens": (int, "longest target in tokens"),
}
# Of the rows that are scored, and of how they are asked.
SCORING: Mapping[str, tuple[type, str]] = {
    "revision": (str, "branch, tag or commit of the base"),
    "data_revision": (str, "branch, tag or commit of the data"),
    "eval_split": (str, "rows to score on, e.g. test or 'train[400:500]'"),
    "max_eval_rows": (int, "use only the first so many rows to score on"),
    "empty_rows": (str, "what to do with rows without a text: error or skip"),
    "eval_batch_size": (int, "rows a batch when texts are generated"),
    "seed": (int, "of the rows' order, the adapters' start and the resampling"),
    "dtype": (str, "of the base's weights: auto, float32, bfloat16 or float16"),
}


def add_task_flags(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    """Add the flags that say what is asked.

    Args:
        parser: Of the command.
        default: The task where nothing is said; None for that of the adapters.
    """
    task = parser.add_argument_group("the task")
    add_flag(task, "task", default=default, help=f"a name, or a JSON file with a task (default: {default or 'theirs'})")
    add_flag(task, "reference_columns", help="further columns with references, comma-separated, for scoring")
    add_flag(task, "max_new_tokens", type=int, help="longest answer in tokens")
    add_plain_flags(task, _TASK)


def add_plain_flags(parser: argparse._ActionsContainer, flags: Mapping[str, tuple[type, str]]) -> None:
    """Add flags that take one value, and are None where they are not given.

    Args:
        parser: Of the command, or a group of it.
        flags: Name -> (type, help).
    """
    for name, (kind, text) in flags.items():
        add_flag(parser, name, type=kind, metavar=kind.__name__.upper(), help=text)


def task_changes(parsed: argparse.Namespace) -> dict[str, Any]:
    """What the flags change of a task, as ``choose_task`` takes it."""
    names = (*_TASK, "max_new_tokens")
    changes: dict[str, Any] = {name: getattr(parsed, name) for name in names if getattr(parsed, name) is not None}
    if parsed.reference_columns:
        changes["reference_columns"] = [name.strip() for name in parsed.reference_columns.split(",")]
    return changes
