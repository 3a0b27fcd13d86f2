"""Gradio's routes that this page has no use for, closed: files of the machine, uploads, and fetching for others.

Gradio serves files from its cache and fetches public addresses for whoever asks (``file=https://…``). Both are checked
by gradio itself; here nobody needs either, so they are not there at all.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

_PARTS = (
    *(r"file[=/]", r"proxy=", r"upload(_progress)?\b", r"stream/", r"deep_link\b", r"custom_component/", r"dev/"),
    *(r"component_server\b", r"process_recording\b", r"(undo-)?vibe-", r"monitoring\b", r"profiling/", r"runs\b"),
    r"run-history/",
)
_CLOSED = re.compile(rf"/+(gradio_api/+)?({'|'.join(_PARTS)})")


def is_closed(path: str) -> bool:
    """Whether a path (decoded, starting with ``/``) is one that nobody needs here."""
    return _CLOSED.match(path) is not None


class ClosedRoutes:
    """ASGI middleware that answers 403 for those paths and passes on the rest."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one call."""
        if scope["type"] != "http" or not is_closed(scope["path"]):
            await self.app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": b"This page serves no files and takes none."})
