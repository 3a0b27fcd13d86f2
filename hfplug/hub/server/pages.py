"""Listings in pages, with the link to the next one where the client looks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

from hfplug.hub.server.routing import Call, Refusal

_Row = TypeVar("_Row", bound=Any)


def page(call: Call, rows: Sequence[_Row]) -> tuple[list[_Row], dict[str, str]]:
    """The rows of the page that a call asks for, and the headers that name the next one.

    ``limit`` is the size of a page, as on the Hub: the client stops by itself once it has enough.

    Raises:
        Refusal: ``limit`` or ``cursor`` is no number (400).
    """
    start = _number(call, "cursor", 0)
    end = start + page_size(call)
    return list(rows[start:end]), link_to_next(call, str(end)) if end < len(rows) else {}


def page_size(call: Call) -> int:
    """How many rows a call asks for, at most as many as a page has.

    Raises:
        Refusal: ``limit`` is no number (400).
    """
    return max(1, min(_number(call, "limit", call.hub.page_size), call.hub.page_size))


def link_to_next(call: Call, cursor: str) -> dict[str, str]:
    """The header that names the next page, which begins at ``cursor``."""
    query = [(name, value) for name, value in call.request.query_params.multi_items() if name != "cursor"]
    url = f"{call.base_url}{call.raw_path}?{urlencode([*query, ('cursor', cursor)])}"
    return {"Link": f'<{url}>; rel="next"'}


def _number(call: Call, name: str, default: int) -> int:
    text = call.query(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Refusal(400, f"{name} must be a number; {text[:20]!r} came")
    return int(text)
