"""hfplug outbox: what still waits to be pushed to a Hub, and sending it."""

from __future__ import annotations

import argparse
import datetime
import logging
import sys
from typing import TYPE_CHECKING

from hfplug.cli.parser import UsageError, add_flag
from hfplug.errors import OutboxError

if TYPE_CHECKING:
    from hfplug.hub.outbox import Outbox
    from hfplug.hub.outbox_entry import Entry

DESCRIPTION = """\
The outbox holds the pushes that a Hub has not confirmed yet: those of a run without a network, of a run that was
killed, or of a token that had run out. The folder is that of HFPLUG_OUTBOX, else ~/.local/state/hfplug/outbox.

  hfplug outbox                       what waits, for which repo, how long, and the last error
  hfplug outbox flush                 send all of it, in order, to the Hub of HF_ENDPOINT
  hfplug outbox flush --repo me/my-adapter --timeout 60
  hfplug outbox drop 000012           do not send that one; it is moved aside, not deleted"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the words and flags of this command."""
    parser.add_argument("action", nargs="?", choices=("list", "flush", "drop"), default="list")
    parser.add_argument("entry", nargs="?", metavar="ENTRY", help="for drop: its number, as the list shows it")
    add_flag(parser, "repo", help="only pushes to this repo")
    add_flag(parser, "timeout", type=float, help="for flush: seconds to go on trying (default: 600)")
    add_flag(parser, "yes", action="store_true", help="for drop: do not ask")


def run(parsed: argparse.Namespace) -> int:
    """List, send or drop what waits."""
    from hfplug.hub.outbox import Outbox

    if (parsed.entry is None) == (parsed.action == "drop"):
        raise UsageError("'drop' takes one ENTRY, the others take none.", fix="Type: hfplug outbox drop 000012, say")
    _refuse_flags_without_effect(parsed)
    outbox = Outbox()
    if parsed.action == "flush":
        return _flush(outbox, parsed.repo, parsed.timeout)
    if parsed.action == "drop":
        return _drop(outbox, parsed.entry, parsed.repo, ask=not parsed.yes)
    return _list(outbox, parsed.repo)


def _refuse_flags_without_effect(parsed: argparse.Namespace) -> None:
    for flag, given, action in (
        ("--timeout", parsed.timeout is not None, "flush"),
        ("--yes", parsed.yes, "drop"),
    ):
        if given and parsed.action != action:
            raise UsageError(f"{flag} is for '{action}', not for '{parsed.action}'.", fix=f"Leave {flag} out.")
    # Also what is no number at all: every comparison with it is false.
    if parsed.timeout is not None and not parsed.timeout >= 0:
        raise UsageError(f"--timeout must be at least 0 seconds, not {parsed.timeout:g}.", fix="Type: --timeout 60")


def _list(outbox: Outbox, repo: str | None) -> int:
    queues = [queue for queue in outbox.queues() if repo in (None, queue.repo_id)]
    waiting = 0
    for queue in queues:
        entries = queue.entries()
        waiting += len(entries)
        if entries:
            size = sum(entry.size for entry in entries)
            print(f"{queue.repo_id} ({queue.revision}) at {queue.endpoint}: {len(entries)} waiting, {_size(size)}")
        for entry in entries:
            print(f"  {entry.name}  {_size(entry.size):>9}  {_age(entry):>9}  {entry.message or entry.damage}")
            if entry.error:
                print(f"    tried {entry.attempts} times; {entry.error}")
        for folder in queue.set_aside():
            print(f"  set aside: {folder}")
    if not waiting:
        print(f"Nothing waits in {outbox.root}.")
    else:
        print("To send it, type: hfplug outbox flush")
    return 0


def _flush(outbox: Outbox, repo: str | None, seconds: float | None) -> int:
    from hfplug.hub.deliver import FLUSH_SECONDS, count_pushes, flush_command, flush_outbox

    # Each arrival and each wait is a line: uploads take long, and a Hub that is away takes longer.
    logging.getLogger("hfplug.hub.deliver").setLevel(logging.INFO)
    result = flush_outbox(outbox, repo_id=repo, seconds=FLUSH_SECONDS if seconds is None else seconds)
    print(f"{result.delivered} delivered, {len(result.remaining)} still waiting.")
    if result.damaged:
        places = ", ".join(map(str, result.damaged))
        raise OutboxError(
            f"{len(result.damaged)} damaged on this disk, not sent and not deleted: {places}.",
            fix="Push the adapter again from the folder of its training run.",
        )
    if not result.remaining:
        return 0
    error = next((entry.error for entry in result.remaining if entry.error), None)
    why = f" The first: {error}" if error else ""
    elsewhere = sorted({entry.endpoint for entry in result.remaining if entry.endpoint}) if result.elsewhere else []
    if elsewhere and result.elsewhere == len(result.remaining):
        raise OutboxError(
            f"{count_pushes(result.elsewhere)} for another Hub ({', '.join(elsewhere)}); a token goes only to its own.",
            fix=f"Type: {flush_command(outbox, elsewhere[0])}",
        )
    raise OutboxError(f"{count_pushes(len(result.remaining))} still in {outbox.root}.{why}", fix="Then flush again.")


def _drop(outbox: Outbox, name: str, repo: str | None, *, ask: bool) -> int:
    queue, entry = outbox.find(name, repo_id=repo)
    print(f"{entry.name}: {entry.message or entry.damage}, {_size(entry.size)}, to {queue.repo_id}")
    if ask:
        if not sys.stdin.isatty():
            raise OutboxError("Nobody is there to ask whether to drop it.", fix=f"Add --yes to drop {entry.name}.")
        if input("It will not be sent, and is moved aside. Type yes: ").strip().lower() != "yes":
            print("Nothing was changed.")
            return 0
    from hfplug.hub.outbox_queue import BusyError

    try:
        with queue.delivering():
            if not entry.folder.is_dir():
                raise OutboxError(f"{entry.name} has been delivered in the meantime.")
            place = queue.put_aside(entry, "Dropped by hand.", outcome="dropped")
    except BusyError:
        raise OutboxError(f"{queue.repo_id} is being delivered just now.", fix="Try again in a moment.") from None
    print(f"Moved to {place}")
    return 0


def _size(size: int) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.3g} GB"


def _age(entry: Entry) -> str:
    try:
        created = datetime.datetime.fromisoformat(entry.created)
    except ValueError:
        return "?"
    seconds = (datetime.datetime.now(datetime.timezone.utc) - created).total_seconds()
    for unit, length in (("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
