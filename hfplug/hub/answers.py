"""What went wrong at a Hub or on the way there, as an error that says what to type.

The client raises errors of three libraries (its own, httpx under changing names, and ``hf_xet``), wraps some in
``RuntimeError`` or ``ValueError``, and quotes what the server said. Here each becomes one child of ``HubError``.
"""

from __future__ import annotations

import datetime
import email.utils
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hfplug.adapters.record import scrub
from hfplug.errors import (
    HubAccessError,
    HubConflictError,
    HubError,
    HubNotFoundError,
    HubQuotaError,
    HubRejectedError,
    HubUnavailableError,
)

_LOGIN = "Type: hf auth login (or set HF_TOKEN)"
# hf_xet raises builtin errors for most of what goes wrong at its content server.
_XET = re.compile(r"\b(xet|cas)\b", re.I)
_LONGEST_QUOTE = 300  # characters of what a server said
_LONGEST_WAIT_SECONDS = 24 * 3600.0


def hub_error(
    error: BaseException,
    *,
    action: str,
    repo_id: str | None = None,
    endpoint: str | None = None,
    signed_in: bool | None = None,
    clean: Callable[[str], str] = str,
) -> HubError | None:
    """The ``HubError`` that says the same as an exception of the client.

    Args:
        error: What was raised.
        action: What was being done, e.g. ``"push to alice/my-adapter"``.
        repo_id: The repo, to be named in what to type.
        endpoint: Address of the Hub.
        signed_in: Whether the request carried a token; None if that is not known.
        clean: Takes the token in use out of a text that is quoted.

    Returns:
        The error, or None if ``error`` has nothing to do with a Hub or the network.
    """
    from huggingface_hub.errors import HfHubHTTPError

    about = _About(action, repo_id, endpoint or "the Hub", signed_in, lambda text: scrub(clean(text)))
    chain = list(_chain(error))
    if any("Invalid metadata in README.md" in str(link) for link in chain):
        said = about.quote(str(chain[0]).partition("README.md.")[2].replace("\n- ", " "))
        return about.make(HubRejectedError, f"the card is not valid{said}", fix="Correct the README's front matter.")
    for link in chain:
        if isinstance(link, HubError):
            return link
        if isinstance(link, HfHubHTTPError) and getattr(link, "response", None) is not None:
            return _from_answer(link, about)
    for link in chain:
        if made := _without_answer(link, about):
            return made
    return None


class _About:
    """What a message needs to know about the call."""

    def __init__(
        self, action: str, repo_id: str | None, endpoint: str, signed_in: bool | None, clean: Callable[[str], str]
    ) -> None:
        self.action = action
        self.repo_id = repo_id
        self.endpoint = endpoint
        self.signed_in = signed_in
        self.clean = clean

    @property
    def repo(self) -> str:
        return self.repo_id or "this repo"

    def make(self, kind: type[HubError], why: str, **parts: Any) -> HubError:
        return kind(f"Cannot {self.action} at {self.endpoint}: {why.rstrip('.')}.", **parts)

    def quote(self, text: object) -> str:
        """What a server said, on one line, without control characters or a token, to be put behind a sentence."""
        # Control characters go first: one inside a token would hide it from the search for tokens.
        line = "".join(letter for letter in " ".join(str(text or "").split()) if letter.isprintable())
        line = self.clean(line)
        return f" ({line[:_LONGEST_QUOTE].rstrip('.')})" if line else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what caused it, outermost first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _from_answer(error: Any, about: _About) -> HubError:
    """An answer with an error status."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = error.response.status_code
    said = about.quote(getattr(error, "server_message", None) or error.response.headers.get("X-Error-Message"))
    if isinstance(error, GatedRepoError):
        fix = f"Ask for access at {about.endpoint}/{about.repo_id or ''} and then type: hf auth login"
        return about.make(
            HubAccessError, f"{about.repo} is gated, and this token has no access", fix=fix, status=status
        )
    if isinstance(error, RevisionNotFoundError):
        fix = f"Its branches, tags and commits: {about.endpoint}/{about.repo_id or ''}/commits/main"
        return about.make(HubNotFoundError, f"{about.repo} has no such branch, tag or commit", fix=fix, status=status)
    if isinstance(error, EntryNotFoundError):
        return about.make(HubNotFoundError, f"{about.repo} has no such file{said}", status=status)
    if isinstance(error, RepositoryNotFoundError):
        if about.signed_in:
            fix = "Check the spelling, and that the token belongs to somebody who may see it."
            why = f"there is no {about.repo}, or it is private and not yours"
            return about.make(HubNotFoundError, why, fix=fix, status=status)
        why = f"there is no {about.repo}, or it is private and there is no token"
        return about.make(HubAccessError, why, fix=f"Check the spelling. {_LOGIN}", status=status)
    return _from_status(status, said, error, about)


def _from_status(status: int, said: str, error: Any, about: _About) -> HubError:
    if status == 401:
        why = "it needs a token" if about.signed_in is False else "it does not accept the token"
        return about.make(HubAccessError, f"{why}{said}", fix=_LOGIN, status=status)
    if status == 403:
        access = "read" if about.action.startswith("pull") else "write"
        fix = f"Make a token with {access} access to it at {about.endpoint}/settings/tokens and type: hf auth login"
        return about.make(HubAccessError, f"the token may not do that{said}", fix=fix, status=status)
    if status == 404:
        return about.make(HubNotFoundError, f"there is no such thing{said}", fix="Check the spelling.", status=status)
    if status in (409, 412):
        fix = "Look at what came in between, then push again."
        return about.make(HubConflictError, f"it was changed in between{said}", fix=fix, status=status)
    if status in (402, 413, 507):
        whys = {402: "the plan of the account does not allow it", 413: "it is too large for this Hub"}
        fix = "Make the adapter smaller (--dtype bfloat16, a smaller rank), or ask whoever runs the Hub."
        if status != 413:
            fix = f"Free some storage or look at the plan: {about.endpoint}/settings/billing"
        why = whys.get(status, "its storage is full")
        return about.make(HubQuotaError, f"{why}{said}", fix=fix, status=status)
    if status == 429:
        wait = retry_after(error.response.headers)
        fix = "Try again later." if wait is None else f"Try again in {wait:.0f} seconds."
        return about.make(HubUnavailableError, "too many requests", fix=fix, status=status, retry_after=wait)
    if status == 408 or status >= 500:
        wait = retry_after(error.response.headers)
        fix = "Try again later."
        return about.make(HubUnavailableError, f"it answers {status}{said}", fix=fix, status=status, retry_after=wait)
    return about.make(HubRejectedError, f"it refuses what was sent with {status}{said}", status=status)


def _without_answer(error: BaseException, about: _About) -> HubError | None:
    """The network, the client's own checks, or an answer that cannot be read; None if it is nothing of that."""
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    if isinstance(error, OfflineModeIsEnabled):
        made = about.make(
            HubUnavailableError, "HF_HUB_OFFLINE is set", fix="Unset HF_HUB_OFFLINE and start the program again."
        )
        made.transient = False  # it is read once, when the program starts
        return made
    if isinstance(error, LocalTokenNotFoundError):
        return about.make(HubAccessError, "there is no token", fix=_LOGIN)
    if isinstance(error, HFValidationError):
        fix = "A name is OWNER/NAME in letters, digits, '-', '_' and '.', up to 96 of them."
        return about.make(HubRejectedError, f"that is no name for a repo{about.quote(error)}", fix=fix)
    if isinstance(error, LocalEntryNotFoundError):
        return about.make(HubUnavailableError, "it cannot be reached, and there is no copy in the cache")
    library, name = type(error).__module__.split(".")[0], type(error).__name__
    if library == "hf_xet" or (type(error) in (RuntimeError, OSError) and _XET.search(str(error))):
        if isinstance(error, PermissionError):
            return about.make(HubAccessError, f"its storage does not accept the token{about.quote(error)}", fix=_LOGIN)
        return about.make(HubUnavailableError, f"its storage failed{about.quote(error)}", fix="Try again later.")
    if isinstance(error, (TimeoutError,)) or (_is_httpx(library) and "Timeout" in name):
        return about.make(HubUnavailableError, "it did not answer in time", fix="Try again later.")
    if isinstance(error, ConnectionError) or _is_httpx(library):
        fix = "Check the network and HF_ENDPOINT, or try again later."
        return about.make(HubUnavailableError, f"it cannot be reached{about.quote(error)}", fix=fix)
    if isinstance(error, ValueError) and "LFS batch API returned errors" in str(error):
        said = about.quote(re.sub(r"^.*returned errors:", "", str(error), flags=re.S))
        return about.make(HubRejectedError, f"it does not take a large file{said}")
    if isinstance(error, json.JSONDecodeError):
        fix = "Check HF_ENDPOINT, or try again later."
        return about.make(HubUnavailableError, "its answer cannot be read", fix=fix)
    return None


def _is_httpx(library: str) -> bool:
    # huggingface_hub 1 uses httpx, 2.4 its successor under the name httpx2.
    return re.fullmatch(r"httpx\d*|httpcore\d*", library) is not None


def retry_after(headers: Mapping[str, str], *, now: datetime.datetime | None = None) -> float | None:
    """Seconds that a server asks to wait, from ``Retry-After`` or the draft ``RateLimit`` header; a day at most.

    Args:
        headers: Of the answer; names are looked up as they are written or in lower case.
        now: The time, for a ``Retry-After`` that is a date.
    """
    named = {name.lower(): value for name, value in headers.items()}
    value = str(named.get("retry-after") or "").strip()
    seconds = float(value) if re.fullmatch(r"\d+(\.\d+)?", value) else _seconds_until(value, now)
    if seconds is None:
        # "api";r=0;t=55: nothing remains, for 55 seconds (IETF draft-ietf-httpapi-ratelimit-headers).
        limit = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", str(named.get("ratelimit") or ""))
        seconds = float(limit[1]) if limit else None
    # Nobody means a year, and no clock of a thread takes 10 ** 11 seconds.
    return None if seconds is None else min(seconds, _LONGEST_WAIT_SECONDS)


def _seconds_until(value: str, now: datetime.datetime | None) -> float | None:
    """From now to an HTTP date, at least 0; None if it is no date."""
    try:
        moment = email.utils.parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.timezone.utc)
        now = now or datetime.datetime.now(datetime.timezone.utc)
        return max(0.0, (moment - now).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None
