"""Every error that hfplug raises on purpose.

    HfplugError                 something a user can put right; the message says how
    ├── MethodError             a tuning method is unknown, or does not fit this model or task
    │   └── SettingError        a setting of a method is unknown, foreign, or out of its range
    ├── BaseModelError          a base cannot be found or read, or is of another kind than asked for
    ├── MissingExtraError       an optional package is needed and is not installed
    ├── DataError               rows, columns, splits or files of a data set are not as needed
    ├── AdapterError            an adapter's folder is missing, incomplete or cannot be read
    │   ├── UnsafeFileError     a file that could run code (a pickle) or that leaves its folder
    │   └── MismatchError       the adapter was made for another base, tokenizer or task
    ├── HubError                a Hub could not do what was asked; ``transient`` says whether to try again
    │   ├── HubAccessError      no token, a token that may not do this, or a gated repo (401, 403)
    │   ├── HubNotFoundError    no such repo, branch, commit or file (404)
    │   ├── HubConflictError    somebody else has pushed in between (409, 412)
    │   ├── HubQuotaError       storage or rate of the account is used up (402, 413, 507)
    │   ├── HubRejectedError    the Hub refuses what was sent, an invalid card, say (400, 422)
    │   └── HubUnavailableError the Hub cannot be reached or is overloaded (network, 408, 429, 5xx)
    ├── OutboxError             the outbox cannot be written, or pushes still wait in it
    ├── TrainingError           training would not do what was asked for; raised before it is wasted
    ├── ServingError            a variant cannot be put on, taken off or asked
    │   └── QueueFullError      too many requests wait already; ``transient``, like a Hub's
    ├── StudyError              a study or comparison cannot start or go on with these settings
    └── SpaceError              the settings of a Space are wrong, or a visitor asks for what it may not show

A message has up to three parts: what was expected, what came, and what to type instead. The command
line prints it on one line with exit code 2; ``--debug`` shows the stack trace as well.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HfplugError(Exception):
    """Base class of every error that a user can put right.

    Args:
        message: What was expected and what came instead.
        fix: What to type or to change. It is appended to the message after a space.
    """

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        self.message = message
        self.fix = fix
        super().__init__(f"{message} {fix}" if fix else message)


class MethodError(HfplugError):
    """A tuning method is unknown, or does not fit this model or this task."""


class SettingError(MethodError):
    """A setting of a tuning method is unknown, belongs to another method, or is out of range."""


class BaseModelError(HfplugError):
    """A base model cannot be found or read, or is of another kind than was asked for."""


class MissingExtraError(HfplugError):
    """An optional package is needed and is not installed.

    Args:
        package: The package as it is imported, e.g. ``"bitsandbytes"``.
        extra: The extra of hfplug that brings it, e.g. ``"qlora"``.
        needed_for: What needs it, e.g. ``"method 'qlora'"``.
    """

    def __init__(self, package: str, *, extra: str, needed_for: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed.",
            fix=f"Type: pip install 'hfplug[{extra}]'",
        )


class DataError(HfplugError):
    """The rows, columns, splits or files of a data set are not as they need to be."""


class AdapterError(HfplugError):
    """An adapter's folder is missing, incomplete, or cannot be read."""


class UnsafeFileError(AdapterError):
    """A file that could run code when read (a pickle), or a path that leaves its folder."""


class MismatchError(AdapterError):
    """An adapter was made for another base, tokenizer or task than the one at hand."""


class HubError(HfplugError):
    """A Hub could not do what was asked.

    Attributes:
        transient: Whether the same call may succeed later without anything being changed.
        retry_after: Seconds that the Hub asked to wait, or None.
        status: The HTTP status, or None if there was no answer.
    """

    transient = False

    def __init__(
        self, message: str, *, fix: str | None = None, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, fix=fix)
        self.status = status
        self.retry_after = retry_after


class HubAccessError(HubError):
    """There is no token, the token may not do this, or the repo is gated (401, 403)."""


class HubNotFoundError(HubError):
    """There is no such repo, branch, commit or file, or it is private and not yours (404)."""


class HubConflictError(HubError):
    """Somebody else has changed the repo in between (409, 412)."""


class HubQuotaError(HubError):
    """The storage or the plan of the account does not allow it (402, 413, 507)."""


class HubRejectedError(HubError):
    """The Hub refuses what was sent, for example a card that is not valid (400, 422)."""


class HubUnavailableError(HubError):
    """The Hub cannot be reached, is overloaded or did not answer in time (network, 408, 429, 5xx)."""

    transient = True


class OutboxError(HfplugError):
    """The outbox cannot be read or written, or pushes still wait in it."""


class TrainingError(HfplugError):
    """Training would not do what was asked for. Raised before the time is wasted."""


class ServingError(HfplugError):
    """A variant cannot be put onto the resident base, cannot be taken off, or cannot be asked."""


class QueueFullError(ServingError):
    """As many requests wait as are allowed to.

    Attributes:
        transient: Always true: the same request may be taken later.
    """

    transient = True


class StudyError(HfplugError):
    """A study or a comparison cannot start, or cannot go on, with these settings."""


class SpaceError(HfplugError):
    """The settings of a Space are wrong, or a visitor asks for something that it may not show."""


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """The words to add to a message about an unknown ``name``.

    Args:
        name: What the user typed.
        candidates: What could have been typed.

    Returns:
        ``"Did you mean 'x'?"`` if one candidate is close, else ``""``.
    """
    known = list(candidates)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    # "alpha" for "lora_alpha" and "rank" for "r" are further away in letters than they are in people's heads.
    close = close or [other for other in known if name in other or name.startswith(other)]
    return f"Did you mean {close[0]!r}?" if close else ""
