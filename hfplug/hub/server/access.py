"""Who calls: tokens to user names, kept on disk so that the disk does not give them away.

    tokens.json     a list of {"user", "sha256"} for tokens that this Hub made, {"user", "salt", "hash"} for others

A token that this Hub makes is 37 random letters, which nobody guesses from a plain hash. One that a user chooses
may be weaker: of it the disk holds a scrypt hash with a salt of its own. Whoever calls with a wrong token makes us
compute those, so they are computed one at a time, and right and wrong ones are remembered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import os
import secrets
import string
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from hfplug.adapters import atomic
from hfplug.errors import HubError, HubNotFoundError
from hfplug.hub.server.names import check_repo_name
from hfplug.hub.server.root import check_mark, claim
from hfplug.hub.server.routing import Refusal

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_LETTERS = string.ascii_letters + string.digits
_LONGEST_TOKEN = 500
_MOST_WRONG = 10_000


class Access:
    """The users of one Hub. Tokens that are added or revoked while it runs are noticed.

    Args:
        root: Its folder; ``tokens.json`` in it holds the hashes.
        tokens: More tokens and their users, for this process only; never written.
    """

    def __init__(self, root: Path, tokens: Mapping[str, str] | None = None) -> None:
        self._root = root
        self._given = {_digest(token): check_repo_name(user) for token, user in (tokens or {}).items()}
        self._gate = asyncio.Semaphore(1)
        self._lock = threading.Lock()
        self._version = _version(root)
        self._use(read_tokens(root))

    async def who(self, authorization: str | None) -> str | None:
        """The user of an ``Authorization`` header; None if there is no header.

        Raises:
            Refusal: The header names no user of this Hub (401).
        """
        if authorization is None:
            return None
        scheme, _, token = authorization.partition(" ")
        user = await self._user_of(token.strip()) if scheme.lower() == "bearer" else None
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return user

    async def _user_of(self, token: str) -> str | None:
        if len(token) > _LONGEST_TOKEN:
            return None
        digest = _digest(token)
        self._notice_changes()
        if digest not in self._known and digest not in self._wrong and self._chosen:
            # One at a time, and the others wait out here: inside the pool they would hold up every call.
            async with self._gate:
                if digest not in self._known and digest not in self._wrong:
                    await run_in_threadpool(self._look_up, token, digest)
        return self._known.get(digest)

    def _look_up(self, token: str, digest: str) -> None:
        known, wrong = self._known, self._wrong
        for entry in self._chosen:
            if _is_hashed(token, entry):
                known[digest] = entry["user"]
                return
        if len(wrong) >= _MOST_WRONG:
            wrong.clear()
        wrong.add(digest)

    def _notice_changes(self) -> None:
        version = _version(self._root)
        if version == self._version:
            return
        with self._lock:
            self._version = version
            try:
                self._use(read_tokens(self._root))
            except HubError as error:
                logger.error("%s Those who were let in before still are.", error.message)

    def _use(self, stored: list[dict[str, str]]) -> None:
        self._chosen = [entry for entry in stored if "hash" in entry]
        self._wrong: set[str] = set()
        made = {entry["sha256"]: entry["user"] for entry in stored if "sha256" in entry}
        self._known: dict[str, str] = {**made, **self._given}


def make_token() -> str:
    """A new token, in the form that secret scanners know."""
    return "hf_" + "".join(secrets.choice(_LETTERS) for _ in range(37))


def read_tokens(root: Path) -> list[dict[str, str]]:
    """The stored hashes, as described at the top of this file.

    Raises:
        HubError: The file is damaged.
    """
    path = root / "tokens.json"
    if not path.is_file():
        return []
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stored, list):
            raise ValueError("it is no list")
        for entry in stored:
            known = isinstance(entry["user"], str) and isinstance(entry.get("sha256", entry.get("hash")), str)
            if not known or ("hash" in entry and len(bytes.fromhex(entry["salt"])) < 8):
                raise ValueError("an entry is not as it should be")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HubError(
            f"{path} is damaged ({type(error).__name__}: {error}).",
            fix="Delete it, and make new tokens with: hfplug hub token",
        ) from None
    return stored


def store_token(root: Path, token: str, user: str, *, origin: str = "chosen") -> None:
    """Let ``token`` be a token of ``user``. Its hash is written, never the token.

    Args:
        origin: ``"made"`` by ``make_token``, or ``"chosen"`` by a user.

    Raises:
        Refusal: ``user`` cannot be a user's name.
        HubError: ``root`` is a folder of somebody else's, or its list of tokens is damaged.
    """
    check_repo_name(user)
    claim(root)
    with _changing_tokens(root) as stored:
        if any(_is_hashed(token, entry) for entry in stored):
            return
        if origin == "made":
            stored.append({"user": user, "sha256": _digest(token)})
        else:
            salt = secrets.token_bytes(16)
            stored.append({"user": user, "salt": salt.hex(), "hash": _scrypt(token, salt)})


def revoke_tokens(root: Path, user: str) -> int:
    """Let no stored token be ``user``'s any more, also in a Hub that is running. What the user pushed stays.

    Returns:
        How many there were.

    Raises:
        HubNotFoundError: There was none.
        HubError: ``root`` is no folder of a Hub, or its list of tokens is damaged.
    """
    check_mark(root)
    with _changing_tokens(root) as stored:
        left = [entry for entry in stored if entry["user"].lower() != user.lower()]
        count = len(stored) - len(left)
        if not count:
            users = ", ".join(sorted({entry["user"] for entry in stored})) or "nobody"
            raise HubNotFoundError(f"{user!r} has no token in {root}.", fix=f"Those who have one: {users}.")
        stored[:] = left
    return count


@contextlib.contextmanager
def _changing_tokens(root: Path) -> Iterator[list[dict[str, str]]]:
    """The stored tokens to change, alone; on the disk when the block ends well."""
    with open(root / ".tokens.lock", "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        stored = read_tokens(root)
        before = list(stored)
        yield stored
        if stored != before:
            atomic.write_json(root / "tokens.json", stored)
            (root / "tokens.json").chmod(0o600)  # from the second time on, it is kept when the file is replaced


def _version(root: Path) -> tuple[int, ...]:
    try:
        found = os.stat(root / "tokens.json")
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


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


def _is_hashed(token: str, entry: Mapping[str, str]) -> bool:
    """Whether an entry is that of a token."""
    if "sha256" in entry:
        return hmac.compare_digest(_digest(token), entry["sha256"])
    return hmac.compare_digest(_scrypt(token, bytes.fromhex(entry["salt"])), entry["hash"])


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _scrypt(token: str, salt: bytes) -> str:
    return hashlib.scrypt(token.encode(), salt=salt, n=2**14, r=8, p=1).hex()
