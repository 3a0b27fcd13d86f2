"""What a deployment would change in a Space, and how a file of ours is told from one that somebody changed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from hfplug.errors import HubConflictError, SpaceError
from hfplug.hub.client import HubClient
from hfplug.hub.remote import Head, RemoteFile, git_blob
from hfplug.space.config import CONFIG_FILE
from hfplug.space.space_card import CARD, merge_space_card
from hfplug.space.space_files import SpaceFiles

MANIFEST = ".hfplug-space.json"
KIND: dict[str, Any] = {"repo_type": "space"}
Edited = Literal["refuse", "keep", "replace"]
_MANIFEST_VERSION = 1
_SHOWN_NAMES = 5


@dataclass(frozen=True)
class Change:
    """What one commit has to do to a Space.

    Attributes:
        repo_id: The Space.
        repo: ``"there"``, ``"new"`` (it would be made) or ``"unknown"`` (it cannot be looked at).
        add: Path to content. delete: Paths that were ours and are no more. same: Paths that are as they should be.
        kept: Paths that somebody changed and that stay.
        notes: What whoever deploys should know.
    """

    repo_id: str
    repo: Literal["there", "new", "unknown"]
    add: Mapping[str, bytes] = field(repr=False)
    delete: tuple[str, ...] = ()
    same: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    __hash__ = None  # type: ignore[assignment]  # it holds a mapping

    @property
    def empty(self) -> bool:
        """Whether the Space holds everything already."""
        return not self.add and not self.delete


def change_at(client: HubClient, repo_id: str, files: SpaceFiles, head: Head, edited: Edited) -> Change:
    """What has to be done at this head.

    Raises:
        SpaceError: Somebody changed a file of ours, and ``edited`` is ``"refuse"``.
    """
    known = _read_manifest(client, repo_id, head)
    add: dict[str, bytes] = {}
    same, theirs, notes = [], [], list(files.notes)
    ours = dict(files.files)
    for name, content in ours.items():
        there = head.files.get(name)
        if name == CARD:
            content, said = _merged(client, repo_id, head, content)
            notes += said
        if there is not None and _holds(there, content):
            same.append(name)
        elif there is None or name == CARD or _is_old(there, known.get(name)) or edited == "replace":
            add[name] = content
        else:
            theirs.append(name)
    if theirs and edited == "refuse":
        raise _refusal(repo_id, theirs, known)
    if theirs:
        notes.append(f"Left as somebody changed them: {_some(theirs)}.")
    gone = [name for name in known if name in head.files and name not in ours and name != MANIFEST]
    delete = tuple(name for name in gone if _is_old(head.files[name], known[name]))
    # Of a file that stays as somebody changed it, what was ours before is still what was ours.
    manifest = manifest_of(files) | {name: known[name] for name in theirs if name in known}
    content = manifest_bytes({name: value for name, value in manifest.items() if name not in theirs or name in known})
    there = head.files.get(MANIFEST)
    if there is None or not _holds(there, content):
        add[MANIFEST] = content
    return Change(repo_id, "there", add, delete, tuple(same), tuple(theirs), tuple(notes))


def _refusal(repo_id: str, theirs: list[str], known: Mapping[str, Any]) -> SpaceError:
    if not known:
        return SpaceError(
            f"There is a Space {repo_id} already, which hfplug did not make: it has other {_some(theirs)}.",
            fix="Deploy to another name, or pass --edited replace to turn it into this one.",
        )
    fix = "Pass --edited keep to deploy the rest, or --edited replace to undo that."
    if CONFIG_FILE in theirs:
        fix += f" With keep, the settings stay those of the {CONFIG_FILE} there, whatever the flags say."
    return SpaceError(f"Somebody changed {_some(theirs)} in the Space {repo_id} since it was deployed.", fix=fix)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more


def _merged(client: HubClient, repo_id: str, head: Head, card: bytes) -> tuple[bytes, tuple[str, ...]]:
    if CARD not in head.files:
        return card, ()
    existing = _download(client, repo_id, head, CARD).decode("utf-8", errors="replace")
    merged, notes = merge_space_card(existing, card.decode())
    return merged.encode(), notes


# ----------------------------------------------------------------------------------------------- manifest


def manifest_of(files: SpaceFiles) -> dict[str, dict[str, str]]:
    """Sums of the files that are ours alone; the README belongs to people too."""
    return {name: _sums(content) for name, content in sorted(files.files.items()) if name != CARD}


def _sums(content: bytes) -> dict[str, str]:
    # Of a small file the Hub says git's name, of a large one the SHA-256.
    return {"git": git_blob(content), "sha256": sha256(content).hexdigest()}


def manifest_bytes(files: Mapping[str, Any]) -> bytes:
    text = json.dumps({"version": _MANIFEST_VERSION, "files": dict(sorted(files.items()))}, indent=0)
    return (text + "\n").encode()


def _read_manifest(client: HubClient, repo_id: str, head: Head) -> dict[str, Mapping[str, str]]:
    if MANIFEST not in head.files:
        return {}
    try:
        found = json.loads(_download(client, repo_id, head, MANIFEST))["files"]
        return {str(name): dict(sums) for name, sums in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # somebody changed it: then everything counts as theirs


def _is_old(there: RemoteFile, sums: Mapping[str, str] | None) -> bool:
    """Whether a file is as an earlier deployment left it."""
    if sums is None:
        return False
    return there.sha256 == sums.get("sha256") if there.sha256 else there.blob == sums.get("git")


def _holds(there: RemoteFile, content: bytes) -> bool:
    return _is_old(there, _sums(content))


# ---------------------------------------------------------------------------------------------------- hub


def read_head(client: HubClient, repo_id: str) -> Head | None:
    """The Space as it is; None if there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = client.call(client.api.space_info, repo_id, files_metadata=True)
    except RepositoryNotFoundError as error:
        if type(error) is not RepositoryNotFoundError:
            raise  # gated: it is there
        return None
    found = {}
    for item in info.siblings or ():
        found[item.rfilename] = RemoteFile(item.size, item.blob_id, str(item.lfs.sha256) if item.lfs else None)
    return Head(str(info.sha), found, bool(info.private))


def require_head(client: HubClient, repo_id: str) -> Head:
    head = read_head(client, repo_id)
    if head is None:
        raise HubConflictError(f"The Space {repo_id} was made and is gone again.", fix="Deploy again.")
    return head


def _download(client: HubClient, repo_id: str, head: Head, name: str) -> bytes:
    # A cache of its own: the user's keeps old copies, and answers with one when the Hub does not.
    with tempfile.TemporaryDirectory(prefix="hfplug-space-") as cache:
        where: dict[str, Any] = {"revision": head.commit, "cache_dir": cache, **KIND}
        return Path(client.call(client.api.hf_hub_download, repo_id, name, **where)).read_bytes()
