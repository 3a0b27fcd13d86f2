"""A new folder that is whole or not there: built beside its place, and put there in one step."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from hfplug.adapters import atomic
from hfplug.adapters.files import refuse_taken
from hfplug.errors import AdapterError


@contextlib.contextmanager
def built_at(place: Path, what: str) -> Iterator[Path]:
    """A folder to fill; at the end of the block it is at ``place``, and if the block fails there is nothing.

    Args:
        place: Where it belongs; may not exist, or be an empty folder.
        what: What it is, for the message.

    Raises:
        AdapterError: It cannot be written, because the disk is full, say.
    """
    building = None
    try:
        building = atomic.make_temporary_folder(place)
        yield building
        atomic.sync_tree(building)
        old = atomic.replace_folder(building, place)
    except BaseException as error:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)
        # safetensors has an error of its own for a disk that is full.
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        raise AdapterError(
            f"{what} cannot be written to {place}: {error}.",
            fix="Nothing was left there. Make room, or pass a folder on another disk.",
        ) from error
    if old is not None:
        old.rmdir()  # it was empty


def place_for(out: str | os.PathLike[str], read: Iterable[str | os.PathLike[str]]) -> Path:
    """Where a new folder goes, if nothing lies there and it is not inside one that is read.

    Args:
        out: What the user passed.
        read: Folders that are read, or repo ids.

    Raises:
        AdapterError: Something lies there, or it is inside one of them.
    """
    place = Path(os.path.realpath(out))
    for one in read:
        folder = Path(os.path.realpath(one))
        if folder.is_dir() and place != folder and place.is_relative_to(folder):
            raise AdapterError(
                f"{place} is inside {folder}, which is only read.", fix="Pass a folder beside it, or somewhere else."
            )
    refuse_taken(place)
    return place


def refuse_full_disk(place: Path, size: int, what: str) -> None:
    """Refuse to begin what the disk has no room for.

    Args:
        place: A folder on it. size: Bytes that are needed. what: For the message.

    Raises:
        AdapterError: There is less.
    """
    free = shutil.disk_usage(place).free
    if free < size:
        raise AdapterError(
            f"{what} needs {size:,} bytes and {place.parent} has {free:,} left.",
            fix="Make room, or pass a folder on another disk.",
        )
