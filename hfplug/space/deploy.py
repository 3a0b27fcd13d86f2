"""Put a Space on a Hub, or bring it up to date: one commit, or none if everything is there already.

What other people put into the Space stays. Which files are ours is written into it (``.hfplug-space.json``, with the
sums of their contents), so that the next time a file that somebody changed is told from one that is merely old: such a
file is replaced only if that is asked for. The README is merged, as adapters' cards are.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hfplug.errors import HubConflictError, HubError, SpaceError
from hfplug.hub.client import HubClient, connect, translated
from hfplug.hub.leaks import refuse_tokens, tokens_in_use
from hfplug.hub.remote import Head, takes_xet
from hfplug.space.config import REPO_ID
from hfplug.space.space_card import CARD
from hfplug.space.space_change import (
    KIND,
    MANIFEST,
    Change,
    Edited,
    change_at,
    manifest_bytes,
    manifest_of,
    read_head,
    require_head,
)
from hfplug.space.space_files import SpaceFiles, needed_secrets

TIMEOUT_SECONDS = 30.0
_ROUNDS = 4
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


@dataclass(frozen=True)
class Deployed:
    """What became of a deployment.

    Attributes:
        repo_id: The Space. url: Its page.
        commit: The commit that holds it.
        changed: Whether this call made it.
        settings: What was set beside the files: names of variables and secrets, and the hardware.
        notes: What whoever deployed should know.
    """

    repo_id: str
    url: str
    commit: str
    changed: bool
    settings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def preview_deploy(
    files: SpaceFiles, repo_id: str, *, edited: Edited = "refuse", token: str | None = None, endpoint: str | None = None
) -> Change:
    """What :func:`deploy` would change. Nothing is sent.

    Args:
        files, repo_id, edited, token, endpoint: As for :func:`deploy`.
    """
    client = _client(repo_id, token, endpoint)
    try:
        with translated("look at", repo_id, client=client):
            head = read_head(client, repo_id)
    except HubError as error:
        unknown = (f"Whether the Space is there is not known: {error.message}",)
        return Change(repo_id, "unknown", _all(files), notes=(*files.notes, *unknown))
    if head is None:
        return Change(repo_id, "new", _all(files), notes=files.notes)
    with translated("look at", repo_id, client=client):
        return change_at(client, repo_id, files, head, edited)


def deploy(
    files: SpaceFiles,
    repo_id: str,
    *,
    private: Literal["on", "off"] | None = None,
    hardware: str | None = None,
    secrets: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
    edited: Edited = "refuse",
    message: str = "Deploy with hfplug",
    token: str | None = None,
    endpoint: str | None = None,
) -> Deployed:
    """Create a Space or bring it up to date. The same files may be deployed any number of times.

    Variables and secrets are set before the commit, so that the Space starts with them; hardware is asked for after it.

    Args:
        files: From :func:`hfplug.space.space_files.space_files`.
        repo_id: ``owner/name``.
        private: For a Space that is made: only its owner sees it.
        hardware: For example ``"cpu-basic"``, ``"t4-small"`` or ``"zero-a10g"``; None leaves it as it is.
        secrets: Name to value; write-only on the Hub, so they are sent every time. Never part of a file.
        variables: Name to value; public.
        edited: What becomes of files of ours that somebody changed: ``"refuse"`` changes nothing and says which;
            ``"keep"`` leaves them; ``"replace"`` puts ours there (the history keeps theirs).
        message: First line of the commit.
        token: Access token; that of ``HF_TOKEN`` or ``hf auth login`` if not given.
        endpoint: Address of the Hub; that of ``HF_ENDPOINT`` if not given.

    Raises:
        SpaceError: Somebody changed a file of ours, or a name of a variable is none.
        HubError: The Hub refuses, or does not answer. Nothing was changed, or the commit is whole.
        UnsafeFileError: A file holds a token.
    """
    client = _client(repo_id, token, endpoint)
    secrets, variables = dict(secrets or {}), dict(variables or {})
    _check_names(secrets, variables)
    known = [*tokens_in_use(client.token), *secrets.values()]
    leaving = {**files.files, **{f"Variable {name}": value.encode() for name, value in variables.items()}}
    for name, content in leaving.items():
        refuse_tokens(name, content, known)
    with translated("deploy to", repo_id, client=client):
        head = read_head(client, repo_id)
        if head is None:
            visibility = None if private is None else private == "on"
            making: dict[str, Any] = {"space_sdk": "gradio", "private": visibility, "exist_ok": True}
            client.call(client.api.create_repo, repo_id, **KIND, **making)
            head = require_head(client, repo_id)
        elif private == "on" and not head.private:
            raise HubConflictError(
                f"The Space {repo_id} is there already and everybody can read it; a private one was asked for.",
                fix="Make it private on its settings page, or deploy to another name.",
            )
        change_at(client, repo_id, files, head, edited)  # refuses before anything is set
        done = _set(client, repo_id, secrets, variables)
        change, commit = _commit(client, repo_id, files, head, edited, message)
        if hardware is not None:
            done += _ask_for_hardware(client, repo_id, hardware)
    notes = (*change.notes, *needed_secrets(files.config, {**secrets, **variables}))
    return Deployed(repo_id, f"{client.endpoint}/spaces/{repo_id}", commit, not change.empty, tuple(done), notes)


def _all(files: SpaceFiles) -> dict[str, bytes]:
    return {**files.files, MANIFEST: manifest_bytes(manifest_of(files))}


def _client(repo_id: str, token: str | None, endpoint: str | None) -> HubClient:
    if not REPO_ID.fullmatch(repo_id):
        raise SpaceError(f"{repo_id[:80]!r} is no id of a Space.", fix="Type OWNER/NAME.")
    return connect(endpoint, token, timeout=TIMEOUT_SECONDS)


# ------------------------------------------------------------------------------------------------- commit


def _commit(
    client: HubClient, repo_id: str, files: SpaceFiles, head: Head, edited: Edited, message: str
) -> tuple[Change, str]:
    """Make the commit, again if somebody else's came in between or its answer was lost."""
    made = None
    for _ in range(_ROUNDS):
        change = change_at(client, repo_id, files, head, edited)
        if change.empty:
            # What an answer that was lost had done is done.
            return (made or change), head.commit
        refuse_tokens(CARD, change.add.get(CARD, b""), tokens_in_use(client.token))
        try:
            with translated("deploy to", repo_id, client=client):
                size = sum(len(content) for content in change.add.values())
                done = client.call(
                    client.api.create_commit,
                    repo_id,
                    list(_operations(client, repo_id, change)),
                    commit_message=message,
                    parent_commit=head.commit,
                    seconds=client.upload_seconds(size),
                    **KIND,
                )
            return change, str(done.oid)
        except HubError as error:
            if error.status == 429 or not (error.transient or isinstance(error, HubConflictError)):
                raise
            failed, made = error, change
        before, head = head, require_head(client, repo_id)
        if head.commit == before.commit:
            raise failed
    raise HubConflictError(f"Somebody else changed {repo_id} {_ROUNDS} times meanwhile.", fix="Deploy again.")


def _operations(client: HubClient, repo_id: str, change: Change) -> Iterator[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    by_lfs = not takes_xet(client, repo_id, "main", kind="space")
    for name, content in change.add.items():
        # The client sends what is open by LFS, and tries Xet with anything else, also where there is none.
        sent = io.BytesIO(content) if by_lfs else content
        yield CommitOperationAdd(path_in_repo=name, path_or_fileobj=sent)
    for name in change.delete:
        yield CommitOperationDelete(path_in_repo=name)


# ----------------------------------------------------------------------------------------------- settings


def _check_names(secrets: Mapping[str, str], variables: Mapping[str, str]) -> None:
    for name in (*secrets, *variables):
        if not _VARIABLE.fullmatch(name):
            raise SpaceError(f"{name[:80]!r} is no name of an environment variable.")
    if both := sorted(set(secrets) & set(variables)):
        raise SpaceError(f"{both[0]} is given as a secret and as a variable.", fix="Leave one of them out.")


def _set(client: HubClient, repo_id: str, secrets: Mapping[str, str], variables: Mapping[str, str]) -> list[str]:
    done = []
    if variables:
        there = client.call(client.api.get_space_variables, repo_id)
        for name, value in variables.items():
            if name not in there or there[name].value != value:
                client.call(client.api.add_space_variable, repo_id, name, value)
                done.append(f"variable {name}")
    for name, value in secrets.items():
        client.call(client.api.add_space_secret, repo_id, name, value)
        done.append(f"secret {name}")
    return done


def _ask_for_hardware(client: HubClient, repo_id: str, hardware: str) -> list[str]:
    runtime = client.call(client.api.get_space_runtime, repo_id)
    if hardware in (runtime.requested_hardware, runtime.hardware):
        return []
    client.call(client.api.request_space_hardware, repo_id, hardware)
    return [f"hardware {hardware}"]
