"""A Hub that fails on demand: an ASGI middleware around the real one. Tests only; nothing of it is served to users."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from dataclasses import dataclass

KINDS = ("500", "429", "reset", "truncated", "delay", "lost")


@dataclass
class _Rule:
    left: int
    kind: str
    match: re.Pattern
    seconds: float
    retry_after: float


class Faults:
    """Makes the next so many requests fail in a chosen way.

    ``500`` and ``429`` (with ``Retry-After``) are answered without the Hub hearing of the request. ``reset``
    cuts the connection before it does. ``lost``: the Hub does what it was asked, and the connection is closed
    instead of the answer. ``truncated``: half of the answer's body, then the connection is closed. ``delay``:
    everything as it should be, later.

    Attributes:
        seen: ``"METHOD path"`` of every request, in order.
        struck: ``(kind, "METHOD path")`` of every request that was made to fail.
    """

    def __init__(self):
        self.seen: list[str] = []
        self.struck: list[tuple[str, str]] = []
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()

    def next(self, n, kind, match="", *, seconds=0.5, retry_after=1):
        """Let the next ``n`` requests whose ``"METHOD path"`` holds the pattern ``match`` fail.

        Args:
            n: How many. kind: One of ``KINDS``, or a status such as ``"413"``. match: A regular expression.
            seconds: Of a delay. retry_after: Of a 429.
        """
        assert kind in KINDS or kind.isdigit(), f"{kind!r} is none of {KINDS}"
        with self._lock:
            self._rules.append(_Rule(n, kind, re.compile(match), seconds, retry_after))

    def clear(self):
        """Forget the rules of which something is left."""
        with self._lock:
            self._rules.clear()

    @property
    def left(self):
        """How many requests are still to fail."""
        with self._lock:
            return sum(rule.left for rule in self._rules)

    def count(self, match):
        """How many requests so far hold the pattern ``match``."""
        return sum(bool(re.search(match, seen)) for seen in list(self.seen))

    def around(self, app):
        """``app`` with the faults; for ``running_hub(wrap=…)``."""

        async def faulty(scope, receive, send):
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            what = f"{scope['method']} {scope['raw_path'].decode('latin-1')}"
            rule = self._strike(what)
            if rule is None:
                await app(scope, receive, send)
            else:
                await _STRIKES.get(rule.kind, _status)(rule, app, scope, receive, send)

        return faulty

    def _strike(self, what):
        with self._lock:
            self.seen.append(what)
            for rule in self._rules:
                if rule.left > 0 and rule.match.search(what):
                    rule.left -= 1
                    self.struck.append((rule.kind, what))
                    return rule
        return None


async def _answer(status, headers, receive, send):
    more = True
    while more:
        message = await receive()
        more = message["type"] == "http.request" and message.get("more_body", False)
    body = b'{"error": "a fault of the test"}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _status(rule, app, scope, receive, send):
    await _answer(int(rule.kind), [], receive, send)


async def _500(rule, app, scope, receive, send):
    await _answer(500, [], receive, send)


async def _429(rule, app, scope, receive, send):
    await _answer(429, [(b"retry-after", str(rule.retry_after).encode())], receive, send)


async def _reset(rule, app, scope, receive, send):
    connection = _connection(send)
    with contextlib.suppress(OSError):  # zero seconds of lingering: the other side sees a reset, not an end
        connection.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.abort()
    await _until_gone(connection)


async def _lost(rule, app, scope, receive, send):
    async def swallow(message):
        pass

    await app(scope, receive, swallow)
    connection = _connection(send)
    connection.close()
    await _until_gone(connection)


async def _truncated(rule, app, scope, receive, send):
    start, body = None, b""

    async def collect(message):
        nonlocal start, body
        if message["type"] == "http.response.start":
            start = message
        else:
            body += message.get("body", b"")

    await app(scope, receive, collect)
    await send(start)
    await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
    connection = _connection(send)
    connection.close()
    await _until_gone(connection)


async def _delay(rule, app, scope, receive, send):
    await asyncio.sleep(rule.seconds)
    await app(scope, receive, send)


def _connection(send):
    """The connection under an answer: uvicorn's ``send`` is a method of the object that holds it."""
    return send.__self__.transport


async def _until_gone(connection):
    # uvicorn answers 500 for an application that says nothing, unless it knows that the connection is gone.
    for _ in range(200):
        await asyncio.sleep(0.005)
        if connection.get_extra_info("socket") is None or connection.get_extra_info("socket").fileno() < 0:
            break
    await asyncio.sleep(0.005)


_STRIKES = {"500": _500, "429": _429, "reset": _reset, "truncated": _truncated, "delay": _delay, "lost": _lost}
assert tuple(_STRIKES) == KINDS
