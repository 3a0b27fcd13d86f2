"""Tickets: short-lived permissions for one thing, signed, so that a URL can carry one instead of a token.

The client sends no token when it uploads the parts of a large file, and the Xet client sends one that it was
given by the Hub. Both are tickets: base64url of the claims and of their HMAC-SHA256.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any


class Tickets:
    """Issues and reads tickets.

    Args:
        key: The signing key, 32 random bytes. Who has it can issue any ticket.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def issue(self, claims: Mapping[str, Any], *, seconds: float = 3600) -> str:
        """A ticket for ``claims`` (JSON values), valid for so many seconds. Letters, digits, ``-_.`` only."""
        text = json.dumps({**claims, "expires": time.time() + seconds}, sort_keys=True).encode()
        return f"{_encode(text)}.{_encode(self._sign(text))}"

    def read(self, ticket: str, **expected: Any) -> dict[str, Any] | None:
        """The claims of a ticket; None if it is not ours, has expired, or does not claim what is ``expected``."""
        text, _, signature = ticket.partition(".")
        try:
            claims, signed = _decode(text), _decode(signature)
        except ValueError:
            return None
        if not hmac.compare_digest(signed, self._sign(claims)):
            return None
        found = json.loads(claims)
        if found["expires"] < time.time() or any(found.get(name) != value for name, value in expected.items()):
            return None
        return found

    def _sign(self, text: bytes) -> bytes:
        return hmac.new(self._key, text, hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
