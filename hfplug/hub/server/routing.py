"""Routes on the raw path, calls and answers.

A revision such as ``refs/pr/1`` comes as one segment, ``refs%2Fpr%2F1``. Routing on the decoded path, as
Starlette does, would take it for three. So a path is split first and each segment is decoded afterwards.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from hfplug.hub.server.hub import Hub
    from hfplug.hub.server.repo import Repo

LARGEST_BODY = 32 << 20
LARGEST_BODY_OF_STRANGERS = 4 << 20
_IN_MEMORY = 1 << 20  # of a body; the rest of a longer one is written to the disk
_LONGEST_HEADER = 2000
_TYPES = ("models", "datasets", "spaces")


class Refusal(Exception):
    """An answer that says no.

    Args:
        status: The HTTP status.
        message: What the client shows to its user.
        code: ``X-Error-Code``, from which the client picks its exception: RepoNotFound, RevisionNotFound, …
        body: More keys of the JSON body. headers: More headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.body, self.headers = dict(body or {}), dict(headers or {})

    def response(self) -> Response:
        """The answer as it is sent."""
        # A header holds no line ends and no letters outside latin-1; names from a URL may have both.
        text = re.sub(r"[^\x20-\x7e]", "?", self.message[:_LONGEST_HEADER])
        headers = {**self.headers, "X-Error-Message": text, **({"X-Error-Code": self.code} if self.code else {})}
        return JSONResponse({"error": self.message, **self.body}, self.status, headers)


@dataclass
class Call:
    """One request, as a handler sees it.

    Attributes:
        hub: The Hub that is called.
        request: The request itself; a streaming handler reads ``request.stream()``.
        names: What the braces of the route's pattern matched, decoded.
        user: Who calls, or None without a token.
        repo: The repo that the handler has found, if it has.
        content: The body as a file, for handlers that are not streaming.
    """

    hub: Hub
    request: Request
    names: dict[str, str]
    user: str | None
    repo: Repo | None = None
    content: IO[bytes] | None = None

    @property
    def body(self) -> bytes:
        """The body, at once."""
        if self.content is None:
            return b""
        self.content.seek(0)
        return self.content.read()

    def lines(self, most: int) -> Iterator[bytes]:
        """The lines of the body, one after another.

        Raises:
            Refusal: One has more than ``most`` bytes (413).
        """
        if self.content is not None:
            self.content.seek(0)
            while line := self.content.readline(most + 1):
                if len(line) > most:
                    raise Refusal(413, f"a line of the body may have {most} bytes; send large files through LFS or Xet")
                yield line

    @property
    def base_url(self) -> str:
        """The endpoint as the caller wrote it, without a slash at the end."""
        return str(self.request.base_url).rstrip("/")

    @property
    def raw_path(self) -> str:
        """The path as it came, not decoded."""
        return raw_path(self.request)

    def query(self, name: str) -> str | None:
        """One query parameter, or None."""
        return self.request.query_params.get(name)

    def queries(self, name: str) -> list[str]:
        """A query parameter that may be repeated, also as ``name[]``."""
        values = self.request.query_params
        return values.getlist(name) + values.getlist(f"{name}[]")

    def flag(self, name: str) -> bool:
        """Whether a query parameter says yes."""
        return (self.query(name) or "").lower() in ("1", "true")

    def json(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            Refusal: It is something else (400).
        """
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            raise Refusal(400, "the body must be JSON") from None
        if not isinstance(value, dict):
            raise Refusal(400, f"the body must be a JSON object, not {type(value).__name__}")
        return value


SyncHandler = Callable[[Call], Response]
StreamHandler = Callable[[Call], Awaitable[Response]]


@dataclass
class _Route:
    segments: tuple[str, ...]
    handler: Callable[[Call], Any]
    streaming: bool
    caller: str
    largest: int


@dataclass
class Router:
    """Patterns such as ``/api/{types}/{owner}/{name}/tree/{revision}/{path*}`` to handlers.

    A name in braces matches one segment, decoded; a star makes it match all the rest, joined by ``/``, possibly
    nothing; ``{types}`` matches ``models``, ``datasets`` and ``spaces`` only. The first route that matches wins.
    """

    _routes: dict[str, list[_Route]] = field(default_factory=dict)

    def add(
        self, method: str, pattern: str, handler: SyncHandler, *, caller: str = "user", largest: int = LARGEST_BODY
    ) -> None:
        """A handler that runs in a worker thread, with the body already read.

        Args:
            caller: "user": a token, if one is sent, has to be a user's. "ticket": the handler looks for itself,
                because what is sent is a ticket.
            largest: Bytes that a body may have; that of a caller without a token may have less.
        """
        self._add(method, pattern, handler, False, caller, largest)

    def add_streaming(self, method: str, pattern: str, handler: StreamHandler, *, caller: str = "user") -> None:
        """A coroutine that reads ``call.request.stream()`` itself; ``caller`` as for ``add``."""
        self._add(method, pattern, handler, True, caller, 0)

    def _add(
        self, method: str, pattern: str, handler: Callable[[Call], Any], streaming: bool, caller: str, largest: int
    ) -> None:
        route = _Route(tuple(pattern.split("/")[1:]), handler, streaming, caller, largest)
        self._routes.setdefault(method, []).append(route)

    async def answer(self, hub: Hub, request: Request) -> Response:
        """Find the handler of a request and run it; a Refusal becomes its response."""
        segments = [unquote(part) for part in raw_path(request).split("/")[1:]]
        method = "GET" if request.method == "HEAD" else request.method
        try:
            for route in self._routes.get(method, ()):
                names = _match(route.segments, segments)
                if names is not None:
                    return await _run(route, hub, request, names)
            raise Refusal(404, "this Hub has no such page or call")
        except Refusal as refusal:
            return refusal.response()


def raw_path(request: Request) -> str:
    """The path of a request as it came, not decoded."""
    raw = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    return raw.decode("latin-1").partition("?")[0]


async def _run(route: _Route, hub: Hub, request: Request, names: dict[str, str]) -> Response:
    user = None
    if route.caller == "user":
        user = await hub.access.who(request.headers.get("authorization"))
    call = Call(hub, request, names, user)
    try:
        return await _handle(route, call)
    except FileNotFoundError:
        if call.repo is not None and call.repo.gone:  # in the middle of the call
            raise Refusal(404, "this repo has just been deleted or moved", code="RepoNotFound") from None
        raise


async def _handle(route: _Route, call: Call) -> Response:
    request, user = call.request, call.user
    if route.streaming:
        return await route.handler(call)
    most = route.largest if user else min(route.largest, LARGEST_BODY_OF_STRANGERS)
    # Beside the repos, where there is room and others cannot look, rather than in the machine's memory.
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=str(call.hub.root / "trash")) as content:
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size > most:
                raise Refusal(413, f"a body may have {most} bytes; send large files through LFS or Xet")
            if size > _IN_MEMORY:
                await run_in_threadpool(content.write, piece)
            else:
                content.write(piece)
        call.content = content
        return await run_in_threadpool(route.handler, call)


def _match(pattern: tuple[str, ...], segments: Iterable[str]) -> dict[str, str] | None:
    names: dict[str, str] = {}
    rest = list(segments)
    for part in pattern:
        if part.endswith("*}"):
            names[part[1:-2]] = "/".join(rest)
            return names
        if not rest:
            return None
        segment = rest.pop(0)
        if part.startswith("{"):
            if not segment:
                return None
            before, _, after = part.partition("}")
            if not segment.endswith(after):
                return None
            if before == "{types" and segment not in _TYPES:
                return None
            names[before[1:]] = segment.removesuffix(after)
        elif part != segment:
            return None
    return None if rest else names
