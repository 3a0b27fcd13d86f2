"""A commit: the files of a repo at one moment, named after its own content.

The name is the first 40 hex digits of the sha256 of the commit's JSON, which holds the sha256 of every file and
the names of its parents. Nothing in a history can be changed without its name changing, which is what export
and import check. (The client wants 40 digits, as git has. These are no git objects.)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

OID = re.compile(r"[0-9a-f]{40}")
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
SHORT_OID = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class File:
    """One file of a commit.

    Args:
        sha256: Of its content. size: In bytes.
        blob: The git name of its content, or of the LFS pointer that stands for it: what the client calls ``oid``.
        kind: ``"regular"`` (the client compares ``blob``) or ``"lfs"`` (it compares ``sha256``).
    """

    sha256: str
    size: int
    blob: str
    kind: Literal["regular", "lfs"]

    @classmethod
    def regular(cls, data: bytes) -> File:
        """A small file, by its content."""
        return cls(hashlib.sha256(data).hexdigest(), len(data), git_blob(data), "regular")

    @classmethod
    def large(cls, sha256: str, size: int) -> File:
        """A file whose content is in the store already."""
        return cls(sha256, size, git_blob(pointer(sha256, size)), "lfs")

    @property
    def pointer_size(self) -> int:
        """Bytes of the LFS pointer."""
        return len(pointer(self.sha256, self.size))


@dataclass(frozen=True)
class Commit:
    """The files of a repo at one moment.

    Args:
        parents: Names of the commits before it; none for the first, two for a merge.
        author: A user name. date: ISO 8601 in UTC, to the millisecond. title, message: As the client sent them.
        files: Path to file.
    """

    parents: tuple[str, ...]
    author: str
    date: str
    title: str
    message: str
    files: Mapping[str, File]

    def to_bytes(self) -> bytes:
        """The JSON that its name is made from."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Commit:
        """A commit from its JSON.

        Raises:
            ValueError: It is no commit.
        """
        try:
            value: dict[str, Any] = json.loads(data)
            files = {path: File(**file) for path, file in value.pop("files").items()}
            commit = cls(parents=tuple(value.pop("parents")), files=files, **value)
            commit._check()
            return commit
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a commit: {error}") from error

    def _check(self) -> None:
        texts = (self.author, self.date, self.title, self.message, *self.parents)
        if not all(isinstance(text, str) for text in texts) or not _DATE.fullmatch(self.date):
            raise ValueError("not a commit: a value is of the wrong kind")
        for path, file in self.files.items():
            known = isinstance(file.sha256, str) and isinstance(file.blob, str) and OID.fullmatch(file.blob)
            if not known or type(file.size) is not int or file.size < 0 or file.kind not in ("regular", "lfs"):
                raise ValueError(f"not a commit: {path!r} is not described as a file is")


def name_of(data: bytes) -> str:
    """The 40 hex digits that name a commit with this JSON."""
    return hashlib.sha256(data).hexdigest()[:40]


def git_blob(data: bytes) -> str:
    """The name that git gives to a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def git_blob_hash(size: int) -> Any:
    """A hash that gives ``git_blob`` of a content of ``size`` bytes that comes piece by piece."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def pointer(sha256: str, size: int) -> bytes:
    """The text that git keeps in place of a large file (git-lfs specification, version 1)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def folder_oid(files: Mapping[str, File], prefix: str) -> str:
    """A name for the content of a folder: equal for equal contents."""
    inside = sorted((path, file.blob) for path, file in files.items() if path.startswith(prefix))
    return hashlib.sha1(repr(inside).encode(), usedforsecurity=False).hexdigest()
