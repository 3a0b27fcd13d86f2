"""hfplug extract: a fully tuned model's difference to its base, as a LoRA adapter."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from hfplug.cli.parser import add_flag, one_line

if TYPE_CHECKING:
    from hfplug.adapters.extract import Extracted

DESCRIPTION = """\
Take the low-rank difference of a fully tuned model to its base out as a LoRA adapter, tensor by tensor from the files
of both: an old full copy becomes a plain PEFT folder of a few percent of its size. It says which share of the
difference each layer keeps, what is lost, and how far the answers are from the full model's.

  hfplug extract full-model --base google/flan-t5-base --rank 16 --out adapter
  hfplug extract full-model --base path/to/base --rank 64 --others saved --out adapter     norms and embeddings whole

The answers are compared with one model in memory at a time (leave it out with --check off)."""

_SHOWN = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the words and flags of this command."""
    parser.add_argument("full", metavar="FULL", help="a folder, or OWNER/NAME[@REVISION] on the Hub")
    add_flag(parser, "base", required=True, help="repo id or folder of the base that it was tuned from")
    add_flag(parser, "revision", metavar="COMMIT", help="of the base")
    add_flag(parser, "rank", type=int, default=16, help="of the LoRA (default: 16)")
    add_flag(parser, "out", required=True, type=Path, metavar="DIR", help="the new folder")
    add_flag(
        parser,
        "others",
        choices=("lost", "saved"),
        default="lost",
        help="what LoRA cannot hold (norms, embeddings): leave it out and say its share, or save it whole",
    )
    add_flag(parser, "check", choices=("logits", "off"), default="logits", help="compare the answers afterwards")
    add_flag(parser, "json", action="store_true", help="print JSON")
    add_flag(parser, "offline", action="store_const", const="on", default="auto", help="ask no Hub: the cache only")


def run(parsed: argparse.Namespace) -> int:
    """Extract, and say what was kept."""
    from hfplug.adapters.extract import extract_adapter
    from hfplug.adapters.files import EXTRACT
    from hfplug.cli.main import quieten_transformers
    from hfplug.hub.pull import pull_adapter

    quieten_transformers()
    pulled = pull_adapter(parsed.full, offline=parsed.offline)
    names = ("base", "revision", "rank", "others", "check", "offline")
    made = extract_adapter(pulled.adapter.path, parsed.out, **{name: getattr(parsed, name) for name in names})
    if parsed.json:
        report = json.loads((parsed.out / EXTRACT).read_text(encoding="utf-8"))
        print(json.dumps({"folder": str(parsed.out), **report}, indent=1))
    else:
        print(_shown(made))
    return 0


def _shown(made: Extracted) -> str:
    from hfplug.adapters.card_text import size_text
    from hfplug.adapters.extract import notes_of

    lines = [f"Wrote {made.adapter.path} ({size_text(made.adapter.weight_bytes)} of weights)"]
    lines += [f"note     {one_line(note)}" for note in notes_of(made)]
    lines += ["", "layer, with its share of the whole difference   rank    kept"]
    largest = sorted(made.layers.items(), key=lambda item: -item[1]["share"])
    for name, one in largest[:_SHOWN]:
        shown = f"{name[-38:]:38} {100 * one['share']:6.1f} %"
        lines.append(f"{shown:47} {one['rank']:5.0f} {100 * one['kept']:5.1f} %")
    if len(largest) > _SHOWN:
        lines.append(f"and {len(largest) - _SHOWN} more layers, in hfplug_extract.json")
    return "\n".join(lines)
