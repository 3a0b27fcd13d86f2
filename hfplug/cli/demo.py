"""hfplug demo: the whole thing on a built-in base and task, in minutes, without a network."""

from __future__ import annotations

import argparse
from pathlib import Path

from hfplug.cli.method_flags import method_words
from hfplug.cli.parser import add_flag
from hfplug.comparison.presets import DEFAULT_METHODS
from hfplug.methods import method_names

DESCRIPTION = """\
Fully tune, LoRA-tune, QLoRA-tune and prompt-tune a very small T5 on generated dialogues, score all of them
beside the untouched base on dialogues that none has seen, and leave a PEFT adapter of each on disk. Then push
each to a Hub that runs on this machine for that long, pull it back by its commit and check its answers.
No network, no token, no GPU; under four minutes on two cores.

  hfplug demo
  hfplug demo --methods lora,prompt_tuning --task title --out my-demo"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_flag(parser, "out", type=Path, default=Path("hfplug-demo"), help="folder (default: hfplug-demo)")
    add_flag(
        parser,
        "methods",
        default=",".join(DEFAULT_METHODS),
        help=f"all, or some of: {', '.join(method_names())} (default: {','.join(DEFAULT_METHODS)})",
    )
    add_flag(parser, "task", default="summary", help="summary, title or action_items (default: summary)")
    add_flag(parser, "seed", type=int, default=42, help="of the rows' order and the adapters' start (default: 42)")


def run(parsed: argparse.Namespace) -> int:
    """Run the demo, print the table and what to type next."""
    from hfplug.cli.main import quieten_transformers
    from hfplug.cli.study import closing_words
    from hfplug.comparison.progress import Progress
    from hfplug.comparison.study import run_study
    from hfplug.comparison.table import render_table
    from hfplug.demo.base import base_path
    from hfplug.demo.round_trip import render_trips, send_and_fetch
    from hfplug.demo.run import demo_settings, next_commands
    from hfplug.errors import MismatchError, MissingExtraError

    quieten_transformers()
    names = method_words(parsed.methods, default=DEFAULT_METHODS, base=base_path())
    settings = demo_settings(parsed.out, methods=names, task=parsed.task, seed=parsed.seed)
    progress = Progress()
    report = run_study(settings, progress=progress)
    print(render_table(report))
    print(closing_words(settings.out, report))
    adapters = [settings.out / variant.adapter_path for variant in report.variants if variant.adapter_path]
    root = parsed.out / "hub"
    try:
        trips = send_and_fetch(adapters, root=root, task=parsed.task, progress=progress)
    except MissingExtraError as error:
        print(f"\nThe way to a Hub and back is left out: {error}")
        trips = []
    if trips:
        print(f"\n{render_trips(trips, root)}")
    print(next_commands(settings, report))
    if lost := [trip.name for trip in trips if not trip.held]:
        raise MismatchError(f"Not everything came back from the Hub as it went: {', '.join(lost)}.")
    return 0
