"""One repo on disk: contents, commits, and one small file that says where the branches are.

    state.json          visibility, branches, tags, discussions; replaced as a whole, which is what a commit is
    commits/OID.json    a commit (see commit.py); on the disk before state.json names it
    objects/…           contents (see store.py); on the disk before a commit names them

So a kill at any moment leaves the old head or the new one, and at worst contents that nothing names.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hfplug.adapters import atomic
from hfplug.hub.server.commit import OID, SHORT_OID, Commit, File, name_of
from hfplug.hub.server.routing import Refusal
from hfplug.hub.server.store import ObjectStore, make_folder

FORMAT = 1
_STATE = {
    "type": str, "id": str, "visibility": str, "granted": list, "created_at": str, "branches": dict, "tags": dict,
    "discussions": list,
}  # fmt: skip
_LARGE = (
    "7z", "arrow", "bin", "bz2", "ckpt", "ftz", "gguf", "gz", "h5", "joblib", "mlmodel", "model", "msgpack", "npy",
    "npz", "onnx", "ot", "parquet", "pb", "pickle", "pkl", "pt", "pth", "rar", "safetensors", "tar", "tflite", "tgz",
    "wasm", "xz", "zip", "zst",
)  # fmt: skip
LARGE_SUFFIXES = tuple(f".{suffix}" for suffix in _LARGE)
GITATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in _LARGE).encode()


class Repo:
    """One repo. There is one object for each, so its lock serialises whoever changes it.

    Args:
        folder: Its folder, which exists and holds ``state.json``.

    Raises:
        ValueError: ``state.json`` is damaged, or of another version.

    Attributes:
        objects: Its contents.
        state: As in ``state.json``. Read it freely; change it inside ``changing()`` only.
        gone: Whether it was deleted or moved, so that this object stands for nothing; set under its lock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = ObjectStore(folder)
        self.lock = threading.RLock()
        self.gone = False
        self.state = _read_state(folder / "state.json")
        self.commit = functools.lru_cache(maxsize=256)(self._read_commit)

    @classmethod
    def create(cls, folder: Path, *, type: str, id: str, author: str, visibility: str, **more: Any) -> Repo:
        """Make a repo with a first commit, as the Hub does: it holds ``.gitattributes`` alone."""
        make_folder(folder / "commits")
        store = ObjectStore(folder)
        store.put(GITATTRIBUTES)
        files = {".gitattributes": File.regular(GITATTRIBUTES)}
        oid = write_commit(folder, Commit((), author, now(), "initial commit", "", files))
        state = {
            "format": FORMAT, "type": type, "id": id, "visibility": visibility, "gated": False, "granted": [],
            "created_at": now(), "branches": {"main": oid}, "tags": {}, "discussions": [], **more,
        }  # fmt: skip
        # The last file that is written: a folder without it is no repo, and is swept.
        atomic.write_json(folder / "state.json", state)
        return cls(folder)

    @property
    def id(self) -> str:
        """``owner/name``, spelt as when it was created."""
        return self.state["id"]

    @property
    def type(self) -> str:
        """``"model"``, ``"dataset"`` or ``"space"``."""
        return self.state["type"]

    @property
    def owner(self) -> str:
        """The user whose repo it is."""
        return self.id.partition("/")[0]

    @property
    def is_private(self) -> bool:
        """Whether only the owner may know of it."""
        return self.state["visibility"] != "public"

    @contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """A copy of the state to change, alone; it becomes the state, on the disk first, if the block ends well."""
        with self.lock:
            if self.gone:
                raise gone()
            state = copy.deepcopy(self.state)
            yield state
            atomic.write_json(self.folder / "state.json", state)
            self.state = state

    def resolve(self, revision: str) -> str:
        """The name of the commit that a branch, a tag, ``refs/…`` or a commit's name (7 digits will do) means.

        Raises:
            Refusal: There is none (404, RevisionNotFound).
        """
        state = self.state
        kind, _, name = revision.removeprefix("refs/").partition("/") if revision.startswith("refs/") else ("", "", "")
        if kind == "pr":
            found = (pull_request(state, name) or {}).get("head")
        elif kind in ("heads", "tags"):
            found = state["branches"].get(name) if kind == "heads" else state["tags"].get(name, {}).get("commit")
        else:
            found = state["branches"].get(revision) or state["tags"].get(revision, {}).get("commit")
        if found is None and SHORT_OID.fullmatch(revision):
            pattern = f"{revision}.json" if len(revision) == 40 else f"{revision}*.json"
            names = [path.stem for path in (self.folder / "commits").glob(pattern)]
            found = names[0] if len(names) == 1 else None
        if found is None:
            raise Refusal(404, f"Invalid rev id: {revision[:100]}", code="RevisionNotFound")
        return found

    def at(self, revision: str) -> tuple[str, Commit]:
        """The name and the commit of a revision; Refusal as in ``resolve``."""
        oid = self.resolve(revision)
        return oid, self.commit(oid)

    def _read_commit(self, oid: str) -> Commit:
        return Commit.from_bytes((self.folder / "commits" / f"{oid}.json").read_bytes())

    def history(self, oid: str) -> Iterator[tuple[str, Commit]]:
        """A commit and its first parents, newest first."""
        at: str | None = oid
        while at is not None:
            commit = self.commit(at)
            yield at, commit
            at = commit.parents[0] if commit.parents else None

    def add_commit(self, commit: Commit) -> str:
        """Write a commit, whose contents are in the store; returns its name. No branch moves yet."""
        return write_commit(self.folder, commit)


def _read_state(path: Path) -> dict[str, Any]:
    state = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(state, dict):
        raise ValueError("it is no JSON object")
    if state.get("format") != FORMAT:
        raise ValueError(f"it was written by another version of hfplug (format {state.get('format')})")
    for key, kind in _STATE.items():
        if not isinstance(state.get(key), kind):
            raise ValueError(f"{key} is missing or of another kind")
    if "/" not in state["id"] or not OID.fullmatch(str(state["branches"].get("main"))):
        raise ValueError("it names no owner, or no commit of its branch main")
    return state


def write_commit(folder: Path, commit: Commit) -> str:
    data = commit.to_bytes()
    oid = name_of(data)
    atomic.write_bytes(folder / "commits" / f"{oid}.json", data)
    return oid


def gone() -> Refusal:
    """What is said to whoever is still busy with a repo that is no longer there."""
    return Refusal(404, "this repo has just been deleted or moved", code="RepoNotFound")


def pull_request(state: Mapping[str, Any], number: str | int) -> dict[str, Any] | None:
    """The pull request of this number, or None."""
    if isinstance(number, str):
        if not re.fullmatch(r"[1-9][0-9]{0,8}", number):
            return None
        number = int(number)
    for discussion in state["discussions"]:
        if discussion["num"] == number and discussion["head"] is not None:
            return discussion
    return None


def now() -> str:
    """The time as the Hub writes it: ISO 8601 in UTC, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
