"""Calls about branches, tags and history."""

from __future__ import annotations

from html import escape
from itertools import islice
from typing import Any

from starlette.responses import JSONResponse, Response

from hfplug.hub.server.commit import Commit
from hfplug.hub.server.hub import readable, signed_in, writable
from hfplug.hub.server.names import check_ref
from hfplug.hub.server.pages import link_to_next, page_size
from hfplug.hub.server.repo import now
from hfplug.hub.server.routing import Call, Refusal, Router

_REPO = "/api/{types}/{owner}/{name}"


def add_routes(router: Router) -> None:
    """Add the calls of this file."""
    router.add("GET", f"{_REPO}/refs", _refs)
    router.add("GET", f"{_REPO}/commits/{{revision}}", _commits)
    router.add("POST", f"{_REPO}/branch/{{branch}}", _create_branch)
    router.add("DELETE", f"{_REPO}/branch/{{branch}}", _delete_branch)
    router.add("POST", f"{_REPO}/tag/{{revision}}", _create_tag)
    router.add("DELETE", f"{_REPO}/tag/{{tag}}", _delete_tag)
    router.add("POST", f"{_REPO}/super-squash/{{branch}}", _squash)


def _refs(call: Call) -> Response:
    state = readable(call).state
    shown: dict[str, Any] = {
        "branches": [_ref(name, f"refs/heads/{name}", oid) for name, oid in sorted(state["branches"].items())],
        "tags": [_ref(name, f"refs/tags/{name}", tag["commit"]) for name, tag in sorted(state["tags"].items())],
        "converts": [],
    }
    if call.flag("include_prs"):
        pulls = [one for one in state["discussions"] if one["head"] is not None]
        shown["pullRequests"] = [_ref(f"refs/pr/{one['num']}", f"refs/pr/{one['num']}", one["head"]) for one in pulls]
    return JSONResponse(shown)


def _ref(name: str, ref: str, oid: str) -> dict[str, str]:
    return {"name": name, "ref": ref, "targetCommit": oid}


def _commits(call: Call) -> Response:
    """The history, newest first. A page begins at the commit that the cursor names, so no page reads another's."""
    repo, size = readable(call), page_size(call)
    start = repo.resolve(call.query("cursor") or call.names["revision"])
    shown = list(islice(repo.history(start), size + 1))
    headers = link_to_next(call, shown[size][0]) if len(shown) > size else {}
    formatted = "formatted" in call.queries("expand")
    return JSONResponse([_describe_commit(oid, commit, formatted) for oid, commit in shown[:size]], headers=headers)


def _describe_commit(oid: str, commit: Commit, formatted: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": oid, "title": commit.title, "message": commit.message, "authors": [{"user": commit.author}],
        "date": commit.date, "parents": list(commit.parents),
    }  # fmt: skip
    if formatted:
        shown["formatted"] = {"title": escape(commit.title), "message": escape(commit.message)}
    return shown


def _create_branch(call: Call) -> Response:
    repo, name = writable(call), check_ref(call.names["branch"])
    start = call.json().get("startingPoint") if call.body else None
    with repo.changing() as state:
        if name in state["branches"]:
            raise Refusal(409, f"Reference already exists: branch {name!r}")
        state["branches"][name] = repo.resolve("main" if start is None else str(start))
    return JSONResponse({})


def _delete_branch(call: Call) -> Response:
    repo, name = writable(call), call.names["branch"]
    if name == "main":
        raise Refusal(403, "the branch 'main' cannot be deleted")
    with repo.changing() as state:
        if state["branches"].pop(name, None) is None:
            raise Refusal(404, f"there is no branch {name[:100]!r}", code="RevisionNotFound")
    return JSONResponse({})


def _create_tag(call: Call) -> Response:
    repo, body = writable(call), call.json()
    name = check_ref(str(body.get("tag") or ""))
    with repo.changing() as state:
        if name in state["tags"]:
            raise Refusal(409, f"Tag reference exists already: {name!r}")
        commit = repo.resolve(call.names["revision"])
        state["tags"][name] = {"commit": commit, "message": str(body.get("message") or ""), "at": now()}
    return JSONResponse({})


def _delete_tag(call: Call) -> Response:
    repo, name = writable(call), call.names["tag"]
    with repo.changing() as state:
        if state["tags"].pop(name, None) is None:
            raise Refusal(404, f"there is no tag {name[:100]!r}", code="RevisionNotFound")
    return JSONResponse({})


def _squash(call: Call) -> Response:
    """One commit in place of a branch's history; tags and other branches keep theirs."""
    repo, branch, user = writable(call), call.names["branch"], signed_in(call)
    title = str(call.json().get("message") or f"Squash branch '{branch}'")
    with repo.changing() as state:
        if branch not in state["branches"]:
            raise Refusal(404, f"there is no branch {branch[:100]!r}", code="RevisionNotFound")
        files = repo.commit(state["branches"][branch]).files
        state["branches"][branch] = repo.add_commit(Commit((), user, now(), title, "", files))
    return JSONResponse({})
