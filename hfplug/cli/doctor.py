"""hfplug doctor: look for what would waste a night, before a script trains."""

from __future__ import annotations

import argparse
import json

from hfplug.cli.parser import add_flag
from hfplug.cli.run import add_run_flags, add_script, launch, method_from, split_script

DESCRIPTION = """\
Run a Trainer script up to its first training step, look at its model, rows and settings, say what each check saw and
what to do, and train nothing. Without a script: what this machine has.

  hfplug doctor
  hfplug doctor --method qlora script.py --its --own --flags
  hfplug doctor --json --method lora script.py settings.json

It leaves with 1 if something cannot work."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_flag(parser, "json", action="store_true", help="print JSON")
    add_run_flags(parser)
    add_script(parser)


def run(parsed: argparse.Namespace) -> int:
    """Examine the script, or the machine."""
    if not parsed.script:
        from hfplug.training.environment import describe_environment, render_environment

        found = describe_environment()
        print(json.dumps(found, indent=1) if parsed.json else render_environment(found))
        return 0
    script, arguments = split_script(parsed)
    status = launch(parsed, script, arguments, method_from(parsed), preflight="only")
    if status == 0:
        # Whoever gets here has not been stopped at a first step.
        print("[]" if parsed.json else "The script has ended without training, so there was nothing to examine.")
    return status
