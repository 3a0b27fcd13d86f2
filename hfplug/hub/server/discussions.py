"""Discussions and pull requests as they are kept in a repo's state."""

from __future__ import annotations

from typing import Any

from hfplug.hub.server.repo import now


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
    discussion = {
        "num": len(state["discussions"]) + 1, "title": title, "author": author, "created_at": now(),
        "status": "open", "base": base, "start": start, "head": head, "merge_commit": None,
        "events": [{"type": "comment", "author": author, "at": now(), "text": description}],
    }  # fmt: skip
    state["discussions"].append(discussion)
    return discussion
