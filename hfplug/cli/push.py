"""hfplug push: an adapter or a fully tuned model to the Hub, as one commit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hfplug.cli.parser import add_flag

if TYPE_CHECKING:
    from hfplug.hub.push import Preview
    from hfplug.hub.send import Sent

DESCRIPTION = """\
Push a folder that hfplug or PEFT's save_pretrained wrote. Only the adapter's own files go: never a pickle, an
optimiser's state or a token. What is there already is not pushed again; a README that people edited keeps their
text and licence. The Hub is that of HF_ENDPOINT, else huggingface.co.

  hfplug push out/adapters/lora                        to <you>/<base>-<task>-<method>
  hfplug push out/adapters/lora me/my-adapter --private --licence apache-2.0
  hfplug push out/adapters/lora --dry-run              what would be pushed, and whether anything would change
  hfplug push checkpoint-500 me/my-adapter --base-id google/flan-t5-base --revision trial"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the words and flags of this command."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="the adapter's folder")
    parser.add_argument("repo", metavar="REPO", nargs="?", help="OWNER/NAME (default: <you>/<base>-<task>-<method>)")
    add_flag(parser, "private", action="store_true", help="only for you, if the repo has to be made")
    add_flag(parser, "revision", metavar="BRANCH", help="made if it is not there (default: main)")
    add_flag(parser, "create_pr", action="store_true", help="open a pull request instead of changing the branch")
    add_flag(parser, "message", help="first line of the commit")
    add_flag(parser, "dtype", choices=("float32", "bfloat16"), help="of the weights (default: as they are)")
    add_flag(parser, "licence", metavar="ID", help="for the card, e.g. apache-2.0; one that stands there stays")
    add_flag(parser, "base_id", metavar="OWNER/NAME", help="id of the base, if it was trained on a local folder")
    add_flag(parser, "collection", action="store_true", help="keep it in your collection for its base")
    add_flag(parser, "dry_run", action="store_true", help="show what would be pushed, and change nothing")


def run(parsed: argparse.Namespace) -> int:
    """Push, or show what would be pushed."""
    from hfplug.hub.push import preview_push, push_adapter

    shared = {name: getattr(parsed, name) for name in ("revision", "dtype", "licence", "base_id")}
    if parsed.dry_run:
        print(_show_preview(preview_push(parsed.folder, parsed.repo, **shared)))
        for wish in _wishes(parsed):
            print(wish)
        return 0
    sent = push_adapter(
        parsed.folder,
        parsed.repo,
        private="on" if parsed.private else None,
        create_pr="on" if parsed.create_pr else "off",
        message=parsed.message,
        collection="on" if parsed.collection else "off",
        **shared,
    )
    print(_show_sent(sent))
    return 0


def _wishes(parsed: argparse.Namespace) -> list[str]:
    """What else a push with these flags would do, for a dry run."""
    wishes = {
        "The repo would be private, if it has to be made.": parsed.private,
        "A pull request would be opened; the branch would stay as it is.": parsed.create_pr,
        f"The commit would be called {parsed.message!r}.": parsed.message,
        "It would be kept in your collection for its base.": parsed.collection,
    }
    return [wish for wish, wanted in wishes.items() if wanted]


def _show_sent(sent: Sent) -> str:
    what = "Pushed" if sent.changed else "Nothing to push, it is all there:"
    return "\n".join([f"{what} {sent.repo_id} at {sent.commit[:12]}  {sent.url}", *_notes(sent.notes)])


def _show_preview(preview: Preview) -> str:
    from huggingface_hub.utils import yaml_dump

    states = {"there": "", "new": ", which would be made", "unknown": ", which cannot be looked at without a token"}
    lines = [f"{preview.repo_id}{states[preview.repo]}:"]
    for name, size in preview.files.items():
        what = "push" if name in preview.add else "same"
        lines.append(f"  {what:6} {size:>14,} bytes  {name}")
    lines += [f"  delete {'':>14}        {name}" for name in preview.delete]
    lines += ["", "The card's front matter:"]
    lines += [f"  {line}" for line in yaml_dump(dict(preview.front_matter), sort_keys=False).splitlines()]
    changes = len(preview.add) + len(preview.delete)
    lines += ["", f"{changes} files would change, in one commit." if changes else "Nothing would change."]
    return "\n".join([*lines, *_notes(preview.notes)])


def _notes(notes: tuple[str, ...]) -> list[str]:
    return [f"  note: {note}" for note in notes]
