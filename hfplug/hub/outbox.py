"""The outbox: pushes on this disk that the Hub has not confirmed yet.

OUTBOX/                            $HFPLUG_OUTBOX, else $XDG_STATE_HOME/hfplug/outbox, else
  owner--name--1a2b3c4d5e/         ~/.local/state/hfplug/outbox (not a cache folder: caches get deleted)
    queue.json                     endpoint, repo, revision: one queue each
    000012/                        one entry: it appears by one rename, whole and flushed to the disk
      entry.json                   what to push where, sums of the files, attempts, the last error
      files/                       the bytes to be pushed
    aside/                         entries that were damaged, or that a person dropped; never deleted
    delivered.jsonl                what became of each entry: commit, time
    put.lock  deliver.lock         held by the kernel for a live process; they die with it
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from hfplug.errors import OutboxError, did_you_mean
from hfplug.hub.outbox_entry import Entry
from hfplug.hub.outbox_queue import Queue

MAIN = "main"


class Outbox:
    """A folder of queues, one for each endpoint, repo and revision.

    Args:
        root: The folder; None for the environment's. It is made when the first entry is put in.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(root) if root is not None else default_root()

    def queue(self, repo_id: str, *, endpoint: str, revision: str | None = None) -> Queue:
        """The queue for one branch of a repo. Nothing is written before something is put into it.

        Args:
            repo_id: ``"owner/name"``.
            endpoint: Address of the Hub, e.g. ``"https://huggingface.co"``.
            revision: The branch; None for ``main``.

        Raises:
            OutboxError: The endpoint holds a name or a password, which would then lie on the disk.
        """
        endpoint = endpoint.rstrip("/")
        if "@" in urllib.parse.urlsplit(endpoint).netloc:
            raise OutboxError(
                "The address of the Hub holds a name or a password, which would be written into the outbox.",
                fix="Set HF_ENDPOINT without it, and HF_TOKEN to the token.",
            )
        revision = revision or MAIN
        identity = hashlib.sha256("\0".join((endpoint, repo_id, revision)).encode()).hexdigest()[:10]
        name = re.sub(r"[^\w.-]+", "--", repo_id)[:80]
        return Queue(self.root / f"{name}--{identity}", endpoint=endpoint, repo_id=repo_id, revision=revision)

    def queues(self) -> list[Queue]:
        """Every queue that was ever put into, in the order of their names."""
        return list(self._queues())

    def find(self, name: str, *, repo_id: str | None = None) -> tuple[Queue, Entry]:
        """The waiting entry called ``QUEUE/NUMBER``, as the list shows it, or ``NUMBER`` where that is enough.

        Args:
            name: What it is called.
            repo_id: Only among what goes to this repo.

        Raises:
            OutboxError: There is none, or the number alone fits several.
        """
        queues = [queue for queue in self._queues() if repo_id in (None, queue.repo_id)]
        waiting = {entry.name: (queue, entry) for queue in queues for entry in queue.entries()}
        found = [key for key in waiting if key == name or key.rpartition("/")[2] == name]
        if len(found) == 1:
            return waiting[found[0]]
        if found:
            raise OutboxError(f"{name} is in {len(found)} queues.", fix=f"Type one of: {', '.join(found)}")
        fix = did_you_mean(name, waiting) or "Type: hfplug outbox"
        where = f"for {repo_id} in {self.root}" if repo_id else f"in {self.root}"
        raise OutboxError(f"Nothing called {name!r} waits {where}.", fix=fix)

    def _queues(self) -> Iterator[Queue]:
        try:
            folders = sorted(self.root.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise unreadable(self.root, error) from error
        for folder in folders:
            try:
                values = json.loads((folder / "queue.json").read_text(encoding="utf-8"))
                yield Queue(folder, **{item: str(values[item]) for item in ("endpoint", "repo_id", "revision")})
            except (OSError, ValueError, KeyError, TypeError):
                queue = _queue_of_its_entries(folder)
                if queue is not None:
                    yield queue


def _queue_of_its_entries(folder: Path) -> Queue | None:
    """A queue whose queue.json is gone or unreadable, named again by the first of its entries that is whole."""
    if not folder.is_dir():
        return None
    unnamed = Queue(folder, endpoint="", repo_id="", revision="")
    for entry in unnamed.entries():
        if not entry.damage:
            return dataclasses.replace(unnamed, endpoint=entry.endpoint, repo_id=entry.repo_id, revision=entry.revision)
    return None


def default_root() -> Path:
    """The folder of the outbox that the environment names."""
    if chosen := os.environ.get("HFPLUG_OUTBOX"):
        return Path(chosen).expanduser()
    state = os.environ.get("XDG_STATE_HOME", "")
    # A relative path there is to be ignored: https://specifications.freedesktop.org/basedir-spec
    home = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return home / "hfplug" / "outbox"


def unreadable(path: Path, error: OSError) -> OutboxError:
    """The error of an outbox that cannot be read or written."""
    return OutboxError(
        f"The outbox {path} cannot be used: {error.strerror or error}.",
        fix="Make room or set the permissions there, or set HFPLUG_OUTBOX to another folder.",
    )
