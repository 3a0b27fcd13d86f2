"""The root of a Hub: a folder that is marked as ours, since what lies in it is deleted and rewritten.

ROOT/hub.json       the mark; written first, into a new folder or an empty one
ROOT/…              readable by the user who made it alone: private repos lie in it
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from hfplug.adapters import atomic
from hfplug.errors import HubConflictError, HubNotFoundError
from hfplug.hub.server.store import make_folder

MARK = "hub.json"
FORMAT = 1
_PRIVATE = 0o700


def claim(root: Path) -> None:
    """Make a Hub's root, or see that a folder is one.

    Raises:
        HubConflictError: The folder holds something and is not marked; nothing in it was touched.
    """
    if (root / MARK).is_file():
        check_mark(root)
        return
    if root.exists() and not root.is_dir():
        raise HubConflictError(f"{root} is a file; a Hub needs a folder.", fix="Pass a new folder.")
    if root.is_dir():
        foreign = sorted(entry.name for entry in os.scandir(root) if not atomic.is_temporary(entry.name))
        if foreign:
            raise HubConflictError(
                f"{root} is no folder of a Hub ({MARK} is not in it) and is not empty: it holds {foreign[0]!r}.",
                fix="Pass a new folder or an empty one.",
            )
    else:
        make_folder(root.parent)
        root.mkdir(mode=_PRIVATE, exist_ok=True)
        atomic.sync_folder(root.parent)
    atomic.write_json(root / MARK, {"made_by": "hfplug", "format": FORMAT})


def check_mark(root: Path) -> None:
    """See that a folder is the root of a Hub; nothing is written.

    Raises:
        HubNotFoundError: It is none.
        HubConflictError: It was written by another version.
    """
    try:
        mark = json.loads((root / MARK).read_text(encoding="utf-8"))
        made_by, format = mark["made_by"], mark["format"]
    except (OSError, ValueError, KeyError, TypeError):
        made_by = format = None
    if made_by != "hfplug":
        raise HubNotFoundError(f"{root} is no folder of a Hub.", fix="Pass --root with the folder that is served.")
    if format != FORMAT:
        raise HubConflictError(
            f"{root} was written by another version of hfplug (format {format}).", fix="Use that version."
        )


def make_private(folder: Path) -> None:
    """Make a folder in a root, for its owner alone: the root itself may be one that others can enter."""
    if not folder.is_dir():
        folder.mkdir(mode=_PRIVATE, exist_ok=True)
        atomic.sync_folder(folder.parent)
