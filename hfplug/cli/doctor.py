"""hfplug doctor: look for what would waste a night, before a script trains."""

from __future__ import annotations

import argparse
import contextlib
import json

from hfplug.cli.parser import add_flag
from hfplug.cli.run import add_run_flags, add_script, launch, method_from, split_script

DESCRIPTION = """\
Run a Trainer script up to its first training step, look at its model, rows and settings, say what each check saw and
what to do, and train nothing. Without a script: what this machine has.

  hfplug doctor
  hfplug doctor --method qlora script.py --its --own --flags
  hfplug doctor --json --method lora script.py settings.json

What the script prints goes to the error stream with --json, and the folders that it makes and leaves empty are taken
away again. Exit status: 0 if nothing stands in the way (warnings and notes included), 1 if a check says that something
cannot work or the script itself fails, 2 if the words are wrong or the method does not fit, else the script's own."""


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
    from hfplug.training.only_look import no_empty_folders, output_kept_apart

    script, arguments = split_script(parsed)
    method = method_from(parsed)
    with output_kept_apart() if parsed.json else contextlib.nullcontext() as out:
        with no_empty_folders():
            status = launch(parsed, script, arguments, method, preflight="only", out=out)
        if status == 0:
            # Whoever gets here has not been stopped at a first step.
            words = "[]" if parsed.json else "The script has ended without training, so there was nothing to examine."
            print(words, file=out)
    return status
