"""Who calls: tokens to user names, kept on disk so that the disk does not give them away.

A token that this Hub makes is 40 random letters; one that a user chooses may be weaker. So the disk holds
scrypt hashes with a salt of their own, and a token that was checked once is remembered in memory.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import string
import threading
from collections.abc import Mapping
from pathlib import Path

from hfplug.adapters import atomic
from hfplug.hub.server.names import check_repo_name
from hfplug.hub.server.root import claim
from hfplug.hub.server.routing import Refusal

_LETTERS = string.ascii_letters + string.digits


class Access:
    """The users of one Hub.

    Args:
        root: Its folder; ``tokens.json`` in it holds the hashes.
        tokens: More tokens and their users, for this process only; never written.
    """

    def __init__(self, root: Path, tokens: Mapping[str, str] | None = None) -> None:
        self._path = root / "tokens.json"
        self._known = {_digest(token): check_repo_name(user) for token, user in (tokens or {}).items()}
        self._stored = read_tokens(root)
        self._lock = threading.Lock()

    def who(self, authorization: str | None) -> str | None:
        """The user of an ``Authorization`` header; None if there is no header.

        Raises:
            Refusal: The header names no user of this Hub (401).
        """
        if authorization is None:
            return None
        scheme, _, token = authorization.partition(" ")
        user = self._user_of(token.strip()) if scheme.lower() == "bearer" else None
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return user

    def _user_of(self, token: str) -> str | None:
        digest = _digest(token)
        if digest in self._known:
            return self._known[digest]
        with self._lock:  # one scrypt at a time: a caller with wrong tokens cannot take all cores
            for entry in self._stored:
                if hmac.compare_digest(_scrypt(token, bytes.fromhex(entry["salt"])), entry["hash"]):
                    self._known[digest] = entry["user"]
                    return entry["user"]
        return None


def make_token() -> str:
    """A new token, in the form that secret scanners know."""
    return "hf_" + "".join(secrets.choice(_LETTERS) for _ in range(37))


def read_tokens(root: Path) -> list[dict[str, str]]:
    """The stored hashes: ``{"user", "salt", "hash"}`` each."""
    path = root / "tokens.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def store_token(root: Path, token: str, user: str) -> None:
    """Let ``token`` be a token of ``user`` from the next start on. Its hash is written, never the token.

    Raises:
        Refusal: ``user`` cannot be a user's name.
        HubConflictError: ``root`` is a folder of somebody else's.
    """
    check_repo_name(user)
    claim(root)
    stored = read_tokens(root)
    if any(hmac.compare_digest(_scrypt(token, bytes.fromhex(entry["salt"])), entry["hash"]) for entry in stored):
        return
    salt = secrets.token_bytes(16)
    _write_tokens(root, [*stored, {"user": user, "salt": salt.hex(), "hash": _scrypt(token, salt)}])


def _write_tokens(root: Path, stored: list[dict[str, str]]) -> None:
    atomic.write_json(root / "tokens.json", stored)
    (root / "tokens.json").chmod(0o600)  # from the second time on, it is kept when the file is replaced


def signing_key(root: Path) -> bytes:
    """The key that tickets are signed with; made once, readable by the owner of the files alone."""
    path = root / "signing.key"
    if not path.is_file():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
    key = path.read_bytes()
    return key if len(key) == 32 else hashlib.sha256(secrets.token_bytes(32)).digest()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _scrypt(token: str, salt: bytes) -> str:
    return hashlib.scrypt(token.encode(), salt=salt, n=2**14, r=8, p=1).hex()
