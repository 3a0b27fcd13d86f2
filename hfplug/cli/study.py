"""hfplug study: train several methods on your data and compare them with the base."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfplug.cli.method_flags import add_method_flags, methods_from
from hfplug.cli.parser import UsageError, add_flag
from hfplug.comparison.presets import DEFAULT_METHODS
from hfplug.errors import did_you_mean
from hfplug.methods import get_method, method_names

if TYPE_CHECKING:
    from hfplug.adapters.task import Task
    from hfplug.comparison.study_settings import StudySettings

DESCRIPTION = """\
Train each method on the same rows in the same order, score the base and every method on rows that none of
them has seen, and write the table, the adapters and a report.

  hfplug study --base google/flan-t5-base --data knkarthick/dialogsum --methods full,lora --out study
  hfplug study --base ./model --data dialogues.jsonl --train-split 'train[:400]' \\
               --eval-split 'train[400:500]' --methods lora,qlora,prompt_tuning --out study
  hfplug study --preset lab --out lab

A study that was stopped goes on when the same command is typed again."""

# Which fields of StudySettings are flags as they are: name -> (type, help).
_PLAIN: dict[str, tuple[type, str]] = {
    "revision": (str, "branch, tag or commit of the base"),
    "data_revision": (str, "branch, tag or commit of the data"),
    "train_split": (str, "rows to train on, e.g. train or 'train[:400]'"),
    "eval_split": (str, "rows to score on, e.g. test or 'train[400:500]'"),
    "max_train_rows": (int, "use only the first so many rows to train on"),
    "max_eval_rows": (int, "use only the first so many rows to score on"),
    "empty_rows": (str, "what to do with rows without a text: error or skip"),
    "epochs": (float, "passes over the training rows"),
    "max_steps": (int, "optimiser steps, instead of epochs"),
    "batch_size": (int, "rows a forward pass"),
    "gradient_accumulation_steps": (int, "forward passes an optimiser step"),
    "lr_scheduler_type": (str, "schedule of the learning rate, as transformers names it"),
    "warmup_ratio": (float, "share of the steps in which the learning rate rises, 0 to 1"),
    "eval_batch_size": (int, "rows a batch when texts are generated"),
    "eval_loss_rows": (int, "rows whose loss is followed during training"),
    "gradient_checkpointing": (str, "on or off: less memory for more time"),
    "seed": (int, "of the rows' order, the adapters' start and the resampling"),
    "dtype": (str, "of the base's weights: auto, float32, bfloat16 or float16"),
}
_TASK: dict[str, tuple[type, str]] = {
    "prompt": (str, "template of the prompt, with {COLUMN} where the input goes"),
    "input_column": (str, "column that holds the input"),
    "target_column": (str, "column that holds the text to learn"),
    "max_input_tokens": (int, "longest prompt in tokens; longer inputs are cut at their end"),
    "max_target_tokens": (int, "longest target in tokens"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_flag(parser, "base", help="repo id or folder of the base")
    add_flag(parser, "data", help="Hub id, or a JSON, JSONL, CSV or Parquet file, or a folder of them")
    add_flag(parser, "out", required=True, type=Path, help="folder for everything that comes out")
    add_flag(
        parser,
        "methods",
        help=f"comma-separated, of: {', '.join(method_names())} (default: {','.join(DEFAULT_METHODS)})",
    )
    add_flag(parser, "preset", choices=("lab",), help="lab: FLAN-T5-base on DialogSum, as the well-known lab")
    add_flag(
        parser,
        "learning_rate",
        action="append",
        metavar="METHOD=RATE",
        help="learning rate of a method, where the advised one is not wanted; may be repeated",
    )
    task = parser.add_argument_group("the task")
    add_flag(task, "task", default="summary", help="a name, or a JSON file with a task (default: summary)")
    add_flag(task, "reference_columns", help="further columns with references, comma-separated, for scoring")
    add_flag(task, "max_new_tokens", type=int, help="longest answer in tokens")
    for name, (kind, text) in _TASK.items():
        add_flag(task, name, type=kind, metavar=kind.__name__.upper(), help=text)
    running = parser.add_argument_group("data and training")
    for name, (kind, text) in _PLAIN.items():
        add_flag(running, name, type=kind, metavar=kind.__name__.upper(), help=text)
    add_method_flags(parser)


def run(parsed: argparse.Namespace) -> int:
    """Run the study and print the table."""
    settings = settings_from(parsed)
    from hfplug.cli.main import quieten_transformers
    from hfplug.comparison.progress import Progress
    from hfplug.comparison.study import run_study
    from hfplug.comparison.table import render_table

    quieten_transformers()
    report = run_study(settings, progress=Progress())
    print(render_table(report))
    print(closing_words(settings.out, report))
    return 0


def closing_words(out: Path, report: Any) -> str:
    """What to look at next."""
    proved = {True: "proved untouched", False: "CHANGED during the study", None: "not checked"}
    adapters = [variant for variant in report.variants if variant.adapter_path]
    lines = [f"The base is {proved[report.base_untouched]}.", "", f"Report:   {out / 'report.html'}"]
    lines += [f"Adapter:  {out / variant.adapter_path}" for variant in adapters]
    return "\n".join(lines)


def settings_from(parsed: argparse.Namespace) -> StudySettings:
    """The settings that the flags ask for, those of a preset below them.

    Raises:
        HfplugError: for flags that do not go together.
    """
    from hfplug.comparison.presets import PRESETS
    from hfplug.comparison.study_settings import StudySettings

    preset = dict(PRESETS[parsed.preset]) if parsed.preset else {}
    given = {name: getattr(parsed, name) for name in _PLAIN if getattr(parsed, name) is not None}
    for name in ("base", "data"):
        value = getattr(parsed, name) or preset.get(name)
        if not value:
            raise UsageError(
                f"hfplug study needs --{name}.", fix=f"For example --{name} {_EXAMPLES[name]}, or --preset lab."
            )
        given[name] = value
    flags = preset.pop("flags", {})
    for flag, value in flags.items():
        if getattr(parsed, flag) is None:
            setattr(parsed, flag, value)
    names = [name.strip() for name in (parsed.methods or ",".join(DEFAULT_METHODS)).split(",") if name.strip()]
    rates = {**preset.pop("learning_rates", {}), **_rates(parsed.learning_rate or (), names)}
    chosen = {get_method(name).name for name in names}
    return StudySettings(
        **{
            **preset,
            **given,
            "task": task_from(parsed),
            "methods": methods_from(names, parsed),
            "out": parsed.out,
            "learning_rates": {name: rate for name, rate in rates.items() if name in chosen},
        }
    )


_EXAMPLES = {"base": "google/flan-t5-base", "data": "knkarthick/dialogsum"}


def task_from(parsed: argparse.Namespace) -> Task:
    """The task that the flags ask for.

    Raises:
        DataError, UsageError: if there is none of that name, or it is not right.
    """
    import dataclasses
    import json

    from hfplug.adapters.task import Task
    from hfplug.comparison.presets import TASKS

    changes: dict[str, Any] = {name: getattr(parsed, name) for name in _TASK if getattr(parsed, name) is not None}
    if parsed.reference_columns:
        changes["reference_columns"] = [name.strip() for name in parsed.reference_columns.split(",")]
    path = Path(parsed.task)
    if path.suffix == ".json":
        try:
            task = Task.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UsageError(f"The task file {parsed.task!r} cannot be read: {error}.") from error
    elif parsed.task in TASKS:
        task = TASKS[parsed.task]
    elif "prompt" in changes:
        task = dataclasses.replace(TASKS["summary"], name=parsed.task, **_with_column(changes))
    else:
        raise UsageError(
            f"There is no task {parsed.task!r}.",
            fix=f"{did_you_mean(parsed.task, TASKS)} The tasks are {', '.join(TASKS)}; for one of your own pass "
            "--prompt with a template, or a JSON file.".strip(),
        )
    if parsed.max_new_tokens is not None:
        changes["decoding"] = {**task.decoding, "max_new_tokens": parsed.max_new_tokens}
    if "input_column" in changes and "prompt" not in changes:
        # The template's placeholder is the column's name, so it is renamed with it.
        changes["prompt"] = task.prefix + "{" + changes["input_column"] + "}" + task.suffix
    return dataclasses.replace(task, **changes)


def _with_column(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: changes[key] for key in ("prompt", "input_column") if key in changes}


def _rates(given: Any, names: list[str]) -> dict[str, float]:
    rates = {}
    for item in given:
        name, equals, value = item.partition("=")
        try:
            rates[get_method(name).name if equals else ""] = float(value if equals else "nan")
        except ValueError:
            rates[""] = float("nan")
        if "" in rates or not all(rate > 0 for rate in rates.values()):
            raise UsageError(
                f"--learning-rate takes METHOD=RATE, not {item!r}.", fix=f"For example --learning-rate {names[0]}=1e-3"
            )
    return rates
