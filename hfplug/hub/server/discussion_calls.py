"""Calls about discussions and pull requests: open, list, read, comment, rename, close, merge."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from hfplug.hub.server.commit import Commit
from hfplug.hub.server.discussions import add_event, conflicts, merged_files, open_discussion
from hfplug.hub.server.hub import contributable, is_owner, readable, signed_in, writable
from hfplug.hub.server.repo import Repo, now
from hfplug.hub.server.repo_calls import repo_url
from hfplug.hub.server.routing import Call, Refusal, Router

_ALL = "/api/{types}/{owner}/{name}/discussions"
_ONE = f"{_ALL}/{{num}}"
_PAGE = 50


def add_routes(router: Router) -> None:
    """Add the calls of this file."""
    router.add("GET", _ALL, _list)
    router.add("POST", _ALL, _open)
    router.add("GET", _ONE, _details)
    router.add("POST", f"{_ONE}/comment", _comment)
    router.add("POST", f"{_ONE}/title", _rename)
    router.add("POST", f"{_ONE}/status", _change_status)
    router.add("POST", f"{_ONE}/merge", _merge)


def _find(state: dict[str, Any], num: str) -> dict[str, Any]:
    for one in state["discussions"]:
        if str(one["num"]) == num:
            return one
    raise Refusal(404, f"there is no discussion {num[:20]!r}")


def _brief(repo: Repo, one: dict[str, Any]) -> dict[str, Any]:
    return {
        "num": one["num"], "title": one["title"], "author": {"name": one["author"]}, "createdAt": one["created_at"],
        "status": one["status"], "isPullRequest": one["head"] is not None,
        "repo": {"name": repo.id, "type": repo.type},
    }  # fmt: skip


def _list(call: Call) -> Response:
    repo = readable(call)
    kind, status, author = call.query("type"), call.query("status"), call.query("author")
    found = [
        one
        for one in reversed(repo.state["discussions"])
        if kind in (None, "all", "pull_request" if one["head"] else "discussion")
        and (status in (None, "all") or (status == "open") == (one["status"] in ("open", "draft")))
        and (author is None or one["author"].lower() == author.lower())
    ]
    number = call.query("p") or "0"
    if not (number.isascii() and number.isdigit() and len(number) < 8):
        raise Refusal(400, "p must be the number of a page")
    start = int(number) * _PAGE
    rows = [_brief(repo, one) for one in found[start : start + _PAGE]]
    return JSONResponse({"discussions": rows, "count": len(found), "start": start})


def _open(call: Call) -> Response:
    repo, user, body = contributable(call), signed_in(call), call.json()
    title = str(body.get("title") or "").strip()
    if len(title) < 3:
        raise Refusal(400, "a title has at least 3 letters")
    words = {"title": title[:200], "description": str(body.get("description") or ""), "author": user}
    with repo.changing() as state:
        if body.get("pullRequest"):
            head = state["branches"]["main"]
            one = open_discussion(state, **words, base="main", start=head, head=head)
        else:
            one = open_discussion(state, **words)
    url = f"{repo_url(call, repo)}/discussions/{one['num']}"
    return JSONResponse({"num": one["num"], "url": url, "pullRequest": one["head"] is not None})


def _details(call: Call) -> Response:
    repo = readable(call)
    one = _find(repo.state, call.names["num"])
    shown = {**_brief(repo, one), "events": [_event(repo, one, number) for number in range(len(one["events"]))]}
    if one["head"] is not None:
        changes = {"base": f"refs/heads/{one['base']}"}
        if one["merge_commit"]:
            changes["mergeCommitId"] = one["merge_commit"]
        shown |= {"changes": changes, "filesWithConflicts": conflicts(repo, one), "diff": None}
    return JSONResponse(shown)


def _event(repo: Repo, one: dict[str, Any], number: int) -> dict[str, Any]:
    event = one["events"][number]
    kind = event["type"]
    if kind == "comment":
        data = {"edited": False, "hidden": False, "latest": {"raw": event["text"]}}
    elif kind == "status-change":
        data = {"status": event["status"]}
    elif kind == "title-change":
        data = {"from": event["from"], "to": event["to"]}
    else:
        data = {"oid": event["oid"], "subject": repo.commit(event["oid"]).title}
    common = {"id": f"{one['num']:x}-{number:x}", "type": kind, "createdAt": event["at"]}
    return {**common, "author": {"name": event["author"]}, "data": data}


def _mine(repo: Repo, one: dict[str, Any], user: str) -> None:
    if one["author"].lower() != user.lower() and not is_owner(repo, user):
        raise Refusal(403, "only its author and the repo's owner may change a discussion")


def _comment(call: Call) -> Response:
    repo, user, text = contributable(call), signed_in(call), str(call.json().get("comment") or "")
    with repo.changing() as state:
        one = _find(state, call.names["num"])
        add_event(one, "comment", user, text=text)
    return JSONResponse({"newMessage": _event(repo, one, -1 % len(one["events"]))})


def _rename(call: Call) -> Response:
    repo, user, title = contributable(call), signed_in(call), str(call.json().get("title") or "").strip()
    if len(title) < 3:
        raise Refusal(400, "a title has at least 3 letters")
    with repo.changing() as state:
        one = _find(state, call.names["num"])
        _mine(repo, one, user)
        add_event(one, "title-change", user, **{"from": one["title"], "to": title[:200]})
        one["title"] = title[:200]
    return JSONResponse({"newTitle": _event(repo, one, len(one["events"]) - 1)})


def _change_status(call: Call) -> Response:
    repo, user, body = contributable(call), signed_in(call), call.json()
    status = body.get("status")
    if status not in ("open", "closed"):
        raise Refusal(400, "a status is open or closed")
    with repo.changing() as state:
        one = _find(state, call.names["num"])
        _mine(repo, one, user)
        if one["status"] == "merged":
            raise Refusal(400, "this pull request has been merged")
        if body.get("comment"):
            add_event(one, "comment", user, text=str(body["comment"]))
        one["status"] = status
        add_event(one, "status-change", user, status=status)
    return JSONResponse({"newStatus": _event(repo, one, len(one["events"]) - 1)})


def _merge(call: Call) -> Response:
    """Merge a pull request file by file: what only one side has changed is taken from that side."""
    repo, user = writable(call), signed_in(call)
    comment = call.json().get("comment") if call.body.strip() not in (b"", b"null") else None
    with repo.changing() as state:
        one = _find(state, call.names["num"])
        if one["head"] is None or one["status"] not in ("open", "draft"):
            raise Refusal(400, "only an open pull request can be merged")
        clashing = conflicts(repo, one)
        if clashing:
            raise Refusal(409, f"both sides have changed {', '.join(clashing[:5])}; commit to refs/pr/{one['num']}")
        target = state["branches"][one["base"]]
        title = f"{one['title']} (#{one['num']})"
        commit = Commit((target, one["head"]), user, now(), title, "", merged_files(repo, one))
        state["branches"][one["base"]] = one["merge_commit"] = repo.add_commit(commit)
        if comment:
            add_event(one, "comment", user, text=str(comment))
        one["status"] = "merged"
        add_event(one, "status-change", user, status="merged")
    return JSONResponse({})
