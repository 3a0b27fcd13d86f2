"""hfplug pull: fetch one commit of an adapter, check it, and say how to load it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfplug.cli.parser import UsageError, add_flag, one_line
from hfplug.errors import MismatchError

if TYPE_CHECKING:
    from hfplug.adapters.adapter_dir import AdapterDir
    from hfplug.hub.pull import Pulled

DESCRIPTION = """\
Resolve a repo to one commit, fetch the files of its adapter at that commit into the Hub's cache, and compare them
with the Hub's sums and with the adapter's lock. Any PEFT adapter will do, made with hfplug or not; a pickle is never
fetched. Without a network the cached commit is served, and said which and why.

  hfplug pull alice/flan-t5-small-summary-lora
  hfplug pull hf://alice/flan-t5-small-summary-lora@v1 --out my-adapter
  hfplug pull alice/flan-t5-small-summary-lora --verify      load it with its base and compare its answers
  hfplug pull my-adapter --verify --base path/to/base        the same for a folder"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the words and flags of this command."""
    parser.add_argument("repo", metavar="REPO", help="OWNER/NAME[@REVISION], with hf:// before it or not, or a folder")
    add_flag(parser, "revision", help="branch, tag or commit (default: the repo's default branch)")
    add_flag(parser, "out", type=Path, help="folder to copy the adapter to")
    add_flag(parser, "verify", action="store_true", help="load it with its base and compare its answers")
    add_flag(parser, "base", help="with --verify: repo id or folder of the base, if it is not where it was")
    add_flag(parser, "offline", action="store_const", const="on", default="auto", help="ask no Hub: the cache only")


def run(parsed: argparse.Namespace) -> int:
    """Pull, say what came, and verify it if asked to."""
    if parsed.base is not None and not parsed.verify:
        raise UsageError("--base is read with --verify only.", fix="Add --verify, or leave out --base.")
    from hfplug.cli.main import quieten_transformers
    from hfplug.hub.pull import pull_adapter

    quieten_transformers()
    pulled = pull_adapter(parsed.repo, revision=parsed.revision, out=parsed.out, offline=parsed.offline)
    for name, value in _lines(pulled):
        print(f"{name:<8} {one_line(value)}")
    if parsed.verify:
        _verify(pulled.adapter, parsed.base)
    print(f"\nLoad it with:\n\n  import hfplug\n  model = {_call(pulled, parsed.out)}")
    return 0


def _lines(pulled: Pulled) -> Iterator[tuple[str, Any]]:
    from hfplug.adapters.card_text import size_text
    from hfplug.hub.catalogue import read_entry

    adapter = pulled.adapter
    entry = read_entry(adapter)
    if pulled.repo_id:
        yield "repo", pulled.repo_id
        yield "commit", f"{pulled.commit} ({'from the Hub' if pulled.source == 'hub' else 'from the cache'})"
    commit = f" at commit {adapter.base_revision}" if adapter.base_revision else ""
    yield "base", f"{adapter.base_name or 'not said'}{commit}"
    yield "method", entry.method
    yield "task", entry.task or "not said"
    yield "size", size_text(adapter.weight_bytes)
    if entry.metrics:
        yield "metrics", ", ".join(f"{name} {value:.4g}" for name, value in entry.metrics.items())
    yield "lock", "holds; a probe of its answers is in it" if _has_probe(adapter) else _without_probe(adapter)
    yield "folder", adapter.path
    if adapter.previous:
        yield "before", f"the adapter that was there is at {adapter.previous}"


def _has_probe(adapter: AdapterDir) -> bool:
    return bool(adapter.lock and adapter.lock.probe)


def _without_probe(adapter: AdapterDir) -> str:
    unknown = "none: whether a base is the right one cannot be checked"
    return "holds; there is no probe of its answers in it" if adapter.lock else unknown


def _verify(adapter: AdapterDir, base: str | None) -> None:
    from hfplug.adapters.load import verify_adapter

    result = verify_adapter(adapter.path, base=base)
    if result.verdict != "same":
        raise MismatchError(
            f"The adapter in {adapter.path} does not answer as it did for its author: {result}.",
            fix="Pass the base that it was trained on with --base.",
        )
    print(f"{'verified':<8} {one_line(result)}")


def _call(pulled: Pulled, out: Path | None) -> str:
    if pulled.repo_id is None or out is not None:
        return f"hfplug.load_adapter({json.dumps(str(pulled.adapter.path))})"
    return f"hfplug.load_from_hub({json.dumps(pulled.repo_id)}, revision={json.dumps(pulled.commit)})"
