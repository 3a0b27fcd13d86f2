"""What the Hub says about a repo at a commit, in the words that the client reads."""

from __future__ import annotations

from typing import Any

from hfplug.hub.server.cards import card_of, config_of, library_of, tags_of
from hfplug.hub.server.commit import Commit, File, folder_oid
from hfplug.hub.server.repo import Repo

# What a listing shows of each repo unless more is asked for.
BRIEF = ("_id", "id", "modelId", "private", "gated", "tags", "pipeline_tag", "library_name", "createdAt",
         "lastModified", "likes", "downloads", "sdk")  # fmt: skip
FULL = (*BRIEF, "author", "sha", "disabled", "siblings")


def describe(repo: Repo, oid: str, commit: Commit, *, blobs: bool = False) -> dict[str, Any]:
    """Everything about a repo at a commit.

    Args:
        blobs: With size and hash of each file.
    """
    card = card_of(repo, commit)
    shown: dict[str, Any] = {
        "_id": oid[:24],
        "id": repo.id,
        "author": repo.owner,
        "sha": oid,
        "createdAt": repo.state["created_at"],
        "lastModified": commit.date,
        "private": repo.is_private,
        "gated": repo.state["gated"],
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags_of(repo, commit),
        "cardData": card,
        "siblings": [_sibling(path, file, blobs) for path, file in sorted(commit.files.items())],
        "usedStorage": sum({file.sha256: file.size for file in commit.files.values()}.values()),
    }
    if repo.type == "model":
        shown |= {"modelId": repo.id, "library_name": library_of(repo, commit), "config": config_of(repo, commit)}
        shown |= {"pipeline_tag": card.get("pipeline_tag"), "model-index": card.get("model-index"), "spaces": []}
    if repo.type == "space":
        shown["sdk"] = repo.state.get("sdk")
    return {key: value for key, value in shown.items() if value is not None}


def _sibling(path: str, file: File, blobs: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"rfilename": path}
    if blobs:
        shown |= {"size": file.size, "blobId": file.blob}
        if file.kind == "lfs":
            shown["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return shown


def describe_file(repo: Repo, path: str, file: File) -> dict[str, Any]:
    """A file as ``tree`` and ``paths-info`` show it."""
    shown: dict[str, Any] = {"type": "file", "path": path, "oid": file.blob, "size": file.size}
    if file.kind == "lfs":
        shown["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
        if xet_hash := repo.objects.xet_hash(file.sha256):
            shown["xetHash"] = xet_hash
    return shown


def describe_folder(commit: Commit, path: str) -> dict[str, Any]:
    """A folder as ``tree`` and ``paths-info`` show it."""
    return {"type": "directory", "path": path, "oid": folder_oid(commit.files, f"{path}/"), "size": 0}
