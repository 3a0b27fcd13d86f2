"""hfplug study: train several methods on your data and compare them with the base."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfplug.cli.method_flags import add_method_flags, method_words, methods_from, preset_names, preset_rate
from hfplug.cli.parser import UsageError, add_flag
from hfplug.cli.task_flags import SCORING, add_plain_flags, add_task_flags, task_changes
from hfplug.comparison.presets import DEFAULT_METHODS
from hfplug.methods import get_method, method_names

if TYPE_CHECKING:
    from hfplug.comparison.study_settings import StudySettings

DESCRIPTION = """\
Train each method on the same rows in the same order, score the base and every method on rows that none of
them has seen, and write the table, the adapters and a report.

  hfplug study --base google/flan-t5-base --data knkarthick/dialogsum --methods full,lora --out study
  hfplug study --base ./model --data dialogues.jsonl --train-split 'train[:400]' \\
               --eval-split 'train[400:500]' --methods lora,qlora,prompt_tuning --out study
  hfplug study --preset lab --out lab

A study that was stopped goes on when the same command is typed again."""

# Further fields of StudySettings that are flags as they are: name -> (type, help).
_TRAINING: dict[str, tuple[type, str]] = {
    "train_split": (str, "rows to train on, e.g. train or 'train[:400]'"),
    "max_train_rows": (int, "use only the first so many rows to train on"),
    "epochs": (float, "passes over the training rows"),
    "max_steps": (int, "optimiser steps, instead of epochs"),
    "batch_size": (int, "rows a forward pass"),
    "gradient_accumulation_steps": (int, "forward passes an optimiser step"),
    "lr_scheduler_type": (str, "schedule of the learning rate, as transformers names it"),
    "warmup_ratio": (float, "share of the steps in which the learning rate rises, 0 to 1"),
    "eval_loss_rows": (int, "rows whose loss is followed during training"),
    "gradient_checkpointing": (str, "on or off: less memory for more time"),
}
_PLAIN = {**SCORING, **_TRAINING}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_flag(parser, "base", help="repo id or folder of the base")
    add_flag(parser, "data", help="Hub id, or a JSON, JSONL, CSV or Parquet file, or a folder of them")
    add_flag(parser, "out", required=True, type=Path, help="folder for everything that comes out")
    add_flag(
        parser,
        "methods",
        help=f"all, or some of: {', '.join(method_names())} (default: {','.join(DEFAULT_METHODS)})",
    )
    add_flag(
        parser,
        "preset",
        choices=("lab", *preset_names()),
        help="lab: FLAN-T5-base on DialogSum, as the well-known lab; or settings of the methods: paper, …, with the "
        "learning rates of the papers",
    )
    add_flag(
        parser,
        "learning_rate",
        action="append",
        metavar="METHOD=RATE",
        help="learning rate of a method, where the advised one is not wanted; may be repeated",
    )
    add_task_flags(parser, default="summary")
    add_plain_flags(parser.add_argument_group("data and training"), _PLAIN)
    add_method_flags(parser, preset_flag="off")


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
    proved = {True: "proved untouched", False: "CHANGED meanwhile", None: "not checked"}
    adapters = [variant for variant in report.variants if variant.adapter_path]
    lines = [
        f"The base is {proved[report.base_untouched]}.",
        "",
        f"Report:    {out / 'report.html'}",
        f"Dialogues: {out / 'dialogues.html'}",
    ]
    lines += [f"Adapter:   {out / variant.adapter_path}" for variant in adapters]
    return "\n".join(lines)


def settings_from(parsed: argparse.Namespace) -> StudySettings:
    """The settings that the flags ask for, those of a preset below them.

    Raises:
        HfplugError: for flags that do not go together.
    """
    from hfplug.comparison.presets import PRESETS
    from hfplug.comparison.study_settings import StudySettings
    from hfplug.comparison.task_choice import choose_task

    preset = dict(PRESETS.get(parsed.preset, {}))
    of_methods = None if parsed.preset in PRESETS else parsed.preset
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
    names = method_words(parsed.methods, default=DEFAULT_METHODS, base=given["base"])
    of_papers = {get_method(name).name: preset_rate(name, of_methods) for name in names}
    rates = {
        **preset.pop("learning_rates", {}),
        **{name: rate for name, rate in of_papers.items() if rate},
        **_rates(parsed.learning_rate or (), names),
    }
    chosen = {get_method(name).name for name in names}
    return StudySettings(
        **{
            **preset,
            **given,
            "task": choose_task(parsed.task, task_changes(parsed)),
            "methods": methods_from(names, parsed, preset=of_methods),
            "out": parsed.out,
            "learning_rates": {name: rate for name, rate in rates.items() if name in chosen},
        }
    )


_EXAMPLES = {"base": "google/flan-t5-base", "data": "knkarthick/dialogsum"}


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
