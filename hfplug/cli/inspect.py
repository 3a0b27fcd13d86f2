"""hfplug inspect: what an adapter learnt, read off its weights."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hfplug.cli.adapter_flags import ADAPTER, add_base_flags
from hfplug.cli.parser import add_flag

if TYPE_CHECKING:
    from hfplug.adapters.inspect import Inspection
    from hfplug.adapters.inspect_pair import Pair
    from hfplug.adapters.inspect_prompt import PromptLoss

DESCRIPTION = """\
Look inside an adapter without running it, held against its base, whose files are read a tensor at a time: how far each
layer moved and in how many directions (LoRA and its kin), which weights moved most (biases, norms, scales, copies), and
what a soft prompt's virtual tokens are near and how far they are from where they started, beside what chance gives.
Any PEFT adapter will do, made with hfplug or not.

  hfplug inspect out/adapter
  hfplug inspect alice/flan-t5-small-summary-lora@v1 --base path/to/base --json
  hfplug inspect out/adapter --against nothing             the adapter alone
  hfplug inspect out/prompt --loss --data rows.jsonl       what each virtual token is worth
  hfplug inspect out/adapter --plot heat.png --out seen    a picture; a page and the JSON
  hfplug inspect out/adapter out/another                   two of one base: did they learn the same?"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the words and flags of this command."""
    parser.add_argument("adapter", metavar="ADAPTER", help=ADAPTER)
    parser.add_argument("other", metavar="OTHER", nargs="?", help="a second adapter of the same base to put beside it")
    add_base_flags(parser)
    add_flag(
        parser,
        "against",
        choices=("base", "nothing"),
        default="base",
        help="hold it against its base (default), or look at the adapter alone",
    )
    add_flag(parser, "top", type=int, default=20, help="rows of a table, those that moved most (default: 20)")
    add_flag(parser, "nearest", type=int, default=5, help="words shown for a virtual token (default: 5)")
    add_flag(
        parser,
        "loss",
        action="store_true",
        help="soft prompts: load the model and measure the loss with each virtual token left out, and that of the "
        "nearest words as a prompt (a pass over the rows for each; off by default)",
    )
    add_flag(parser, "data", help="with --loss: rows to measure on (default: the examples in the adapter's record)")
    add_flag(parser, "rows", type=int, default=32, help="with --loss: how many rows at most (default: 32)")
    add_flag(parser, "json", action="store_true", help="print JSON, with every layer and every singular value")
    add_flag(parser, "plot", metavar="FILE", type=Path, help="draw heat maps and bars into FILE.png or FILE.svg")
    add_flag(parser, "out", metavar="DIR", type=Path, help="write a page and the JSON into a new folder")


def run(parsed: argparse.Namespace) -> int:
    """Pull if need be, look, and print it."""
    from hfplug.adapters.inspect import inspect_adapter
    from hfplug.adapters.inspect_pair import inspect_pair
    from hfplug.adapters.inspect_pair_table import render_pair
    from hfplug.adapters.inspect_table import render_inspection
    from hfplug.adapters.one_step import place_for
    from hfplug.cli.main import quieten_transformers
    from hfplug.errors import SettingError
    from hfplug.hub.pull import pull_adapter

    if parsed.top < 1:
        raise SettingError(f"--top must be 1 or more, not {parsed.top}.")
    if parsed.data is not None and not parsed.loss:
        raise SettingError("--data is read with --loss only.", fix="Add --loss, or leave out --data.")
    if parsed.loss and parsed.other is not None:
        raise SettingError("--loss is measured of one adapter.", fix="Leave out the other one, or --loss.")
    if parsed.plot is not None:
        from hfplug.comparison.inspect_plot import check_picture

        check_picture(parsed.plot)
    quieten_transformers()
    folder = pull_adapter(parsed.adapter, offline=parsed.offline).adapter.path
    place = place_for(parsed.out, [folder]) if parsed.out is not None else None
    places = {"base": parsed.base, "revision": parsed.revision, "against": parsed.against, "offline": parsed.offline}
    seen: Inspection | Pair
    if parsed.other is None:
        seen = inspect_adapter(folder, nearest=parsed.nearest, say=_say, **places)
        if parsed.loss:
            seen = dataclasses.replace(seen, loss=_measured(seen, parsed))
        text = render_inspection(seen, top=parsed.top)
    else:
        other = pull_adapter(parsed.other, offline=parsed.offline).adapter.path
        seen = inspect_pair(folder, other, say=_say, **places)
        text = render_pair(seen, top=parsed.top)
    if parsed.plot is not None:
        from hfplug.comparison.inspect_plot import draw_picture

        draw_picture(seen, parsed.plot)
    if place is not None:
        from hfplug.comparison.inspect_page import write_inspection

        write_inspection(seen, place)
    _say("")
    print(json.dumps(seen.to_json(), indent=1) if parsed.json else text)
    return 0


def _measured(seen: Inspection, parsed: argparse.Namespace) -> PromptLoss:
    from hfplug.comparison.inspect_loss import measure_prompt_loss

    places = {"base": parsed.base, "revision": parsed.revision, "offline": parsed.offline}
    return measure_prompt_loss(seen, data=parsed.data, rows=parsed.rows, say=_say, **places)


def _say(what: str) -> None:
    """One line that is written over, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what[:90]}", end="", file=sys.stderr, flush=True)
