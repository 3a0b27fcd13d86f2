"""hfplug demo: the whole thing on a built-in base and task, in minutes, without a network."""

from __future__ import annotations

import argparse
from pathlib import Path

from hfplug.cli.parser import add_flag
from hfplug.methods import method_names

DESCRIPTION = """\
Fully tune, LoRA-tune, QLoRA-tune and prompt-tune a very small T5 on generated dialogues, score all of them
beside the untouched base on dialogues that none has seen, and leave a PEFT adapter of each on disk.
No network, no token, no GPU; under four minutes on two cores.

  hfplug demo
  hfplug demo --methods lora,prompt_tuning --task title --out my-demo"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_flag(parser, "out", type=Path, default=Path("hfplug-demo"), help="folder (default: hfplug-demo)")
    add_flag(
        parser,
        "methods",
        default=",".join(method_names()),
        help=f"comma-separated (default: {','.join(method_names())})",
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
    from hfplug.demo.run import demo_settings, next_commands

    quieten_transformers()
    names = [name.strip() for name in parsed.methods.split(",") if name.strip()]
    settings = demo_settings(parsed.out, methods=names, task=parsed.task, seed=parsed.seed)
    report = run_study(settings, progress=Progress())
    print(render_table(report))
    print(closing_words(settings.out, report))
    print(next_commands(settings, report))
    return 0
