"""Calls about whole repos: create, delete, move, settings, who may read it, and what is known about it."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from hfplug.hub.server.describe import describe
from hfplug.hub.server.hub import check_not_gated, is_owner, readable, signed_in, writable
from hfplug.hub.server.names import TYPES
from hfplug.hub.server.repo import Repo
from hfplug.hub.server.routing import Call, Refusal, Router
from hfplug.hub.server.space_calls import settings_at_creation

_REPO = "/api/{types}/{owner}/{name}"


def add_routes(router: Router) -> None:
    """Add the calls of this file."""
    router.add("POST", "/api/repos/create", _create)
    router.add("DELETE", "/api/repos/delete", _delete)
    router.add("POST", "/api/repos/move", _move)
    router.add("GET", _REPO, _info)
    router.add("GET", "/api/{types}/{name}", _info)  # a repo without an owner, which this Hub never has
    router.add("GET", f"{_REPO}/revision/{{revision}}", _info)
    router.add("PUT", f"{_REPO}/settings", _settings)
    router.add("GET", f"{_REPO}/auth-check", _may_read)
    router.add("GET", f"{_REPO}/auth-check/write", _may_write)
    router.add("POST", f"{_REPO}/user-access-request/grant", _grant)


def repo_url(call: Call, repo: Repo) -> str:
    """The address of a repo on this Hub."""
    return f"{call.base_url}/{'' if repo.type == 'model' else repo.type + 's/'}{repo.id}"


def _create(call: Call) -> Response:
    user, body = signed_in(call), call.json()
    kind, name = body.get("type") or "model", str(body.get("name") or "")
    owner = str(body.get("organization") or user)
    if kind not in TYPES:
        raise Refusal(400, f"a repo is one of {', '.join(TYPES)}; {kind!r} came")
    if owner.lower() != user.lower():
        raise Refusal(403, f"You don't have the rights to create a {kind} under the namespace {owner[:100]!r}")
    more: dict[str, Any] = {}
    if kind == "space":
        sdk = {"sdk": body["sdk"]} if isinstance(body.get("sdk"), str) else {}
        more = {**sdk, "space": settings_at_creation(body)}
    try:
        repo = call.hub.shelf.create(kind, user, name, author=user, visibility=_visibility(body) or "public", **more)
    except Refusal as refusal:
        existing = call.hub.shelf.find(kind, f"{owner}/{name}")
        if refusal.status == 409 and existing is not None:
            refusal.body["url"] = repo_url(call, existing)  # what exist_ok answers with
        raise
    return JSONResponse({"url": repo_url(call, repo), "name": repo.id, "id": repo.id})


def _visibility(body: dict[str, Any]) -> str | None:
    """What was asked for, by the key of today's client or of yesterday's."""
    if "visibility" in body:
        if body["visibility"] not in ("public", "private", "protected"):
            raise Refusal(400, f"a visibility is public, private or protected; {body['visibility']!r} came")
        return body["visibility"]
    if isinstance(body.get("private"), bool):
        return "private" if body["private"] else "public"
    return None


def _named(call: Call, kind: Any, id: str) -> Repo:
    owner, _, name = id.partition("/")
    call.names = {"types": f"{kind or 'model'}s", "owner": owner, "name": name}
    return writable(call)


def _delete(call: Call) -> Response:
    user, body = signed_in(call), call.json()
    repo = _named(call, body.get("type"), f"{body.get('organization') or user}/{body.get('name')}")
    call.hub.shelf.delete(repo)
    return JSONResponse({})


def _move(call: Call) -> Response:
    user, body = signed_in(call), call.json()
    target = str(body.get("toRepo") or "")
    repo = _named(call, body.get("type"), str(body.get("fromRepo") or ""))
    if target.partition("/")[0].lower() != user.lower():
        raise Refusal(403, f"You don't have the rights to move a repo to {target[:100]!r}")
    call.hub.shelf.move(repo, target)
    return JSONResponse({})


def _info(call: Call) -> Response:
    repo = readable(call)
    oid, commit = repo.at(call.names.get("revision", "main"))
    shown = describe(repo, oid, commit, blobs=call.flag("blobs"))
    wanted = [name for value in call.queries("expand") for name in value.split(",")]
    if wanted:
        shown = {key: shown[key] for key in ("id", *wanted) if key in shown}
    return JSONResponse(shown)


def _settings(call: Call) -> Response:
    repo, body = writable(call), call.json()
    visibility, gated = _visibility(body), body.get("gated")
    if gated not in (None, False, "auto", "manual"):
        raise Refusal(400, f"gated is auto, manual or false; {gated!r} came")
    with repo.changing() as state:
        state["visibility"] = visibility or state["visibility"]
        state["gated"] = state["gated"] if gated is None else gated
    return JSONResponse({"private": repo.is_private, "gated": repo.state["gated"]})


def _may_read(call: Call) -> Response:
    check_not_gated(readable(call), call.user)
    return JSONResponse({})


def _may_write(call: Call) -> Response:
    writable(call)
    return JSONResponse({})


def _grant(call: Call) -> Response:
    repo, user = writable(call), str(call.json().get("user") or "").lower()
    if not user or is_owner(repo, user):
        raise Refusal(400, "name the user who is to be let in")
    with repo.changing() as state:
        state["granted"] = sorted({*state["granted"], user})
    return JSONResponse({})
