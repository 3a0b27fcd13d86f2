"""What a person types to name a repo or a folder."""

from __future__ import annotations

import re
from pathlib import Path

from hfplug.errors import AdapterError

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def parse_address(address: str | Path, revision: str | None = None) -> tuple[str | None, str | None]:
    """What an address names.

    Args:
        address: A folder, or ``"owner/name"``, ``"owner/name@revision"``, either with ``hf://`` before it.
        revision: A revision that was given apart.

    Returns:
        The repo's id (None for a folder) and the revision (None for the default branch).

    Raises:
        AdapterError: It is none of these, or names two revisions.
    """
    text = str(address)
    is_address = text.startswith("hf://")
    name, _, named = text.removeprefix("hf://").removesuffix("/").partition("@")
    is_folder = Path(text).exists() or isinstance(address, Path) or text.endswith("/")
    if not is_address and (is_folder or not _REPO_ID.fullmatch(name)):
        if revision is not None:
            raise AdapterError(f"{text!r} is a folder, and a folder has no revision.", fix=f"Type: hf://{text}")
        return None, None
    if not _REPO_ID.fullmatch(name):
        raise AdapterError(
            f"{text!r} is no address of a repo.", fix="Type: hf://OWNER/NAME or hf://OWNER/NAME@REVISION"
        )
    if named and revision and named != revision:
        raise AdapterError(f"{text!r} names another revision than {revision!r}.", fix="Pass one of them.")
    revision = revision or named or None
    if revision and (".." in revision or revision.startswith("/")):
        raise AdapterError(f"{revision!r} is no revision.", fix="Pass a branch, a tag or a commit.")
    return name, revision
