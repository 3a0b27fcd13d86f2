"""Calls about collections. Who may not know of a repo does not see it in a collection either."""

from __future__ import annotations

import secrets
from typing import Any

from starlette.responses import JSONResponse, Response

from hfplug.hub.server.collections import slug_of
from hfplug.hub.server.hub import is_owner, signed_in
from hfplug.hub.server.names import TYPES
from hfplug.hub.server.pages import page
from hfplug.hub.server.routing import Call, Refusal, Router

_ALL = "/api/collections"
_ONE = f"{_ALL}/{{owner}}/{{slug}}"
_ITEM = f"{_ONE}/items/{{item}}"


def add_routes(router: Router) -> None:
    """Add the calls of this file."""
    router.add("GET", _ALL, _list)
    router.add("POST", _ALL, _create)
    router.add("GET", _ONE, _read)
    router.add("PATCH", _ONE, _update)
    router.add("DELETE", _ONE, _delete)
    router.add("POST", f"{_ONE}/items", _add_item)
    router.add("PATCH", _ITEM, _update_item)
    router.add("DELETE", _ITEM, _delete_item)


def _is_mine(call: Call, one: dict[str, Any]) -> bool:
    return call.user is not None and call.user.lower() == one["owner"].lower()


def _found(call: Call) -> dict[str, Any]:
    one = call.hub.collections.find(call.names["owner"], call.names["slug"])
    if one is None or (one["private"] and not _is_mine(call, one)):
        raise Refusal(404 if call.user else 401, "there is no such collection, or it is private")
    return one


def _own(call: Call) -> tuple[str, str]:
    signed_in(call)
    if not _is_mine(call, _found(call)):
        raise Refusal(403, "this collection belongs to another user")
    return call.names["owner"], call.names["slug"]


def _show(call: Call, one: dict[str, Any]) -> dict[str, Any]:
    items = []
    for position, item in enumerate(one["items"]):
        repo = call.hub.shelf.find(item["type"], item["id"])
        if repo is not None and (not repo.is_private or is_owner(repo, call.user)):
            shown = {"_id": item["_id"], "id": repo.id, "type": item["type"], "position": position}
            items.append({**shown, **({"note": {"text": item["note"]}} if item["note"] else {})})
    return {
        "slug": slug_of(one), "title": one["title"], "owner": {"name": one["owner"], "type": "user"}, "items": items,
        "lastUpdated": one["updated_at"], "position": one["position"], "private": one["private"],
        "theme": one["theme"], "upvotes": 0, "description": one["description"],
    }  # fmt: skip


def _list(call: Call) -> Response:
    owners = [owner.lower() for owner in call.queries("owner")]
    wanted = call.queries("item")  # "models/owner/name"
    rows = []
    for one in call.hub.collections.all():
        if (one["private"] and not _is_mine(call, one)) or (owners and one["owner"].lower() not in owners):
            continue
        shown = _show(call, one)
        inside = {f"{item['type']}s/{item['id']}".lower() for item in shown["items"]}
        if not wanted or inside & {item.lower() for item in wanted}:
            # A listing shows the first items only, and the client counts the rows itself.
            rows.append({**{key: shown[key] for key in shown if key != "position"}, "items": shown["items"][:4]})
    shown_rows, headers = page(call, rows)
    return JSONResponse(shown_rows, headers=headers)


def _create(call: Call) -> Response:
    user, body = signed_in(call), call.json()
    title, namespace = str(body.get("title") or "").strip(), str(body.get("namespace") or user)
    if not title or len(title) > 60:
        raise Refusal(400, "a title has 1 to 60 letters")
    if namespace.lower() != user.lower():
        raise Refusal(403, f"You don't have the rights to create a collection under {namespace[:100]!r}")
    description, private = _text(body.get("description"), 150), body.get("private") is True
    made = call.hub.collections.create(user, title, description=description, private=private)
    return JSONResponse(_show(call, made))


def _text(value: Any, most: int) -> str | None:
    if value is None:
        return None
    if len(str(value)) > most:
        raise Refusal(400, f"this text may have {most} letters; it has {len(str(value))}")
    return str(value)


def _read(call: Call) -> Response:
    return JSONResponse(_show(call, _found(call)))


def _update(call: Call) -> Response:
    owner_and_slug, body = _own(call), call.json()
    with call.hub.collections.changing(*owner_and_slug) as one:
        if "title" in body:
            one["title"] = _text(body["title"], 60) or one["title"]
        if "description" in body:
            one["description"] = _text(body["description"], 150)
        if isinstance(body.get("private"), bool):
            one["private"] = body["private"]
        if isinstance(body.get("position"), int):
            one["position"] = body["position"]
        if isinstance(body.get("theme"), str):
            one["theme"] = body["theme"][:20]
    return JSONResponse({"success": True, "data": _show(call, one)})


def _delete(call: Call) -> Response:
    call.hub.collections.delete(*_own(call))
    return JSONResponse({})


def _add_item(call: Call) -> Response:
    owner_and_slug, body = _own(call), call.json()
    asked = body.get("item")
    if not isinstance(asked, dict):
        raise Refusal(400, "name the item: its type and its id")
    kind, id = asked.get("type"), str(asked.get("id") or "")
    repo = call.hub.shelf.find(kind, id) if kind in TYPES else None
    if repo is None or (repo.is_private and not is_owner(repo, call.user)):
        raise Refusal(404, f"there is no {str(kind)[:20]} {id[:200]!r} to add")
    note = _text(body.get("note"), 500)
    with call.hub.collections.changing(*owner_and_slug) as one:
        if any(item["type"] == kind and item["id"].lower() == id.lower() for item in one["items"]):
            raise Refusal(409, "this collection holds it already")
        one["items"].append({"_id": secrets.token_hex(12), "id": repo.id, "type": kind, "note": note})
    return JSONResponse(_show(call, one))


def _place(call: Call, one: dict[str, Any]) -> int:
    for place, item in enumerate(one["items"]):
        if item["_id"] == call.names["item"]:
            return place
    raise Refusal(404, "this collection holds no such item")


def _update_item(call: Call) -> Response:
    owner_and_slug, body = _own(call), call.json()
    with call.hub.collections.changing(*owner_and_slug) as one:
        place = _place(call, one)
        if "note" in body:
            one["items"][place]["note"] = _text(body["note"], 500)
        if isinstance(body.get("position"), int) and body["position"] >= 0:
            one["items"].insert(body["position"], one["items"].pop(place))
    return JSONResponse({})


def _delete_item(call: Call) -> Response:
    with call.hub.collections.changing(*_own(call)) as one:
        del one["items"][_place(call, one)]
    return JSONResponse({})
