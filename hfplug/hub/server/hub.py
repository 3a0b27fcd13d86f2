"""What the handlers share: the repos, the users, and the questions of who may do what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hfplug.hub.server.access import Access, signing_key
from hfplug.hub.server.collections import Collections
from hfplug.hub.server.repo import Repo
from hfplug.hub.server.root import claim
from hfplug.hub.server.routing import Call, Refusal
from hfplug.hub.server.shelf import Shelf
from hfplug.hub.server.tickets import Tickets
from hfplug.hub.server.xet_store import XorbStore


class Hub:
    """One Hub.

    Args:
        root: Its folder.
        tokens: Tokens and their users, beside those stored in the folder.
        page_size: Rows of one page of a listing.
        part_size: Bytes of one part of an upload through LFS; a larger file is sent in several.

    Attributes:
        shelf: Its repos. access: Its users. tickets: Signed permissions for one thing.
        collections: Its collections. xorbs: What came through Xet.
    """

    def __init__(
        self,
        root: Path,
        *,
        tokens: Mapping[str, str] | None = None,
        page_size: int = 1000,
        part_size: int = 64 << 20,
    ) -> None:
        claim(root)
        self.root = root
        self.shelf = Shelf(root)
        self.access = Access(root, tokens)
        self.tickets = Tickets(signing_key(root))
        self.collections = Collections(root)
        self.xorbs = XorbStore(root / "xet")
        self.page_size, self.part_size = page_size, part_size


def readable(call: Call) -> Repo:
    """The repo that a call names, if the caller may know of it.

    Raises:
        Refusal: Not there or private: 401 without a token, 404 with one. Both look alike, so that nobody learns
            which private repos exist.
    """
    kind = call.names.get("types", "models").removesuffix("s")
    repo = call.hub.shelf.find(kind, f"{call.names.get('owner', '')}/{call.names['name']}")
    if repo is None or (repo.is_private and not is_owner(repo, call.user)):
        if call.user is None:
            raise Refusal(401, "Repository not found, or private: pass a token", code="RepoNotFound")
        raise Refusal(404, "Repository not found", code="RepoNotFound")
    call.repo = repo
    return repo


def signed_in(call: Call) -> str:
    """The caller's name.

    Raises:
        Refusal: There is no token (401).
    """
    if call.user is None:
        raise Refusal(401, "Invalid username or password: this call needs a token")
    return call.user


def writable(call: Call) -> Repo:
    """The repo that a call names, if the caller may change it.

    Raises:
        Refusal: As ``readable``; without a token 401; it is somebody else's, 403.
    """
    repo = readable(call)
    user = signed_in(call)
    if not is_owner(repo, user):
        raise Refusal(403, f"{repo.type} {repo.id!r} belongs to another user; open a pull request (create_pr) instead")
    return repo


def contributable(call: Call) -> Repo:
    """The repo that a call names, if the caller may open a pull request: anybody who may read it, with a token.

    Raises:
        Refusal: As ``readable``; without a token 401.
    """
    repo = readable(call)
    signed_in(call)
    return repo


def check_not_gated(repo: Repo, user: str | None) -> None:
    """Whether somebody who may know of a repo may have its files.

    Raises:
        Refusal: It is gated (GatedRepo): 401 without a token, 403 for somebody who was not let in.
    """
    if not repo.state["gated"] or is_owner(repo, user) or (user or "").lower() in repo.state["granted"]:
        return
    text = f"Access to {repo.type} {repo.id} is restricted: its owner has to let you in"
    raise Refusal(401 if user is None else 403, text, code="GatedRepo")


def is_owner(repo: Repo, user: str | None) -> bool:
    """Whether a repo is this user's."""
    return user is not None and repo.owner.lower() == user.lower()
