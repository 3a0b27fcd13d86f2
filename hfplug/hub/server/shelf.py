"""All repos under one root, and who may add, move and delete them on the disk.

ROOT/repos/models--alice--name/     a repo (see repo.py); lower case, since names differ by more than their case
ROOT/trash/0123456789abcdef/        on its way in or out; deleted at the next start
ROOT/.lock                          held by the one process that may write

A repo is made in the trash and then renamed, so whatever lies in ``repos`` and is no repo is not ours to delete.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hfplug.adapters import atomic
from hfplug.errors import HubConflictError
from hfplug.hub.server.names import check_repo_name
from hfplug.hub.server.repo import Repo, gone
from hfplug.hub.server.root import claim, make_private
from hfplug.hub.server.routing import Refusal

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_TRASH = re.compile(r"[0-9a-f]{16}")


class Shelf:
    """The repos under one root.

    Args:
        root: The folder, which is marked as a Hub's (see root.py).
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.RLock()
        self._repos: dict[tuple[str, str], Repo] = {}
        self._load()

    def _load(self) -> None:
        self._repos.clear()
        folders = self.root / "repos"
        for folder in sorted(folders.iterdir()) if folders.is_dir() else ():
            if not (folder / "state.json").is_file():
                continue
            try:
                repo = Repo(folder)
            except (OSError, ValueError, RecursionError) as error:
                logger.error("%s is damaged, and not served: %s", folder / "state.json", error)
                continue
            key = (repo.type, repo.id.lower())
            if key in self._repos and folder != self._place(repo.type, repo.id):
                logger.warning("%s is a copy of %s %s, and not served", folder, repo.type, repo.id)
                continue
            self._repos[key] = repo

    def tidy(self) -> None:
        """Read all again and put right what a killed process left. Only by the one process that may write."""
        make_private(self.root / "repos")
        make_private(self.root / "trash")
        self._load()
        for folder in (self.root / "trash").iterdir():
            if _TRASH.fullmatch(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
            else:
                logger.warning("%s is none of this Hub's; it is left alone", folder)
        for folder in (self.root / "repos").iterdir():
            if not (folder / "state.json").is_file():
                logger.warning("%s is no repo (state.json is missing); it is left alone", folder)
        for repo in list(self._repos.values()):
            repo.objects.sweep()
            place = self._place(repo.type, repo.id)
            if repo.folder != place and not place.exists():  # killed while it was being moved
                os.rename(repo.folder, place)
                self._repos[repo.type, repo.id.lower()] = Repo(place)

    def find(self, type: str, id: str) -> Repo | None:
        """A repo by its type and id, in any case; None if there is none."""
        return self._repos.get((type, id.lower()))

    def all(self, type: str) -> list[Repo]:
        """Every repo of a type, in the order of their ids."""
        with self._lock:
            return [repo for key, repo in sorted(self._repos.items()) if key[0] == type]

    def create(self, type: str, owner: str, name: str, **more: Any) -> Repo:
        """Make a repo.

        Raises:
            Refusal: The name cannot be one (400), or there is such a repo (409).
        """
        id = f"{check_repo_name(owner)}/{check_repo_name(name)}"
        with self._lock:
            if self.find(type, id) is not None:
                raise Refusal(409, "You already created this repo")
            draft = self.draft()
            try:
                Repo.create(draft, type=type, id=id, **more)
                return self.adopt(draft)
            finally:
                shutil.rmtree(draft, ignore_errors=True)  # there only if something failed

    def draft(self) -> Path:
        """A name under the root for a folder that is to become a repo."""
        make_private(self.root / "repos")
        make_private(self.root / "trash")
        return self.root / "trash" / secrets.token_hex(8)

    def adopt(self, folder: Path) -> Repo:
        """Take in a whole repo that lies in a folder under the same root, by renaming that folder."""
        with self._lock:
            found = Repo(folder)
            place = self._place(found.type, found.id)
            if self.find(found.type, found.id) is not None:
                raise Refusal(409, f"there is a {found.type} {found.id!r} already")
            _refuse_if_there(place)
            os.rename(folder, place)
            atomic.sync_folder(place.parent)
            self._repos[found.type, found.id.lower()] = repo = Repo(place)
        return repo

    def move(self, repo: Repo, id: str) -> Repo:
        """Give a repo another id; links to the old one stop working.

        Raises:
            Refusal: The name cannot be one (400), or there is such a repo (409).
        """
        owner, _, name = id.partition("/")
        check_repo_name(owner)
        check_repo_name(name)
        with self._lock, repo.lock:
            if repo.gone:
                raise gone()
            old_key, key = (repo.type, repo.id.lower()), (repo.type, id.lower())
            if key != old_key and key in self._repos:
                raise Refusal(409, f"there is a {repo.type} {id!r} already")
            if key != old_key:
                _refuse_if_there(self._place(repo.type, id))
            with repo.changing() as state:
                state["id"] = id
            place = self._place(repo.type, id)
            if place != repo.folder:
                os.rename(repo.folder, place)
                atomic.sync_folder(place.parent)
            repo.gone = True
            del self._repos[old_key]
            self._repos[key] = moved = Repo(place)
        return moved

    def delete(self, repo: Repo) -> None:
        """Delete a repo with all its contents."""
        with self._lock, repo.lock:
            if repo.gone:
                raise gone()
            del self._repos[repo.type, repo.id.lower()]
            trash = self.draft()
            os.rename(repo.folder, trash)
            repo.gone = True
            atomic.sync_folder(self.root / "repos")
        shutil.rmtree(trash, ignore_errors=True)

    def _place(self, type: str, id: str) -> Path:
        return self.root / "repos" / f"{type}s--{id.replace('/', '--')}".lower()


def _refuse_if_there(place: Path) -> None:
    if os.path.lexists(place):
        raise Refusal(409, f"the folder {place.name} of this Hub holds something that is no repo; its log says what")


@contextlib.contextmanager
def sole_writer(root: Path) -> Iterator[None]:
    """Hold the root for this process, making it if it is not there; the lock goes with the process, however it ends.

    Raises:
        HubConflictError: Another process holds it, or it is a folder of somebody else's (see root.py).
    """
    claim(root)
    with open(root / ".lock", "ab") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise HubConflictError(
                    f"{root} is being served by another process; a Hub on loopback is one process.",
                    fix="Stop that process first, or use its address.",
                ) from None
        yield
