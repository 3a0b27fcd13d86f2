"""hfplug export: an adapter for vLLM or plain PEFT, or merged into a whole model; and what serves it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hfplug.cli.adapter_flags import ADAPTER, add_base_flags, add_merge_flags
from hfplug.cli.merge import lines_of
from hfplug.cli.parser import add_flag, one_line

if TYPE_CHECKING:
    from hfplug.serving.export import Exported

DESCRIPTION = """\
Check that the engine takes the adapter, write the folder, and print what serves it. Nothing is overwritten, and an
export that fails leaves nothing behind.

  hfplug export out/adapters/lora --for vllm --out lora-vllm       a LoRA beside its base
  hfplug export alice/my-lora@v1 --for peft --out my-lora          for plain PeftModel.from_pretrained
  hfplug export out/adapters/lora --for merged --out model         one whole model, its answers compared afterwards
  hfplug export out/adapters/lora --for merged --out model --dtype bfloat16 --base path/to/base

A merged model is made as hfplug merge makes it, which also takes several adapters."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the words and flags of this command."""
    parser.add_argument("adapter", metavar="ADAPTER", help=ADAPTER)
    add_flag(parser, "for", required=True, choices=("vllm", "peft", "merged"), help="the engine")
    add_flag(parser, "out", required=True, type=Path, metavar="DIR", help="the new folder")
    add_base_flags(parser)
    add_flag(
        parser,
        "dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the weights (default: as they are; merged: as the base's are)",
    )
    add_merge_flags(parser, when="merged: ")
    add_flag(parser, "name", help="what requests call it (default: the name of the folder)")


def run(parsed: argparse.Namespace) -> int:
    """Pull if need be, export, and say what serves it."""
    from hfplug.cli.main import quieten_transformers
    from hfplug.hub.pull import pull_adapter
    from hfplug.serving.export import export_adapter

    quieten_transformers()
    pulled = pull_adapter(parsed.adapter, offline=parsed.offline)
    exported = export_adapter(
        pulled.adapter,
        getattr(parsed, "for"),
        parsed.out,
        base=parsed.base,
        revision=parsed.revision,
        dtype=parsed.dtype,
        into=parsed.into,
        check=parsed.check,
        name=parsed.name or (pulled.repo_id or "").rpartition("/")[2] or None,
        offline=parsed.offline,
    )
    print(_shown(exported))
    return 0


def _shown(exported: Exported) -> str:
    from hfplug.adapters.card_text import size_text
    from hfplug.serving.vllm import VERSION

    if exported.merged is not None:
        lines = list(lines_of(exported.merged))
    else:
        size = sum(file.stat().st_size for file in exported.folder.rglob("*") if file.is_file())
        lines = [f"Wrote {exported.folder} ({size_text(size)})"]
    lines += [f"note     {one_line(note)}" for note in exported.notes]
    if exported.language == "shell":
        lines += ["", f"Serve it with (checked against the source of vLLM {VERSION}; not run here):", ""]
    else:
        lines += ["", "Load it with:", ""]
    return "\n".join([*lines, *(f"  {line}".rstrip() for line in exported.command.splitlines())])
