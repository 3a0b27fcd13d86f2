"""hfplug diff: show the few-line change to a Trainer script, or make it."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path

from hfplug.cli.method_flags import add_method_flags, methods_from
from hfplug.cli.parser import UsageError, add_flag
from hfplug.cli.run_config import CONFIG_HELP
from hfplug.methods import method_names

DESCRIPTION = """\
Print the change that does to a Trainer script what `hfplug run` does without one: two lines.

  hfplug diff --method lora script.py
  hfplug diff --method lora --lora-r 8 script.py --write"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    parser.add_argument("script", type=Path, help="the script")
    add_flag(parser, "config", metavar="FILE", help=CONFIG_HELP)
    add_flag(parser, "method", default="lora", help=f"one of: {', '.join(method_names())} (default: lora)")
    add_flag(parser, "write", action="store_true", help="change the file instead of printing the change")
    add_method_flags(parser)


def run(parsed: argparse.Namespace) -> int:
    """Print or make the change."""
    from hfplug.adapters import atomic
    from hfplug.training.plug_edit import edit_source, read_script

    path: Path = parsed.script
    if not path.is_file():
        raise UsageError(f"There is no script {str(path)!r}.", fix="Type: hfplug diff --method lora path/to/script.py")
    method = methods_from([parsed.method], parsed)[0]
    source, encoding = read_script(path)
    changed = edit_source(source, method.name, method.said_settings(), name=str(path))
    if parsed.write:
        atomic.write_bytes(path.resolve(), changed.encode(encoding))  # resolved, so that a link stays one
        print(f"{path}: changed.")
        return 0
    before, after = source.splitlines(keepends=True), changed.splitlines(keepends=True)
    print("".join(difflib.unified_diff(before, after, f"a/{path.name}", f"b/{path.name}")), end="")
    return 0
