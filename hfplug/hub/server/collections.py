"""Collections: named lists of repos, one small file each."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hfplug.adapters import atomic
from hfplug.hub.server.repo import now
from hfplug.hub.server.root import make_private
from hfplug.hub.server.routing import Refusal

logger = logging.getLogger(__name__)

_KINDS = {"id": str, "owner": str, "title": str, "updated_at": str, "items": list}
_ID = re.compile(r"[0-9a-f]{24}")


class Collections:
    """The collections of one Hub.

    Args:
        root: Its folder; ``collections/ID.json`` in it is one collection.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / "collections"
        self._lock = threading.Lock()
        make_private(self._folder)

    def all(self) -> list[dict[str, Any]]:
        """Every collection, the newest change first."""
        found = [_read(path) for path in self._folder.glob("*.json") if _ID.fullmatch(path.stem)]
        return sorted((one for one in found if one), key=lambda one: one["updated_at"], reverse=True)

    def find(self, owner: str, slug: str) -> dict[str, Any] | None:
        """A collection by its address; only the id at the end of it counts, as titles may change."""
        id = slug.rpartition("-")[2]
        path = self._folder / f"{id}.json"
        if not _ID.fullmatch(id) or not path.is_file():
            return None
        found = _read(path)
        return found if found and found["owner"].lower() == owner.lower() else None

    def create(self, owner: str, title: str, *, description: str | None, private: bool) -> dict[str, Any]:
        """Make a collection.

        Raises:
            Refusal: The owner has one of this title (409, with its ``slug``).
        """
        with self._lock:
            for one in self.all():
                if one["owner"].lower() == owner.lower() and one["title"] == title:
                    raise Refusal(409, "you have a collection of this title", body={"slug": slug_of(one)})
            made: dict[str, Any] = {
                "id": secrets.token_hex(12), "owner": owner, "title": title, "description": description,
                "private": private, "theme": "purple", "position": 0, "updated_at": now(), "items": [],
            }  # fmt: skip
            self._write(made)
        return made

    @contextlib.contextmanager
    def changing(self, owner: str, slug: str) -> Iterator[dict[str, Any]]:
        """A collection to change; it is on the disk when the block ends well.

        Raises:
            Refusal: There is none (404).
        """
        with self._lock:
            found = self.find(owner, slug)
            if found is None:
                raise Refusal(404, "there is no such collection")
            yield found
            found["updated_at"] = now()
            self._write(found)

    def delete(self, owner: str, slug: str) -> None:
        """Delete a collection, not the repos in it."""
        with self._lock:
            found = self.find(owner, slug)
            if found is not None:
                (self._folder / f"{found['id']}.json").unlink(missing_ok=True)
                atomic.sync_folder(self._folder)

    def _write(self, one: dict[str, Any]) -> None:
        atomic.write_json(self._folder / f"{one['id']}.json", one)


def slug_of(one: dict[str, Any]) -> str:
    """``owner/title-in-lower-case-ID``."""
    words = re.sub(r"[^a-z0-9]+", "-", one["title"].lower()).strip("-")[:60].strip("-")
    return f"{one['owner']}/{words + '-' if words else ''}{one['id']}"


def _read(path: Path) -> dict[str, Any] | None:
    """A collection; None for a damaged file, so that the others are listed all the same."""
    try:
        one = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(one[key], kind) for key, kind in _KINDS.items()):
            raise ValueError("a value is of another kind")
        return one
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        logger.error("%s is damaged, and not served: %s", path, error)
        return None
