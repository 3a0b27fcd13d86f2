"""Votes that go to a dataset repo on a Hub: first to the disk, then in batches of one commit each.

    FOLDER/waiting.jsonl        votes that are in no batch yet
    FOLDER/outgoing/NAME.jsonl  a batch; it becomes ``data/NAME.jsonl`` in the repo, and the name never changes
    FOLDER/delivered/NAME.jsonl a batch that the Hub has confirmed; kept for the counts
    FOLDER/received/NAME.jsonl  batches of other copies of this Space, read at the start for the counts

A batch is sent under the same name until the Hub confirms it, so that one whose confirmation was lost arrives once all
the same, and two copies of a Space never write to the same file. If the Hub is down, batches wait, and the waiting gets
longer; nothing is thrown away, and no vote waits for a Hub.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import threading
import weakref
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfplug.errors import HubError, SpaceError
from hfplug.hub.client import HubClient, connect, translated
from hfplug.hub.retry import wait_seconds
from hfplug.space.config import PREFIX, SpaceConfig
from hfplug.space.votes import Vote, VoteFile, VoteSummary, append_line, lock_of, read_votes, summarize, vote_line

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

logger = logging.getLogger(__name__)

EVERY_VOTES = 20
EVERY_SECONDS = 300.0
TIMEOUT_SECONDS = 15.0
_LONGEST_WAIT_SECONDS = 3600.0
_MOST_BATCHES = 20  # in one commit
_MOST_RECEIVED = 500  # of others, the newest
_CARD = """\
---
configs:
- config_name: default
  data_files: data/*.jsonl
tags:
- hfplug
---

# Votes

Votes of a comparison Space. One line of JSON a vote: the columns as they were `shown`, the `choice` among them (or
`tie`, or `neither`), the `example` and the `decoding` settings. A vote whose `id` comes twice counts once.
"""


def open_votes(config: SpaceConfig) -> VoteFile | BallotBox | None:
    """Where a Space's votes go; None if it takes none.

    Args:
        config: ``votes``, ``votes_text``, ``votes_folder`` and ``endpoint`` say where and what.
    """
    if config.votes == "off":
        return None
    if config.votes.endswith(".jsonl"):
        return VoteFile(config.path(config.votes), keep_text=config.votes_text)
    folder = config.path(config.votes_folder)
    box = BallotBox(config.votes, folder, keep_text=config.votes_text, endpoint=config.endpoint)
    box.start()
    return box


class BallotBox:
    """Votes on their way to a dataset repo.

    Args:
        repo_id: ``owner/name`` of the dataset. A private one is made if it is not there.
        folder: Where votes wait. On a Space only ``/data`` outlives a restart.
        keep_text: As for ``VoteFile``.
        endpoint: Address of the Hub; that of ``HF_ENDPOINT`` if not given.
        every_votes, every_seconds: A batch is sent after so many votes, or so long after the first, whichever is first.
    """

    def __init__(
        self,
        repo_id: str,
        folder: str | os.PathLike[str],
        *,
        keep_text: str = "off",
        endpoint: str | None = None,
        every_votes: int = EVERY_VOTES,
        every_seconds: float = EVERY_SECONDS,
    ) -> None:
        self.repo_id, self.folder, self.keep_text = repo_id, Path(folder), keep_text
        self.endpoint, self.every_votes, self.every_seconds = endpoint, every_votes, every_seconds
        self._wake = threading.Event()
        self._closing = False
        self._fresh = 0
        self._failures = 0
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None
        # Imported now: at the end of the process, when the last votes are sent, much can no longer be imported.
        from huggingface_hub import CommitOperationAdd, HfApi  # noqa: F401

        # A weak reference: a box that nobody holds any more is not kept for the end of the process.
        atexit.register(_close_at_exit, weakref.ref(self))

    # ------------------------------------------------------------------------------------------- for callers

    def add(self, vote: Vote) -> None:
        """Take a vote; it is on the disk when this returns, and no Hub is waited for.

        Raises:
            SpaceError: The folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with lock_of(self._waiting):
                append_line(self._waiting, vote_line(vote, keep_text=self.keep_text))
        except (OSError, TimeoutError) as error:
            logger.warning("A vote could not be written to %s: %s", self.folder, error)
            raise SpaceError("The vote could not be kept: its folder cannot be written to.") from None
        self._fresh += 1
        self.start()
        if self._fresh >= self.every_votes:
            self._wake.set()

    def start(self) -> None:
        """Start delivering in a thread, once; also what an earlier process left. ``add`` does so itself."""
        with self._start:
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._work, name="hfplug-votes", daemon=True)
                self._thread.start()

    def votes(self) -> Iterator[Vote]:
        """All votes that are known here: waiting, sent, and those of others as far as they were read."""
        for file in [*self._files("received"), *self._files("delivered"), *self._files("outgoing"), self._waiting]:
            yield from read_votes(file)

    def summary(self) -> VoteSummary:
        """What they say."""
        return summarize(self.votes())

    def deliver(self) -> int:
        """Send everything that waits, now.

        Returns:
            How many batches the Hub has confirmed.

        Raises:
            HubError: It has not; everything is still there.
        """
        self._seal()
        batches = self._files("outgoing")
        if not batches:
            return 0
        client = connect(self.endpoint, self._token(), timeout=TIMEOUT_SECONDS)
        done = 0
        for start in range(0, len(batches), _MOST_BATCHES):
            part = batches[start : start + _MOST_BATCHES]
            _send(client, self.repo_id, part)
            for file in part:
                _move(file, self.folder / "delivered" / file.name)
            done += len(part)
        return done

    def receive(self) -> None:
        """Read the votes that the repo holds of others, for the counts.

        Raises:
            HubError: They cannot be read.
        """
        client = connect(self.endpoint, self._token(), timeout=TIMEOUT_SECONDS)
        with translated("read the votes in", self.repo_id, client=client):
            info = client.call(client.api.dataset_info, self.repo_id)
            names = sorted(item.rfilename for item in info.siblings or () if _is_batch(item.rfilename))
            ours = {file.name for part in ("received", "delivered", "outgoing") for file in self._files(part)}
            for name in names[-_MOST_RECEIVED:]:
                short = name.rpartition("/")[2]
                if short in ours:
                    continue
                kind: dict[str, Any] = {"repo_type": "dataset", "revision": info.sha}
                path = client.call(client.api.hf_hub_download, self.repo_id, name, **kind)
                target = self.folder / "received" / short
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(Path(path).read_bytes())

    def close(self, *, seconds: float = 10.0) -> None:
        """Send what waits, for so long at most; what could not be sent is on the disk for the next start."""
        if self._closing:
            return
        self._closing = True
        self._wake.set()
        thread = self._thread
        if thread is not None:
            thread.join(seconds)
        elif self._waiting.exists() or self._files("outgoing"):
            self._try()

    # --------------------------------------------------------------------------------------------- inside

    @property
    def _waiting(self) -> Path:
        return self.folder / "waiting.jsonl"

    def _files(self, part: str) -> list[Path]:
        return sorted((self.folder / part).glob("*.jsonl"))

    @staticmethod
    def _token() -> str | None:
        return os.environ.get(f"{PREFIX}VOTES_TOKEN") or None

    def _seal(self) -> None:
        """Turn what waits into a batch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock_of(self._waiting):
            if self._waiting.is_file() and self._waiting.stat().st_size:
                moment = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S")
                _move(self._waiting, self.folder / "outgoing" / f"votes-{moment}-{secrets.token_hex(4)}.jsonl")
        self._fresh = 0

    def _work(self) -> None:
        """Deliver, wait, deliver: until closed, and then once more."""
        wait = 0.0 if self._files("outgoing") or self._waiting.exists() else self.every_seconds
        if not self._closing:
            self._receive_quietly()
        while True:
            # A Hub that is down is not asked again for every twenty votes: then only the time counts.
            if self._failures:
                self._sleep(wait)
            else:
                self._wake.wait(wait)
            self._wake.clear()
            wait = self._try()
            if self._closing:
                return

    def _sleep(self, seconds: float) -> None:
        end = threading.Event()
        step = min(seconds, 0.5)
        while seconds > 0 and not self._closing:
            end.wait(step)
            seconds -= step

    def _receive_quietly(self) -> None:
        try:
            self.receive()
        except (HubError, OSError, RuntimeError) as error:
            logger.info("The votes of others are not counted: %s", error)

    def _try(self) -> float:
        """Deliver, and say how long to wait until the next time."""
        try:
            self.deliver()
            self._failures = 0
            return self.every_seconds
        # RuntimeError: no thread can be started any more, at the end of the process.
        except (HubError, OSError, TimeoutError, RuntimeError) as error:
            self._failures += 1
            asked = getattr(error, "retry_after", None)
            wait = wait_seconds(
                self._failures,
                retry_after=asked,
                first_wait=self.every_seconds / 10,
                longest_wait=_LONGEST_WAIT_SECONDS,
            )
            logger.warning("Votes wait in %s, for %s Trying again in %.0f s.", self.folder, error, wait)
            return wait


def _send(client: HubClient, repo_id: str, batches: list[Path]) -> None:
    """One commit with these batches. Sent again, it changes nothing."""
    from huggingface_hub.errors import RepositoryNotFoundError

    kind: dict[str, Any] = {"repo_type": "dataset"}
    adds = [_add(f"data/{file.name}", file.read_bytes()) for file in batches]
    with translated("deliver votes to", repo_id, client=client):
        try:
            info = client.call(client.api.dataset_info, repo_id)
        except RepositoryNotFoundError as error:
            if type(error) is not RepositoryNotFoundError:
                raise
            client.call(client.api.create_repo, repo_id, private=True, exist_ok=True, **kind)
            info = client.call(client.api.dataset_info, repo_id)
        there = {item.rfilename for item in info.siblings or ()}
        adds = [add for add in adds if add.path_in_repo not in there]
        if not adds:
            return  # an earlier commit whose answer was lost
        if "README.md" not in there:
            adds.append(_add("README.md", _CARD.encode()))
        client.call(client.api.create_commit, repo_id, adds, commit_message="Votes", **kind)


def _add(name: str, content: bytes) -> CommitOperationAdd:
    from huggingface_hub import CommitOperationAdd

    return CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(source, target)
    except FileNotFoundError:  # another process on the same folder has delivered it meanwhile
        if not target.is_file():
            raise


def _is_batch(name: str) -> bool:
    short = name.rpartition("/")[2]
    return name == f"data/{short}" and short.startswith("votes-") and short.endswith(".jsonl") and ".." not in short


def _close_at_exit(reference: weakref.ref[BallotBox]) -> None:
    box = reference()
    if box is not None:
        box.close()
