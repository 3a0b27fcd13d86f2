"""A repo as a folder, to be carried to where no network goes: out of one Hub, into another.

    repo.json            what it is, and the sha256 of every other file
    state.json           branches, tags, pull requests
    commits/OID.json     the history
    objects/ab/cdef…     the contents

Both ways, every content is hashed again, every commit's name is computed again, and every commit, content and
branch that is named must be there. Whose repo it is, and who may read it, is decided where it arrives.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfplug.adapters import atomic
from hfplug.errors import HubConflictError, HubNotFoundError, HubRejectedError
from hfplug.hub.server.commit import OID, Commit, File, git_blob_hash, name_of
from hfplug.hub.server.names import TYPES, check_path, check_ref, check_repo_name
from hfplug.hub.server.repo import FORMAT
from hfplug.hub.server.root import check_mark
from hfplug.hub.server.routing import Refusal
from hfplug.hub.server.shelf import Shelf, sole_writer
from hfplug.hub.server.store import SHA256, ObjectStore, make_folder

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Carried:
    """What was exported or imported.

    Attributes:
        id: The repo. type: Its type. folder: Where it was written to or read from.
        head: The commit of its branch ``main``. commits, contents: How many. bytes: Of all contents.
    """

    id: str
    type: str
    folder: Path
    head: str
    commits: int
    contents: int
    bytes: int


def export_repo(root: Path, id: str, folder: Path, *, type: str = "model") -> Carried:
    """Write a repo of the Hub in ``root`` into a new folder, with its history. The Hub may run meanwhile.

    Args:
        root: The Hub's folder. id: ``owner/name``. folder: Must not exist, or be empty. type: Of the repo.

    Raises:
        HubNotFoundError: There is no such repo, or no Hub in ``root``.
        HubConflictError: ``folder`` holds something.
        HubRejectedError: The repo is damaged; nothing is exported.
    """
    check_mark(root)
    repo = Shelf(root).find(type, id)
    if repo is None:
        raise HubNotFoundError(f"the Hub in {root} has no {type} {id!r}.", fix="Pass --type, or another owner/name.")
    if folder.exists() and any(folder.iterdir()):
        raise HubConflictError(f"{folder} is not empty.", fix="Pass a new folder.")
    state = {**repo.state, "gated": False, "granted": []}  # who was let in here is nobody's business there
    return _carry(repo.folder, folder, state, shown=folder)


def import_repo(root: Path, folder: Path, id: str, *, visibility: str = "private", type: str | None = None) -> Carried:
    """Make a repo of a folder that ``export_repo`` wrote. The Hub in ``root`` must not be running.

    Args:
        root: The Hub's folder. folder: The exported repo. id: ``owner/name`` that it gets here.
        visibility: ``"private"`` or ``"public"``. type: If it has to be of this type.

    Raises:
        HubRejectedError: The folder is no exported repo, is incomplete, or was changed. Nothing is imported.
        HubConflictError: There is such a repo, or the Hub is running.
    """
    owner, _, name = id.partition("/")
    state = _read_state(folder)
    if type is not None and state["type"] != type:
        raise HubRejectedError(f"{folder} holds a {state['type']}, not a {type}.", fix="Leave out --type.")
    try:
        check_repo_name(owner)
        check_repo_name(name)
    except Refusal as refusal:
        raise HubRejectedError(f"{refusal.message}.", fix="Pass owner/name.") from None
    _check_manifest(folder)
    with sole_writer(root):
        shelf = Shelf(root)
        shelf.tidy()
        if shelf.find(state["type"], id) is not None:
            raise HubConflictError(f"there is a {state['type']} {id!r} already.", fix="Pass another owner/name.")
        draft = shelf.draft()
        state |= {"id": id, "visibility": visibility, "gated": False, "granted": []}
        try:
            carried = _carry(folder, draft, state, shown=folder)
            (draft / "repo.json").unlink()
            shelf.adopt(draft)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _damaged(folder, f"a value is of the wrong kind ({error})") from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return carried


def _carry(source: Path, target: Path, state: dict[str, Any], *, shown: Path) -> Carried:
    """Copy what a state needs, and nothing else, from one repo's folder to another, checking all of it."""
    make_folder(target / "commits")
    objects, there = ObjectStore(source), ObjectStore(target)
    sums: dict[str, str] = {}
    contents: dict[str, int] = {}
    blobs: dict[str, str] = {}
    commits = 0
    for oid, data, commit in _reachable(source, state):
        atomic.write_bytes(target / "commits" / f"{oid}.json", data)
        sums[f"commits/{oid}.json"] = hashlib.sha256(data).hexdigest()
        commits += 1
        for path, file in commit.files.items():
            if file.sha256 not in contents:
                contents[file.sha256] = file.size
                blobs[file.sha256] = _copy_content(objects, there, file.sha256, file.size, path)
                sums[f"objects/{file.sha256[:2]}/{file.sha256[2:]}"] = file.sha256
            if contents[file.sha256] != file.size:
                raise _damaged(source, f"commit {oid} gives another size for {path}")
            large = File.large(file.sha256, file.size).blob
            if file.blob != (large if file.kind == "lfs" else blobs[file.sha256]):
                raise _damaged(source, f"commit {oid} gives another oid for {path}")
    there.sweep()
    text = json.dumps(state, indent=2, ensure_ascii=False) + "\n"
    sums["state.json"] = hashlib.sha256(text.encode()).hexdigest()
    atomic.write_text(target / "state.json", text)
    about = {"format": FORMAT, "type": state["type"], "id": state["id"], "head": state["branches"]["main"]}
    atomic.write_json(target / "repo.json", {**about, "sha256": dict(sorted(sums.items()))})
    return Carried(
        id=state["id"], type=state["type"], folder=shown, head=state["branches"]["main"], commits=commits,
        contents=len(contents), bytes=sum(contents.values()),
    )  # fmt: skip


def _reachable(folder: Path, state: dict[str, Any]) -> Iterator[tuple[str, bytes, Commit]]:
    """Every commit that the branches, tags and pull requests of a state lead to, checked."""
    waiting = [*state["branches"].values(), *(tag["commit"] for tag in state["tags"].values())]
    for one in state["discussions"]:
        waiting += [oid for oid in (one["start"], one["head"], one["merge_commit"]) if oid]
        waiting += [event["oid"] for event in one["events"] if event["type"] == "commit"]
    seen: set[str] = set()
    while waiting:
        oid = waiting.pop()
        if oid in seen:
            continue
        seen.add(oid)
        if not isinstance(oid, str) or not OID.fullmatch(oid):
            raise _damaged(folder, f"{str(oid)[:60]!r} is no name of a commit")
        try:
            data = (folder / "commits" / f"{oid}.json").read_bytes()
            commit = Commit.from_bytes(data)
        except (OSError, ValueError) as error:
            raise _damaged(folder, f"commit {oid} cannot be read ({error})") from None
        if name_of(data) != oid:
            raise _damaged(folder, f"commit {oid} was changed")
        try:
            for path in commit.files:
                check_path(path)
        except Refusal as refusal:
            raise _damaged(folder, refusal.message) from None
        waiting += commit.parents
        yield oid, data, commit


def _copy_content(source: ObjectStore, target: ObjectStore, sha256: str, size: int, path: str) -> str:
    """Copy a content, checking it; returns git's name of it."""
    if not SHA256.fullmatch(sha256):
        raise _damaged(source.folder, f"{path} has no sha256")
    blob = git_blob_hash(size)
    try:
        with source.open(sha256) as file, target.writer() as writer:
            while block := file.read(_BLOCK):
                writer.write(block)
                blob.update(block)
            writer.keep(sha256, size)
    except FileNotFoundError:
        raise _damaged(source.folder, f"the content {sha256} of {path} is missing") from None
    except ValueError as error:
        raise _damaged(source.folder, f"the content of {path} was changed: {error}") from None
    return blob.hexdigest()


def _read_state(folder: Path) -> dict[str, Any]:
    """The state of an exported repo, as far as its form can be checked without its commits."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        known = state["format"] == FORMAT and state["type"] in TYPES and "main" in state["branches"]
        for name in [*state["branches"], *state["tags"]]:
            check_ref(name)
        known = known and all(isinstance(one["num"], int) for one in state["discussions"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HubRejectedError(
            f"{folder} is no exported repo ({type(error).__name__}: {error}).", fix="Export it with: hfplug hub export"
        ) from None
    except Refusal as refusal:
        raise _damaged(folder, refusal.message) from None
    if not known:
        raise _damaged(folder, "it is of another format")
    return state


def _check_manifest(folder: Path) -> None:
    try:
        sums = json.loads((folder / "repo.json").read_text(encoding="utf-8"))["sha256"]
        expected = sums["state.json"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"repo.json cannot be read ({error})") from None
    # The contents and commits carry their own names; the state is checked against the list.
    if hashlib.sha256((folder / "state.json").read_bytes()).hexdigest() != expected:
        raise _damaged(folder, "state.json was changed")


def _damaged(folder: Path, what: str) -> HubRejectedError:
    return HubRejectedError(f"the repo in {folder} is damaged: {what}.", fix="Export it again and copy all of it.")
