"""Calls that search: models, datasets and spaces by tag, author, words and base."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse, Response

from hfplug.hub.server.describe import BRIEF, FULL, describe
from hfplug.hub.server.hub import is_owner
from hfplug.hub.server.pages import page
from hfplug.hub.server.repo import Repo
from hfplug.hub.server.routing import Call, Refusal, Router

logger = logging.getLogger(__name__)

_SORTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "lastModified": lambda row: row["lastModified"],
    "createdAt": lambda row: row["createdAt"],
    "downloads": lambda row: row["downloads"],
    "likes": lambda row: row["likes"],
    "trendingScore": lambda row: row["lastModified"],
    "mainSize": lambda row: row["usedStorage"],
    "id": lambda row: row["id"].lower(),
}


def add_routes(router: Router) -> None:
    """Add the calls of this file."""
    router.add("GET", "/api/{types}", _list)


def _list(call: Call) -> Response:
    kind = call.names["types"].removesuffix("s")
    repos = [repo for repo in call.hub.shelf.all(kind) if not repo.is_private or is_owner(repo, call.user)]
    rows = [row for row in map(_row, repos) if row is not None and _matches(call, row)]
    sort = call.query("sort") or "lastModified"
    if sort not in _SORTS:
        raise Refusal(400, f"sort is one of {', '.join(_SORTS)}; {sort[:50]!r} came")
    # Newest or most first, as on the Hub; a listing by id goes forwards.
    rows.sort(key=_SORTS[sort], reverse=sort != "id" and call.query("direction") != "1")
    shown, headers = page(call, rows)
    keys = _keys(call)
    return JSONResponse([{key: row[key] for key in keys if key in row} for row in shown], headers=headers)


def _row(repo: Repo) -> dict[str, Any] | None:
    """What is known of a repo; None for a damaged one, or one that is being deleted: the others are listed."""
    try:
        oid, commit = repo.at("main")
        return describe(repo, oid, commit)
    except Exception as error:
        logger.warning("%s %s is left out of a listing: %s: %s", repo.type, repo.id, type(error).__name__, error)
        return None


def _keys(call: Call) -> tuple[str, ...]:
    expand = [name for value in call.queries("expand") for name in value.split(",")]
    if expand:
        return ("id", *expand)
    keys = FULL if call.flag("full") else BRIEF
    more = [key for key, flag in (("cardData", "cardData"), ("config", "config")) if call.flag(flag)]
    return (*keys, *more)


def _matches(call: Call, row: dict[str, Any]) -> bool:
    tags = {tag.lower() for tag in row["tags"]}
    wanted = [tag.strip().lower() for value in call.queries("filter") for tag in value.split(",") if tag.strip()]
    if not tags.issuperset(wanted):
        return False
    author, search, pipeline = call.query("author"), call.query("search"), call.query("pipeline_tag")
    if author is not None and row["author"].lower() != author.lower():
        return False
    if search is not None and not all(word in row["id"].lower() for word in search.lower().split()):
        return False
    if pipeline is not None and row.get("pipeline_tag") != pipeline:
        return False
    gated = call.query("gated")
    return gated is None or bool(row["gated"]) == (gated.lower() in ("true", "1"))
