"""Which names repos, branches and files may have. None of them ever becomes a path on disk as it came."""

from __future__ import annotations

import re

from hfplug.hub.server.routing import Refusal

TYPES = ("model", "dataset", "space")
_REPO = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_BAD_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(/|$)|(^|/)\.|\.(/|$)")


def check_repo_name(name: str) -> str:
    """A user's or a repo's name, as the Hub allows them.

    Raises:
        Refusal: It is none (400).
    """
    if not _REPO.fullmatch(name) or "--" in name or ".." in name or name.endswith((".git", ".ipynb")):
        raise Refusal(
            400,
            f"{name[:100]!r} cannot be the name of a user or a repo: letters, digits, '-', '_' and '.', at most 96,"
            " no '--', no '..', and neither '-' nor '.' at either end",
        )
    return name


def check_ref(name: str) -> str:
    """The name of a branch or a tag, by git's rules.

    Raises:
        Refusal: It is none (400).
    """
    if not name or len(name) > 200 or name.startswith(("/", "-")) or name.endswith("/") or _BAD_IN_REF.search(name):
        raise Refusal(400, f"{name[:100]!r} cannot be the name of a branch or a tag")
    if re.fullmatch(r"[0-9a-f]{40}", name) or name.startswith("refs/"):
        raise Refusal(400, f"{name!r} cannot be the name of a branch or a tag: it reads as a commit or a reference")
    return name


def check_path(path: str) -> str:
    """The path of a file in a repo: relative, with ``/``, and inside.

    Raises:
        Refusal: It is none (400).
    """
    parts = path.split("/")
    if len(path) > 1024 or any(part in ("", ".", "..") or part.lower() == ".git" for part in parts):
        raise Refusal(400, f"{path[:200]!r} cannot be the path of a file in a repo")
    # A backslash or a drive letter is a way out of the folder for whoever downloads this on Windows.
    if "\\" in path or re.match(r"[A-Za-z]:", path) or any(ord(letter) < 32 or ord(letter) == 127 for letter in path):
        raise Refusal(400, f"{path[:200]!r} cannot be the path of a file in a repo")
    return path
