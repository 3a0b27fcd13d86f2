"""hfplug compare: score adapters that exist beside their base, without training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hfplug.cli.parser import UsageError, add_flag, one_line
from hfplug.cli.task_flags import SCORING, add_plain_flags, add_task_flags, task_changes

if TYPE_CHECKING:
    from hfplug.comparison.compare_settings import CompareSettings

DESCRIPTION = """\
Put adapters that exist side by side: each is pulled if it is on a Hub, loaded onto the untouched base, checked against
its lock and its probe, and asked every row. Out come the table, intervals, paired tests and plots of a study, and a
page of every dialogue. Nothing is trained. Any PEFT adapter will do, made with hfplug or not, and fully tuned models.

  hfplug compare --variant full=study/adapters/full --variant lora=study/adapters/lora \\
                 --data dialogues.jsonl --eval-split 'train[400:500]' --out compared
  hfplug compare --base google/flan-t5-base --variant alice/flan-t5-summary-lora@v1 \\
                 --variant theirs=hf://bob/flan-t5-summary --data knkarthick/dialogsum --out compared

A comparison that was stopped goes on when the same command is typed again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_flag(
        parser,
        "variant",
        action="append",
        metavar="NAME=SOURCE",
        help="a folder, OWNER/NAME, OWNER/NAME@REVISION or hf://OWNER/NAME@REVISION; may be repeated "
        "(without NAME= it is called as the folder or the repo is)",
    )
    add_flag(parser, "base", help="repo id or folder of the base (default: the one that the adapters name)")
    add_flag(parser, "data", help="Hub id, or a JSON, JSONL, CSV or Parquet file, or a folder of them")
    add_flag(parser, "out", required=True, type=Path, help="folder for everything that comes out")
    add_flag(
        parser,
        "on_mismatch",
        choices=("refuse", "note"),
        default="refuse",
        help="an adapter that does not fit the base, gives other answers than its author saw, or was trained on these "
        "rows: stop (refuse), or score it and say so in the report (note)",
    )
    add_task_flags(parser, default=None)
    add_plain_flags(parser.add_argument_group("rows and answers"), SCORING)


def run(parsed: argparse.Namespace) -> int:
    """Compare, and print the table."""
    settings = settings_from(parsed)
    from hfplug.cli.main import quieten_transformers
    from hfplug.cli.study import closing_words
    from hfplug.comparison.compare import compare_adapters
    from hfplug.comparison.progress import Progress
    from hfplug.comparison.summary import notes
    from hfplug.comparison.table import render_table

    quieten_transformers()
    report = compare_adapters(settings, progress=Progress())
    print(render_table(report))
    for names, note in notes(report):
        print(f"{names}: {one_line(note)}")
    print(closing_words(settings.out, report))
    return 0


def settings_from(parsed: argparse.Namespace) -> CompareSettings:
    """The settings that the flags ask for.

    Raises:
        HfplugError: for flags that do not go together.
    """
    if not parsed.variant:
        raise UsageError(
            "hfplug compare needs --variant.", fix="For example --variant lora=study/adapters/lora --variant OWNER/NAME"
        )
    if not parsed.data:
        raise UsageError("hfplug compare needs --data.", fix="For example --data knkarthick/dialogsum")
    from hfplug.comparison.compare_settings import CompareSettings, VariantSource
    from hfplug.comparison.task_choice import choose_task

    changes = task_changes(parsed)
    if parsed.task is not None or "prompt" in changes:
        task, changes = choose_task(parsed.task or "summary", changes), {}
    else:
        task = None
    return CompareSettings(
        variants=tuple(VariantSource.parse(text) for text in parsed.variant),
        data=parsed.data,
        base=parsed.base,
        out=parsed.out,
        task=task,
        task_changes=changes,
        on_mismatch=parsed.on_mismatch,
        **{name: getattr(parsed, name) for name in SCORING if getattr(parsed, name) is not None},
    )
