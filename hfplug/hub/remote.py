"""What a repo holds now: its head, its files by hash, and the commits that parcels of ours made."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from hfplug.adapters.files import CARD
from hfplug.errors import HubConflictError
from hfplug.hub.client import HubClient

if TYPE_CHECKING:
    from hfplug.hub.parcel import FileSum

# A line of a commit's description. It tells a commit of ours from one with the same title.
_LINE = "hfplug-parcel: "
# How far back a commit is looked for whose answer was lost.
_COMMITS = 50
_PULL_REQUESTS = 10


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub describes it.

    Attributes:
        size: In bytes.
        blob: Its git name; for an LFS file that of the pointer.
        sha256: Of an LFS file's content, else None.
    """

    size: int | None
    blob: str | None
    sha256: str | None

    def holds(self, file: Path, total: FileSum) -> bool:
        """Whether it has the same content as a local file."""
        if self.sha256 is not None:
            return self.sha256 == total.sha256
        return self.size == total.size and self.blob == git_blob(file.read_bytes())


@dataclass(frozen=True)
class Head:
    """A branch at one moment.

    Attributes:
        commit: What it points to.
        files: Path to what is there.
        private: Whether the repo is.
    """

    commit: str
    files: Mapping[str, RemoteFile] = field(repr=False)
    private: bool = False

    __hash__ = None  # type: ignore[assignment]  # it holds a mapping


def git_blob(content: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def read_head(client: HubClient, repo_id: str, branch: str) -> Head:
    """The head of a branch and its files, in one request, so that they belong together."""
    info = client.call(client.api.model_info, repo_id, revision=branch, files_metadata=True)
    files = {}
    for sibling in info.siblings or ():
        sha256 = str(sibling.lfs.sha256) if sibling.lfs else None
        files[sibling.rfilename] = RemoteFile(sibling.size, sibling.blob_id, sha256)
    return Head(str(info.sha), files, bool(info.private))


def open_branch(client: HubClient, repo_id: str, branch: str, private: str | None) -> Head:
    """The head of a branch of a repo; both are made if they are not there.

    Raises:
        HubConflictError: The repo is there and public, and ``private`` is ``"on"``.
    """
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        head = read_head(client, repo_id, branch)
    except RepositoryNotFoundError as error:
        if type(error) is not RepositoryNotFoundError:
            raise  # gated: it is there
        visibility = None if private is None else private == "on"
        client.call(client.api.create_repo, repo_id, private=visibility, exist_ok=True)
        head = _read_or_make_branch(client, repo_id, branch)
    except RevisionNotFoundError:
        head = _read_or_make_branch(client, repo_id, branch)
    if private == "on" and not head.private:
        raise HubConflictError(
            f"{repo_id} is there already and everybody can read it; a private one was asked for.",
            fix=f"Make it private at {client.endpoint}/{repo_id}/settings, or push to another name.",
        )
    return head


def _read_or_make_branch(client: HubClient, repo_id: str, branch: str) -> Head:
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return read_head(client, repo_id, branch)
    except RevisionNotFoundError:
        if branch == "main" or branch.startswith("refs/"):
            raise
        client.call(client.api.create_branch, repo_id, branch=branch, exist_ok=True)
        return read_head(client, repo_id, branch)


def read_card(client: HubClient, repo_id: str, head: Head) -> bytes | None:
    """The README at a head, or None if there is none."""
    if CARD not in head.files:
        return None
    # A cache of its own: the user's keeps old copies, and answers with one when the Hub does not.
    with tempfile.TemporaryDirectory(prefix="hfplug-card-") as cache:
        path = client.call(
            client.api.hf_hub_download,
            repo_id,
            CARD,
            revision=head.commit,
            cache_dir=cache,
            etag_timeout=client.timeout,
        )
        return Path(path).read_bytes()


# ------------------------------------------------------------------------------------------------ commits


def describe(parcel_id: str) -> str:
    """The description of a commit that sends this parcel."""
    return f"{_LINE}{parcel_id}"


def find_commit(
    client: HubClient, repo_id: str, branch: str, parcel_id: str, *, until: str | None = None
) -> str | None:
    """The newest commit that sent this parcel.

    Args:
        client: For the Hub.
        repo_id: The repo.
        branch: Where it would be.
        parcel_id: Of the parcel.
        until: A commit that it must have come after; the last 50 are looked at in any case.
    """
    from huggingface_hub.utils import build_hf_headers, paginate

    address = f"{client.endpoint}/api/models/{repo_id}/commits/{quote(branch, safe='')}"
    headers = build_hf_headers(token=client.token, library_name="hfplug")
    # list_repo_commits would read the whole history, page after page.
    commits = client.call(lambda: list(itertools.islice(paginate(address, params={}, headers=headers), _COMMITS)))
    for commit in commits:
        if commit["id"] == until:
            return None
        lines = f"{commit.get('title') or ''}\n{commit.get('message') or ''}".splitlines()
        if describe(parcel_id) in (line.strip() for line in lines):
            return str(commit["id"])
    return None


def find_pull_request(client: HubClient, repo_id: str, parcel_id: str) -> tuple[int, str] | None:
    """Number and commit of an open pull request that sent this parcel."""
    refs = client.call(client.api.list_repo_refs, repo_id, include_pull_requests=True).pull_requests or []
    numbers = sorted(
        (int(ref.ref.rsplit("/", 1)[1]) for ref in refs if ref.ref.rsplit("/", 1)[1].isdigit()), reverse=True
    )
    for number in numbers[:_PULL_REQUESTS]:
        commit = find_commit(client, repo_id, f"refs/pr/{number}", parcel_id)
        if commit is not None:
            details = client.call(client.api.get_discussion_details, repo_id, number)
            if details.status in ("open", "draft"):
                return number, commit
    return None


def takes_xet(client: HubClient, repo_id: str, branch: str, *, create_pr: str = "off", kind: str = "model") -> bool:
    """Whether large files can go by Xet. The client never asks, and fails on a Hub without it.

    Args:
        client: For the Hub.
        repo_id: Where they would go.
        branch: To which branch.
        create_pr: ``"on"`` asks as who opens a pull request, and may not write to the branch.
        kind: Of the repo: ``"model"``, ``"dataset"`` or ``"space"``.
    """
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status
    from huggingface_hub.utils._runtime import is_xet_available

    if not is_xet_available():
        return False
    address = f"{client.endpoint}/api/{kind}s/{repo_id}/xet-write-token/{quote(branch, safe='')}"
    headers = build_hf_headers(token=client.token, library_name="hfplug")
    params = {"create_pr": "1"} if create_pr == "on" else None
    response = client.call(lambda: get_session().get(address, headers=headers, params=params))
    if response.status_code == 404:
        return False
    hf_raise_for_status(response)
    return True
