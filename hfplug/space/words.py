"""What a visitor may be told: no stack trace, no folder of this machine, no token, and nothing that could be markup."""

from __future__ import annotations

import logging
import re

from hfplug.adapters.record import REMOVED, SECRET_TEXT
from hfplug.errors import HfplugError

logger = logging.getLogger(__name__)

UNEXPECTED = "Something went wrong here; it is in the log of this Space, and the fault is not yours."
_LONGEST = 600
# An absolute path of two parts or more, which is not part of an address or of OWNER/NAME.
_PATH = re.compile(r"(?<![\w:/.@-])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\"<>]+[/\\])+([^\s/\\'\"<>]*)")


def for_people(error: BaseException) -> str:
    """What to tell a visitor about an error.

    Args:
        error: Any. One that is not ours is logged, with its trace, and a general sentence is given instead.

    Returns:
        One line of plain text. It is still to be escaped where it becomes HTML, and looks right after that too.
    """
    if not isinstance(error, HfplugError):
        logger.error("An error that nobody expected", exc_info=error)
        return UNEXPECTED
    return plain_line(str(error))


def plain_line(text: object, *, longest: int = _LONGEST) -> str:
    """A text as one line without control characters, tokens, folders of this machine and angle brackets.

    Args:
        text: It may come from whoever owns a repo or a Hub.
        longest: In characters; more are cut off.
    """
    line = "".join(letter for letter in " ".join(str(text).split()) if letter.isprintable())
    line = SECRET_TEXT.sub(REMOVED, line)
    for token in _tokens():
        line = line.replace(token, REMOVED)
    line = _PATH.sub(lambda match: match[1] or "…", line)
    line = line.replace("<", "‹").replace(">", "›")
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _tokens() -> list[str]:
    from hfplug.hub.leaks import tokens_in_use

    return [token for token in tokens_in_use() if len(token) >= 8]
