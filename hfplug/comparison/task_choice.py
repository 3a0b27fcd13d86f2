"""Which task is asked: one that has a name, one from a file, or one of the user's own, with some values changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfplug.adapters.task import Task
from hfplug.comparison.presets import TASKS
from hfplug.errors import DataError, did_you_mean


def choose_task(name: str, changes: Mapping[str, Any]) -> Task:
    """The task of that name, with the changes.

    Args:
        name: Of a known task, of a JSON file with a task, or a new one where ``changes`` hold a prompt.
        changes: Fields of a task, and ``max_new_tokens`` of its decoding.

    Raises:
        DataError: There is no such task, the file cannot be read, or a value does not fit.
    """
    if Path(name).suffix == ".json":
        try:
            task = Task.from_json(json.loads(Path(name).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise DataError(f"The task file {name!r} cannot be read: {error}.") from error
    elif name in TASKS:
        task = TASKS[name]
    elif "prompt" in changes:
        own = {key: changes[key] for key in ("prompt", "input_column") if key in changes}
        task = dataclasses.replace(TASKS["summary"], name=name, **own)
    else:
        raise DataError(
            f"There is no task {name!r}.",
            fix=f"{did_you_mean(name, TASKS)} The tasks are {', '.join(TASKS)}; for one of your own pass "
            "--prompt with a template, or a JSON file.".strip(),
        )
    return change_task(task, changes)


def change_task(task: Task, changes: Mapping[str, Any]) -> Task:
    """The task with some values changed.

    Args:
        task: The task.
        changes: As for :func:`choose_task`.
    """
    fields = {key: value for key, value in changes.items() if key != "max_new_tokens"}
    if "max_new_tokens" in changes:
        fields["decoding"] = {**task.decoding, "max_new_tokens": changes["max_new_tokens"]}
    if "input_column" in fields and "prompt" not in fields:
        # The template's placeholder is the column's name, so it is renamed with it.
        fields["prompt"] = task.prefix + "{" + fields["input_column"] + "}" + task.suffix
    return dataclasses.replace(task, **fields)
