"""The ASGI application: every call of the Hub, over one folder."""

from __future__ import annotations

import errno
import logging
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hfplug.hub.server import (
    account_calls,
    collection_calls,
    commit_calls,
    discussion_calls,
    file_calls,
    lfs_calls,
    listing_calls,
    ref_calls,
    repo_calls,
    space_calls,
    xet_calls,
)
from hfplug.hub.server.hub import Hub
from hfplug.hub.server.routing import Refusal, Router
from hfplug.hub.server.shelf import sole_writer

logger = logging.getLogger(__name__)

_CALLS = (
    account_calls, listing_calls, repo_calls, space_calls, ref_calls, file_calls, commit_calls, discussion_calls,
    collection_calls, lfs_calls, xet_calls,
)  # fmt: skip
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def create_app(
    root: Path, *, tokens: Mapping[str, str] | None = None, page_size: int = 1000, part_size: int = 64 << 20
) -> Starlette:
    """A Hub over a folder, as an ASGI application. Run it in one process only: it holds the folder while it runs.

    Args:
        root: The folder; made if it is not there. Everything lies in it, and no token in clear text.
        tokens: Tokens and their users, beside those stored in the folder. A write needs a token.
        page_size: Rows of one page of a listing.
        part_size: Bytes of one part of an upload through LFS.

    Returns:
        The application. At its start it raises HubConflictError if another process holds the folder.
    """
    hub = Hub(Path(root), tokens=tokens, page_size=page_size, part_size=part_size)
    router = Router()
    for calls in _CALLS:
        calls.add_routes(router)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with sole_writer(hub.root):
            hub.shelf.tidy()
            xet_calls.tidy(hub)
            yield

    async def answer(request: Request) -> Response:
        response = await _answer(router, hub, request)
        response.headers["X-Request-Id"] = secrets.token_hex(8)
        return response

    return Starlette(routes=[Route("/{rest:path}", answer, methods=_METHODS)], lifespan=lifespan)


async def _answer(router: Router, hub: Hub, request: Request) -> Response:
    try:
        return await router.answer(hub, request)
    except ClientDisconnect:
        return Response(status_code=400)  # nobody reads it
    except OSError as error:
        if error.errno in _DISK_FULL:
            return Refusal(507, "the disk of this Hub is full").response()
        _log(request)
    except Exception:
        # One call's failure is logged, answered, and does not take the others down.
        _log(request)
    return JSONResponse({"error": "this Hub failed; its log says why"}, 500)


def _log(request: Request) -> None:
    # The address of an upload is a ticket, and a log is no place for one.
    logger.exception("%s %s failed", request.method, re.sub(r"(/api/lfs/)[^/]+", r"\1…", request.url.path))
