"""hfplug merge: one adapter or several into the weights of their base, as one whole model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfplug.cli.adapter_flags import ADAPTER, add_base_flags, add_merge_flags
from hfplug.cli.parser import UsageError, add_flag, one_line

if TYPE_CHECKING:
    from hfplug.adapters.merge import Merged

DESCRIPTION = """\
Write the base with the adapter in its weights: a whole model of transformers, without PEFT and without cost at
inference. It is written tensor by tensor, so that a base of any size needs the memory of its largest layer; the
comparison of answers afterwards needs that of the model (leave it out with --check off). Nothing is overwritten, and
a merge that fails or answers otherwise leaves nothing behind.

  hfplug merge out/adapters/lora --out model
  hfplug merge alice/my-lora@v1 --out model --dtype bfloat16 --base path/to/base
  hfplug merge my-qlora --out model --into dequantised           into the 4 bits written out in full
  hfplug merge one two --out model --weights 0.7,0.3             0.7 and 0.3 times what each changes
  hfplug merge one two --out model --combination ties --density 0.2
  hfplug merge out/adapters/lora --out model --dry-run           what would be done

The base itself is only read, so the way back is the base: hfplug_merge.json in the folder names its commit and holds
the SHA-256 of each changed tensor, before and after."""

COMBINATIONS = ("linear", "magnitude_prune", "ties", "dare_linear", "dare_ties")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the words and flags of this command."""
    parser.add_argument("adapters", metavar="ADAPTER", nargs="+", help=ADAPTER)
    add_flag(parser, "out", required=True, type=Path, metavar="DIR", help="the new folder")
    add_base_flags(parser)
    add_flag(
        parser,
        "dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the weights (default: as the base's are)",
    )
    add_merge_flags(parser)
    add_flag(parser, "weights", metavar="W,W", help="what each adapter's change is multiplied by (default: their mean)")
    add_flag(parser, "combination", choices=COMBINATIONS, default="linear", help="of several adapters")
    add_flag(parser, "density", type=float, metavar="SHARE", help="of each change that is kept; not for linear")
    add_flag(parser, "seed", type=int, default=0, help="of the draws of dare_linear and dare_ties")
    add_flag(parser, "dry_run", action="store_true", help="say what would be done, and do nothing")
    add_flag(parser, "json", action="store_true", help="print JSON")


def run(parsed: argparse.Namespace) -> int:
    """Pull what is not here, say what will be done, and do it."""
    weights = _numbers(parsed.weights)
    from hfplug.adapters.merge import merge_adapters, plan_merge
    from hfplug.cli.main import quieten_transformers
    from hfplug.hub.pull import pull_adapter

    quieten_transformers()
    pulled = [pull_adapter(one, offline=parsed.offline) for one in parsed.adapters]
    shared = ("base", "revision", "dtype", "into", "combination", "density", "seed", "check", "offline")
    options: dict[str, Any] = {name: getattr(parsed, name) for name in shared}
    options |= {"weights": weights, "names": [one.repo_id or one.adapter.path.name for one in pulled]}
    adapters = [one.adapter for one in pulled]
    if parsed.dry_run:
        plan = plan_merge(adapters, parsed.out, **options)
        print(json.dumps(vars(plan), indent=1) if parsed.json else f"plan     {one_line(plan)}")
        return 0
    if not parsed.json:
        options["announce"] = lambda plan: print(f"plan     {one_line(plan)}", flush=True)
    merged = merge_adapters(adapters, parsed.out, **options)
    if parsed.json:
        print(json.dumps({"folder": str(parsed.out), **read_report(merged)}, indent=1))
    else:
        print("\n".join([*lines_of(merged), "", "Load it with:", "", *_code(merged, parsed.out)]))
    return 0


def read_report(merged: Merged) -> dict[str, Any]:
    """The content of the folder's ``hfplug_merge.json``.

    Args:
        merged: The model.
    """
    from hfplug.adapters.files import MERGE

    return json.loads((merged.adapter.path / MERGE).read_text(encoding="utf-8"))


def lines_of(merged: Merged) -> Iterator[str]:
    """What is said of a merged model on the terminal.

    Args:
        merged: The model.
    """
    from hfplug.adapters.card_text import size_text

    folder = merged.adapter.path
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    yield f"Wrote {folder} ({size_text(size)})"
    way = "tensor by tensor" if merged.way == "shards" else "with the model in memory"
    yield f"merged   into the {merged.into} base, in {merged.dtype}, {way}"
    if merged.difference is None:
        yield "checked  not: --check off"
    else:
        whom = "base and adapter" if merged.combination.is_one == "yes" else "the same combination made in memory"
        yield f"checked  {_against(merged.difference, whom)}"
    if merged.author is not None:
        yield f"author   {_against(merged.author, 'the author')} (before it was merged)"
    if merged.other is not None:
        yield (
            "4 bits   on the unquantised base the same adapter gives logits that differ by up to"
            f" {merged.other.largest:.2g} of their root mean square"
        )


def _against(result: object, whom: str) -> str:
    from hfplug.adapters.probe import ProbeResult

    assert isinstance(result, ProbeResult)
    if result.verdict == "other tokenizer":
        return one_line(result)
    return (
        f"the largest difference to the logits of {whom} is {result.largest:.2g} of their root mean square"
        f" (allowed: {result.tolerance:g}, {result.basis})"
    )


def _code(merged: Merged, out: Path) -> list[str]:
    from hfplug.adapters.card_use import plain_code

    return [f"  {line}".rstrip() for line in plain_code(merged.adapter, json.dumps(str(out)), base=None).splitlines()]


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(one) for one in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--weights takes numbers separated by commas, not {text!r}.", fix="For example: --weights 0.7,0.3"
        ) from None
