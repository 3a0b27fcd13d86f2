"""Send a parcel to a repo: one commit, or none if everything is there already.

How it stays at one commit, whatever happens to the answers:

1. The head of the branch and its files are read first. If they hold the parcel, that is all.
2. The commit names the head as its parent. If somebody pushed in between, the Hub refuses it (412); then the head
   is read again, the README merged again, and the commit made again, a few times.
3. The commit's description names the parcel. After an answer that says nothing (a broken connection, a timeout,
   5xx, and also 412, which a repeated request gets) the history since that parent is searched for it.

``create_commit`` is used rather than ``upload_folder``, which with Xet repeats a commit whose answer was lost.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfplug.errors import HubConflictError, HubError, HubRejectedError
from hfplug.hub.client import HubClient, translated
from hfplug.hub.leaks import refuse_tokens, tokens_in_use
from hfplug.hub.parcel import Parcel
from hfplug.hub.plan import Plan, make_plan
from hfplug.hub.remote import (
    Head,
    describe,
    find_commit,
    find_pull_request,
    open_branch,
    read_card,
    read_head,
    takes_xet,
)

MAIN = "main"
# How often a head that keeps moving is worth another commit.
_ROUNDS = 4


@dataclass(frozen=True)
class Sent:
    """What became of a push.

    Attributes:
        repo_id: The repo.
        commit: The commit that holds the parcel.
        url: Where to look at it.
        changed: Whether this call put it there; False if the repo held all of it already.
        pull_request: Number of the pull request, if one was asked for.
        notes: What whoever pushed should know.
    """

    repo_id: str
    commit: str
    url: str
    changed: bool
    pull_request: int | None = None
    notes: tuple[str, ...] = ()


def send(
    client: HubClient,
    parcel: Parcel,
    repo_id: str,
    *,
    private: str | None = None,
    revision: str | None = None,
    create_pr: str = "off",
    message: str | None = None,
    parcel_id: str | None = None,
) -> Sent:
    """Send a parcel to a repo. The same parcel may be sent any number of times; it arrives once.

    Args:
        client: For the Hub.
        parcel: What is sent.
        repo_id: ``"owner/name"``. The repo is made if it is not there.
        private: ``"on"`` or ``"off"``, for a repo that is made; None for the account's default.
        revision: Branch, made from ``main`` if it is not there; or an open pull request as ``refs/pr/N``.
        create_pr: ``"on"`` opens a pull request instead of changing the branch.
        message: First line of the commit.
        parcel_id: Unlike any other delivery's. With it, a commit that landed earlier is recognised even if others
            came on top. If not given, it follows from the content.

    Returns:
        What became of it.

    Raises:
        HubError: The child that says why not. Nothing is waited for or tried again here, but for a moved head.
        UnsafeFileError: A file holds a token.
    """
    for name, value in (("private", private or "off"), ("create_pr", create_pr)):
        if value not in ("on", "off"):
            raise HubRejectedError(f"{name} must be 'on' or 'off', not {value!r}.")
    branch = revision or MAIN
    if re.fullmatch(r"[0-9a-f]{40}", branch):
        raise HubRejectedError(f"{branch} is a commit; a push goes to a branch.", fix="Type: --revision NAME")
    order = _Order(client, parcel, repo_id, branch, create_pr, message, parcel_id or _identity(parcel))
    tokens = tokens_in_use(client.token)
    refuse_tokens("The message", (message or "").encode(), tokens)
    for name in parcel.files:
        refuse_tokens(name, parcel.folder / name, tokens)
    with translated("push to", repo_id, client=client):
        head = open_branch(client, repo_id, branch, private)
        for _ in range(_ROUNDS):
            plan = make_plan(parcel, head, read_card(client, repo_id, head), repo_id=repo_id)
            if plan.empty:
                return order.done(head.commit, plan, changed=False)
            if create_pr == "on" and (found := find_pull_request(client, repo_id, order.parcel_id)):
                return order.done(found[1], plan, changed=False, pull_request=found[0])
            if parcel_id and (landed := find_commit(client, repo_id, branch, parcel_id)):
                return order.done(landed, plan, changed=False)
            for name, content in plan.add.items():
                if isinstance(content, bytes):  # a README that was merged with what is there
                    refuse_tokens(name, content, tokens)
            sent = _commit(order, head, plan)
            if isinstance(sent, Sent):
                return sent
            head = sent
    raise HubConflictError(
        f"Cannot push to {repo_id}: somebody else pushed to {branch} {_ROUNDS} times meanwhile.", fix="Push again."
    )


@dataclass(frozen=True)
class _Order:
    """The arguments of ``send``."""

    client: HubClient
    parcel: Parcel
    repo_id: str
    branch: str
    create_pr: str
    message: str | None
    parcel_id: str

    def done(self, commit: str, plan: Plan, *, changed: bool, pull_request: int | None = None) -> Sent:
        where = f"discussions/{pull_request}" if pull_request else f"commit/{commit}"
        url = f"{self.client.endpoint}/{self.repo_id}/{where}"
        notes = (*self.parcel.notes, *plan.notes)
        return Sent(self.repo_id, commit, url, changed, pull_request, notes)


def _commit(order: _Order, head: Head, plan: Plan) -> Sent | Head:
    """Make the commit.

    Returns:
        What became of it, or the new head if somebody else's commit came in between.
    """
    client, repo_id = order.client, order.repo_id
    try:
        with translated("push to", repo_id, client=client), _operations(order, plan) as operations:
            made = client.call(
                client.api.create_commit,
                repo_id,
                operations,
                commit_message=order.message or f"Push {'adapter' if order.parcel.kind == 'peft' else 'model'}",
                commit_description=describe(order.parcel_id),
                revision=order.branch,
                parent_commit=head.commit,
                create_pr=order.create_pr == "on",
                seconds=client.upload_seconds(plan.size),
            )
    except HubError as error:
        # With 429 it is certain that nothing was done, and asking anything more now would be rude.
        if error.status == 429 or not (error.transient or isinstance(error, HubConflictError)):
            raise
        landed = _landed(order, head, error)
        if landed is not None:
            return order.done(landed[0], plan, changed=True, pull_request=landed[1])
        if isinstance(error, HubConflictError):
            return read_head(client, repo_id, order.branch)
        raise
    number = getattr(made, "pr_num", None) if order.create_pr == "on" else None
    return order.done(str(made.oid), plan, changed=True, pull_request=number)


def _landed(order: _Order, head: Head, error: HubError) -> tuple[str, int | None] | None:
    """The commit, and the number of its pull request, if it was made although the answer says nothing or no.

    Raises:
        HubError: The Hub cannot be asked; ``error`` itself if that is what would pass by waiting.
    """
    try:
        with translated("push to", order.repo_id, client=order.client):
            if order.create_pr == "on":
                found = find_pull_request(order.client, order.repo_id, order.parcel_id)
                return (found[1], found[0]) if found else None
            commit = find_commit(order.client, order.repo_id, order.branch, order.parcel_id, until=head.commit)
            return (commit, None) if commit else None
    except HubError as second:
        raise (error if error.transient else second) from None


@contextlib.contextmanager
def _operations(order: _Order, plan: Plan) -> Iterator[list[Any]]:
    """What ``create_commit`` takes. A Hub without Xet gets large files as open files, which the client sends by LFS."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    # Which of them go as large ones the Hub decides, by size, content and the repo's own list of names.
    may_be_large = any(isinstance(content, Path) for content in plan.add.values())
    by_lfs = may_be_large and not takes_xet(order.client, order.repo_id, order.branch, create_pr=order.create_pr)
    with contextlib.ExitStack() as opened:
        adds = []
        for name, content in plan.add.items():
            sent: Any = content
            if isinstance(content, Path):
                sent = opened.enter_context(open(content, "rb")) if by_lfs else str(content)
            adds.append(CommitOperationAdd(path_in_repo=name, path_or_fileobj=sent))
        yield [*adds, *(CommitOperationDelete(path_in_repo=name) for name in plan.delete)]


def _identity(parcel: Parcel) -> str:
    """One sum over names and contents."""
    lines = "".join(f"{total.sha256}  {name}\n" for name, total in sorted(parcel.files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
