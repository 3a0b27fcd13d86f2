"""Calls about the caller and about cards: whoami, validate-yaml."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from hfplug.hub.server.cards import problems, read_card
from hfplug.hub.server.hub import signed_in
from hfplug.hub.server.routing import Call, Router
from hfplug.hub.server.space_cards import space_problems


def add_routes(router: Router) -> None:
    """Add the calls of this file."""
    router.add("GET", "/api/whoami-v2", _whoami)
    router.add("POST", "/api/validate-yaml", _validate_card)


def _whoami(call: Call) -> Response:
    name = signed_in(call)
    token = {"displayName": "hfplug", "role": "write"}
    return JSONResponse(
        {
            "type": "user",
            "id": name.lower(),
            "name": name,
            "fullname": name,
            "email": None,
            "isPro": False,
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": token},
        }  # fmt: skip
    )


def _validate_card(call: Call) -> Response:
    asked = call.json()
    content = str(asked.get("content") or "")
    errors, warnings = problems(content)
    if asked.get("repoType") == "space" and not errors and not warnings:
        errors = space_problems(read_card(content))
    body = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    # The client reads the body as JSON whatever the status is.
    return JSONResponse({**body, **({"error": errors[0]} if errors else {})}, 400 if errors else 200)
