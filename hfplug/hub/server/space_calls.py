"""Calls about a Space beyond its files: variables, secrets, hardware. It is kept and shown; nothing is run here.

The value of a secret is not kept at all: the Hub never gives one out again, and here no Space runs that would need it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from hfplug.hub.server.cards import card_of
from hfplug.hub.server.hub import readable, writable
from hfplug.hub.server.repo import Repo, now
from hfplug.hub.server.routing import Call, Refusal, Router

_REPO = "/api/spaces/{owner}/{name}"
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_FLAVOR = re.compile(r"[a-z0-9][a-z0-9-]{1,40}")
_MOST = 200
_LONGEST_VALUE = 64 << 10


def add_routes(router: Router) -> None:
    """Add the calls of this file."""
    for kind in ("secrets", "variables"):
        router.add("GET", f"{_REPO}/{kind}", _list)
        router.add("POST", f"{_REPO}/{kind}", _add)
        router.add("DELETE", f"{_REPO}/{kind}", _delete)
    router.add("GET", f"{_REPO}/runtime", _runtime)
    router.add("POST", f"{_REPO}/hardware", _hardware)
    router.add("POST", f"{_REPO}/sleeptime", _sleep_time)


def settings_at_creation(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a new Space's state holds, of the call that creates it.

    Raises:
        Refusal: A secret, a variable or the hardware is none (400).
    """
    space: dict[str, Any] = {"secrets": {}, "variables": {}}
    for kind in ("secrets", "variables"):
        given = body.get(kind) or []
        for item in given if isinstance(given, list) else [None]:
            _put(space[kind], kind, item if isinstance(item, dict) else {})
    if body.get("hardware") is not None:
        space["hardware"] = _flavor(body["hardware"])
    return space


def _named(call: Call) -> Repo:
    call.names["types"] = "spaces"  # the pattern has no place for another kind
    return readable(call)


def _own(call: Call) -> Repo:
    call.names["types"] = "spaces"
    return writable(call)


def _kind(call: Call) -> str:
    return call.raw_path.rpartition("/")[2]


def _space(repo: Repo) -> dict[str, Any]:
    return repo.state.get("space") or {"secrets": {}, "variables": {}}


def _list(call: Call) -> Response:
    # As on the Hub: what a Space is set to is its owner's business, and a secret's value nobody's.
    return JSONResponse(_space(_own(call))[_kind(call)])


def _add(call: Call) -> Response:
    repo, kind, body = _own(call), _kind(call), call.json()
    with repo.changing() as state:
        space = state.setdefault("space", {"secrets": {}, "variables": {}})
        _put(space[kind], kind, body)
    return JSONResponse(_space(repo)[kind])


def _put(entries: dict[str, Any], kind: str, body: Mapping[str, Any]) -> None:
    key, value = body.get("key"), body.get("value")
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise Refusal(400, "a key is a name of an environment variable")
    if not isinstance(value, str) or len(value) > _LONGEST_VALUE:
        raise Refusal(400, f"the value of {key} must be a text of at most {_LONGEST_VALUE >> 10} kB")
    if key not in entries and len(entries) >= _MOST:
        raise Refusal(400, f"a Space may have {_MOST} {kind}")
    description = str(body.get("description") or "")[:1000]
    entries[key] = {"key": key, "description": description or None, "updatedAt": now()}
    if kind == "variables":
        entries[key]["value"] = value


def _delete(call: Call) -> Response:
    repo, kind, key = _own(call), _kind(call), str(call.json().get("key") or "")
    with repo.changing() as state:
        entries = state.setdefault("space", {"secrets": {}, "variables": {}})[kind]
        if key not in entries:
            raise Refusal(404, f"this Space has none of that name among its {kind}")
        del entries[key]
    return JSONResponse(_space(repo)[kind])


def _runtime(call: Call) -> Response:
    return JSONResponse(_state_of(_named(call)))


def _state_of(repo: Repo) -> dict[str, Any]:
    space = _space(repo)
    _, commit = repo.at("main")
    app_file = card_of(repo, commit).get("app_file") or "app.py"
    return {
        "stage": "STOPPED" if app_file in commit.files else "NO_APP_FILE",
        "hardware": {"current": None, "requested": space.get("hardware") or "cpu-basic"},
        "gcTimeout": space.get("sleep_time"),
        "storage": None,
        "devMode": False,
    }


def _hardware(call: Call) -> Response:
    repo, body = _own(call), call.json()
    flavor = _flavor(body.get("flavor"))
    with repo.changing() as state:
        space = state.setdefault("space", {"secrets": {}, "variables": {}})
        space["hardware"] = flavor
        if "sleepTimeSeconds" in body:
            space["sleep_time"] = _seconds(body["sleepTimeSeconds"])
    return JSONResponse(_state_of(repo))


def _sleep_time(call: Call) -> Response:
    repo, seconds = _own(call), _seconds(call.json().get("seconds"))
    with repo.changing() as state:
        state.setdefault("space", {"secrets": {}, "variables": {}})["sleep_time"] = seconds
    return JSONResponse(_state_of(repo))


def _flavor(value: Any) -> str:
    if not isinstance(value, str) or not _FLAVOR.fullmatch(value):
        raise Refusal(400, "a hardware is a name such as cpu-basic, t4-small or zero-a10g")
    return value


def _seconds(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value <= 10**9:
        raise Refusal(400, "a sleep time is a number of seconds, or -1 for never")
    return value
