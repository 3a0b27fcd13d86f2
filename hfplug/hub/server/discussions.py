"""Discussions and pull requests as they are kept in a repo's state, and how a pull request is merged."""

from __future__ import annotations

from typing import Any

from hfplug.hub.server.commit import File
from hfplug.hub.server.repo import Repo, now
from hfplug.hub.server.routing import Refusal


def open_discussion(
    state: dict[str, Any],
    *,
    title: str,
    description: str,
    author: str,
    base: str | None = None,
    start: str | None = None,
    head: str | None = None,
) -> dict[str, Any]:
    """Add a discussion to a state that is being changed.

    Args:
        base: The branch that a pull request is for. start: The commit that it starts from.
        head: Its newest commit; None for a discussion that is no pull request.

    Returns:
        The discussion, with its number.
    """
    discussion: dict[str, Any] = {
        "num": len(state["discussions"]) + 1, "title": title, "author": author, "created_at": now(),
        "status": "open", "base": base, "start": start, "head": head, "merge_commit": None, "events": [],
    }  # fmt: skip
    add_event(discussion, "comment", author, text=description)
    if head != start and head is not None:
        add_event(discussion, "commit", author, oid=head)
    state["discussions"].append(discussion)
    return discussion


def add_event(discussion: dict[str, Any], kind: str, author: str, **data: Any) -> None:
    """Note what somebody did."""
    discussion["events"].append({"type": kind, "author": author, "at": now(), **data})


def conflicts(repo: Repo, pull: dict[str, Any]) -> list[str]:
    """The files that both an open pull request and its branch have changed since it started, differently."""
    if pull["status"] == "merged":
        return []
    start, ours, theirs = _sides(repo, pull)
    return sorted(
        path
        for path in start.keys() | ours.keys() | theirs.keys()
        if ours.get(path) != theirs.get(path) and start.get(path) not in (ours.get(path), theirs.get(path))
    )


def merged_files(repo: Repo, pull: dict[str, Any]) -> dict[str, File]:
    """The files of its branch with what a pull request has changed; it must have no conflicts."""
    start, ours, theirs = _sides(repo, pull)
    merged = dict(ours)
    for path in start.keys() | theirs.keys():
        if theirs.get(path) == start.get(path):
            continue
        if path in theirs:
            merged[path] = theirs[path]
        else:
            merged.pop(path, None)
    return merged


def _sides(repo: Repo, pull: dict[str, Any]) -> tuple[dict[str, File], dict[str, File], dict[str, File]]:
    branch = repo.state["branches"].get(pull["base"])
    if branch is None:
        raise Refusal(400, f"the branch {pull['base']!r} of this pull request is gone")
    start, ours, theirs = (dict(repo.commit(oid).files) for oid in (pull["start"], branch, pull["head"]))
    return start, ours, theirs
