"""hfplug anatomy: print the parts of a model as a tree, from its configuration alone."""

from __future__ import annotations

import argparse
import json

from hfplug.cli.parser import add_flag

DESCRIPTION = """\
Print the parts of a model with their numbers of parameters, what LoRA would go on and what QLoRA would hold in 4 bits.
No weight is read: a folder with a config.json, or a repo whose configuration can be read, is enough.

  hfplug anatomy google/flan-t5-base
  hfplug anatomy ./folder --task-type classification --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    parser.add_argument("base", help="repo id or folder of the base")
    add_flag(parser, "task_type", help="seq2seq, causal, classification, … (default: read from the configuration)")
    add_flag(parser, "revision", help="branch, tag or commit")
    add_flag(parser, "json", action="store_true", help="print JSON")


def run(parsed: argparse.Namespace) -> int:
    """Print the tree."""
    from hfplug.models.anatomy_page import render_tree
    from hfplug.models.anatomy_tree import anatomy_tree

    tree = anatomy_tree(parsed.base, task_type=parsed.task_type, revision=parsed.revision)
    print(json.dumps(tree.to_json(), indent=1) if parsed.json else render_tree(tree))
    return 0
