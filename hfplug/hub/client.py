"""The one way to a Hub: huggingface_hub's own client, with a limit of time on every call.

Most calls of ``HfApi`` wait for ever when a server takes the request and never answers, and some repeat
themselves for minutes. There is no argument for a timeout, and ``set_client_factory`` would change the HTTP
client of the whole process, which is the user's. So :meth:`HubClient.call` does three things that nobody else in
the process notices:

* the call runs in a thread of its own, and is given up after so many seconds, whatever it is doing (also inside
  ``hf_xet``, which does not use that HTTP client at all);
* while it runs, the shared HTTP client carries a hook that sets the time limit of each request. The hook looks at
  a context variable, so it does nothing to requests of anybody else, and it is taken off again;
* the same hook ends a call that was given up before it can send another request, so that a forgotten thread
  cannot commit something minutes later, and ends the client's own waiting on 429 and 5xx: how long to wait and how
  often to try is decided in one place, ``retry.py``.

:func:`translated` turns what goes wrong into the errors of ``hfplug.errors``.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import os
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from hfplug.adapters.record import hfplug_version
from hfplug.errors import HfplugError, HubAccessError, HubUnavailableError, UnsafeFileError
from hfplug.hub.answers import hub_error

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Result = TypeVar("Result")

TIMEOUT_SECONDS = 30.0
# An upload may take longer, by its size over what a poor line still carries.
SLOWEST_BYTES_PER_SECOND = 100_000
_LEAVES_ITS_FOLDER = re.compile(r"[/\\]|\.\.")
# What may stand in a header; anything else fails inside the HTTP client, in an error that quotes the token.
_TOKEN = re.compile(r"[\x21-\x7e]+")
_OVERLOADED = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class HubClient:
    """huggingface_hub's client for one Hub. Made by :func:`connect`.

    Attributes:
        api: The client. Its methods are called through ``call``.
        timeout: Seconds that one request may wait for an answer.
    """

    api: HfApi
    timeout: float = TIMEOUT_SECONDS
    # Not shown: a token must not get into a log with the client's repr.
    _token: str | None = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        """Address of the Hub without a slash at the end."""
        return self.api.endpoint.rstrip("/")

    @property
    def token(self) -> str | None:
        """The token that requests carry: the one given, else that of ``HF_TOKEN`` or ``hf auth login``."""
        from huggingface_hub import get_token

        return self._token or get_token()

    def call(self, function: Callable[..., Result], *args: Any, seconds: float | None = None, **kwargs: Any) -> Result:
        """``function(*args, **kwargs)`` with a limit of time on every request and on the whole.

        Args:
            function: Usually a method of ``api``. If it returns an iterator (the listings do), that is read to its
                end within the call, and the result is a list.
            seconds: Limit for the whole call; four times ``timeout`` if not given.

        Returns:
            What ``function`` returned.

        Raises:
            HubUnavailableError: The time was up. Whether the Hub did what was asked is not known then.
            Exception: Whatever ``function`` raised; see :func:`translated`.
        """
        limit = 4 * self.timeout if seconds is None else seconds
        watch = _Watch(self.timeout)
        future: concurrent.futures.Future[Result] = concurrent.futures.Future()

        def work() -> None:
            _watch.set(watch)
            try:
                with _hooked_session():
                    result: Any = function(*args, **kwargs)
                    if isinstance(result, Iterator):
                        result = list(result)
                future.set_result(result)
            except BaseException as error:
                future.set_exception(error)

        # A daemon: a call that never ends must not keep the process from ending.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(work,), name="hfplug-hub-call", daemon=True).start()
        try:
            concurrent.futures.wait([future], timeout=limit)
        finally:
            watch.given_up = not future.done()
        if watch.given_up:
            raise HubUnavailableError(
                f"{self.endpoint} did not answer within {limit:.0f} seconds.", fix="Try again later."
            )
        return future.result()

    def upload_seconds(self, size: int) -> float:
        """Limit for a call that sends ``size`` bytes."""
        return 4 * self.timeout + size / SLOWEST_BYTES_PER_SECOND

    def clean(self, text: str) -> str:
        """``text`` without the token in use, for messages that quote a server."""
        token = self.token
        return text.replace(token, "[removed]") if token else text


def connect(endpoint: str | None = None, token: str | None = None, *, timeout: float = TIMEOUT_SECONDS) -> HubClient:
    """A client for a Hub. No request is made yet.

    Args:
        endpoint: Address of the Hub; that of ``HF_ENDPOINT``, else https://huggingface.co, if not given.
        token: Access token; that of ``HF_TOKEN`` or ``hf auth login`` if not given.
        timeout: Seconds that one request may wait for an answer.

    Raises:
        HubAccessError: The token cannot be one, or the address holds a name or a password.
    """
    from huggingface_hub import HfApi, get_token

    # huggingface_hub reads HF_ENDPOINT once, when it is first imported; here it counts as it is now.
    address = endpoint or os.environ.get("HF_ENDPOINT") or None
    if address and "@" in urllib.parse.urlsplit(address).netloc:
        raise HubAccessError(
            "The address of the Hub holds a name or a password, which would be shown in messages and logs.",
            fix="Set HF_ENDPOINT without it, and HF_TOKEN to the token.",
        )
    token = token.strip() if token else None
    if (used := token or get_token()) and not _TOKEN.fullmatch(used):
        raise HubAccessError(
            f"The token {'that was given' if token else 'of HF_TOKEN'} cannot be one: it holds a space, a line end or"
            " a letter outside ASCII.",
            fix="Copy it again, with nothing before or after it.",
        )
    api = HfApi(
        endpoint=address.rstrip("/") if address else None,
        token=token,
        library_name="hfplug",
        library_version=hfplug_version(),
    )
    return HubClient(api=api, timeout=timeout, _token=token)


@contextlib.contextmanager
def translated(action: str, repo_id: str | None = None, *, client: HubClient | None = None) -> Iterator[None]:
    """Turn what a Hub or the network does wrong into :class:`~hfplug.errors.HubError`.

    Args:
        action: What is being done, for the message, e.g. ``"push to"``.
        repo_id: To which repo.
        client: Whose Hub and token it is about.

    Raises:
        HubError: One of its children, without the original in its trace: that may quote a token.
        Exception: What does not come from a Hub or the network passes through.
    """
    try:
        yield
    except HfplugError:
        raise
    except Exception as error:
        made = hub_error(
            error,
            action=f"{action} {repo_id}" if repo_id else action,
            repo_id=repo_id,
            endpoint=client.endpoint if client else None,
            signed_in=bool(client.token) if client else None,
            clean=client.clean if client else str,
        )
        if made is None:
            raise
        raise made from None


# -------------------------------------------------------------------------------------------------- hooks


class _Watch:
    """One call that is running: what the hooks must know about it."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.given_up = False


_watch: contextvars.ContextVar[_Watch | None] = contextvars.ContextVar("hfplug_hub_call", default=None)
_lock = threading.Lock()
_users: dict[int, int] = {}  # id of a session that carries the hooks -> calls that are running on it


@contextlib.contextmanager
def _hooked_session() -> Iterator[None]:
    """The shared HTTP client carries our hooks for as long as a call of ours is running.

    If the client is replaced in the middle of a call (huggingface_hub does so when a connection cannot be made),
    the new one has no hooks; then the limit on the whole call remains.
    """
    from huggingface_hub.utils import get_session

    session = get_session()
    with _lock:
        _users[id(session)] = _users.get(id(session), 0) + 1
        if _users[id(session)] == 1:
            _set_hooks(session, add=True)
    try:
        yield
    finally:
        with _lock:
            _users[id(session)] -= 1
            if not _users[id(session)]:
                del _users[id(session)]
                _set_hooks(session, add=False)


def _set_hooks(session: Any, *, add: bool) -> None:
    hooks = {kind: list(present) for kind, present in session.event_hooks.items()}
    for kind, hook in (("request", _on_request), ("response", _on_response)):
        present = [other for other in hooks.get(kind, []) if other is not hook]
        hooks[kind] = [*present, hook] if add else present
    # New lists in one assignment: another thread may be walking through the old ones.
    session.event_hooks = hooks


def _on_request(request: Any) -> None:
    watch = _watch.get()
    if watch is None:
        return
    if watch.given_up:
        raise HubUnavailableError("This call was given up, and sends nothing any more.")
    # A shorter limit that the client has set itself stays.
    own = request.extensions.get("timeout") or {}
    limits = {
        kind: watch.timeout if own.get(kind) is None else min(own[kind], watch.timeout)
        for kind in ("connect", "read", "write", "pool")
    }
    request.extensions = {**request.extensions, "timeout": limits}


def _on_response(response: Any) -> None:
    if _watch.get() is None:
        return
    for name in ("etag", "x-linked-etag"):
        # huggingface_hub names a file of its cache after it, and asks no further.
        if _LEAVES_ITS_FOLDER.search(response.headers.get(name, "").removeprefix("W/")):
            raise UnsafeFileError(
                f"{response.request.url.host} names a file {response.headers[name]!r}, which leaves the cache.",
                fix="Check HF_ENDPOINT: this is no Hub to be trusted.",
            )
    if response.status_code in _OVERLOADED:
        from huggingface_hub.utils import hf_raise_for_status

        response.read()
        hf_raise_for_status(response)
