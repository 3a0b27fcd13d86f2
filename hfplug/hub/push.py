"""Push an adapter: pack it, send it, and try again where that may help."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.card_front import method_name, task_name
from hfplug.adapters.files import CARD
from hfplug.errors import HubAccessError, HubNotFoundError
from hfplug.hub.client import HubClient, connect, translated
from hfplug.hub.collections import keep_in_collection
from hfplug.hub.parcel import front_matter, pack
from hfplug.hub.plan import make_plan
from hfplug.hub.remote import Head, read_card, read_head
from hfplug.hub.retry import TRIES, retrying
from hfplug.hub.send import MAIN, Sent, send

Result = TypeVar("Result")

# The Hub's limit for OWNER/NAME.
_LONGEST_ID = 96


@dataclass(frozen=True)
class Preview:
    """What a push would do.

    Attributes:
        repo_id: Where it would go.
        files: Path in the repo to size in bytes, of everything in the parcel.
        front_matter: Of the card, before it is merged with a README that is there.
        add: Paths that would be added or changed. delete: That would be deleted.
        repo: ``"there"``, ``"new"``, or ``"unknown"`` if the Hub cannot be asked.
        notes: What whoever pushes should know.
    """

    repo_id: str
    files: Mapping[str, int] = field(repr=False)
    front_matter: Mapping[str, Any] = field(repr=False)
    add: tuple[str, ...]
    delete: tuple[str, ...]
    repo: str
    notes: tuple[str, ...] = ()

    __hash__ = None  # type: ignore[assignment]  # it holds mappings


def push_adapter(
    adapter_dir: AdapterDir | str | os.PathLike[str],
    repo_id: str | None = None,
    *,
    private: str | None = None,
    revision: str | None = None,
    create_pr: str = "off",
    message: str | None = None,
    dtype: str | None = None,
    licence: str | None = None,
    base_id: str | None = None,
    collection: str = "off",
    endpoint: str | None = None,
    token: str | None = None,
    timeout: float = 30.0,
    tries: int = TRIES,
) -> Sent:
    """Push an adapter, or a fully tuned model, to the Hub as one commit; none if it is there already.

    Args:
        adapter_dir: A folder that hfplug or PEFT's ``save_pretrained`` wrote, or a full model.
        repo_id: ``"owner/name"``; ``<you>/<base>-<task>-<method>`` if not given. Made if it is not there.
        private: ``"on"`` or ``"off"``, for a repo that is made; None for your account's default.
        revision: Branch, made if it is not there; ``main`` if not given.
        create_pr: ``"on"`` opens a pull request instead of changing the branch.
        message: First line of the commit.
        dtype: ``"float32"`` or ``"bfloat16"``; as stored if not given.
        licence: For the card, e.g. ``"apache-2.0"``. One that stands in the README already stays.
        base_id: Id of the base on the Hub, if the adapter was trained on a local folder of it.
        collection: ``"on"`` keeps the adapter in your collection for its base.
        endpoint: Address of the Hub; that of ``HF_ENDPOINT``, else https://huggingface.co, if not given.
        token: Access token; that of ``HF_TOKEN`` or ``hf auth login`` if not given.
        timeout: Seconds that one request may wait for an answer.
        tries: How often a push is tried while the Hub cannot be reached or asks to wait.

    Returns:
        The commit, where to look at it, whether anything changed, and notes.

    Raises:
        AdapterError: The folder is no whole adapter.
        UnsafeFileError: Its weights are a pickle, or a file holds a token.
        HubError: The child that says why the Hub did not take it.
    """
    client = connect(endpoint, token, timeout=timeout)
    adapter = adapter_dir if isinstance(adapter_dir, AdapterDir) else AdapterDir.open(adapter_dir)
    with tempfile.TemporaryDirectory(prefix="hfplug-push-") as scratch:
        repo_id = _full_name(client, adapter, repo_id, base_id, tries)
        parcel = pack(
            adapter, scratch, repo_id=repo_id, dtype=dtype, licence=licence, base_id=base_id, token=client.token
        )
        # A pull request with the same content is looked for by that content, also in a later call.
        delivery = None if create_pr == "on" else uuid.uuid4().hex
        sent = retrying(
            lambda: send(
                client,
                parcel,
                repo_id,
                private=private,
                revision=revision,
                create_pr=create_pr,
                message=message,
                parcel_id=delivery,
            ),
            tries=tries,
        )
        if collection == "on":
            base = front_matter((parcel.folder / CARD).read_text(encoding="utf-8")).get("base_model")
            note = keep_in_collection(client, repo_id, base if isinstance(base, str) else None, private=private)
            sent = dataclasses.replace(sent, notes=(*sent.notes, note))
    return sent


def preview_push(
    adapter_dir: AdapterDir | str | os.PathLike[str],
    repo_id: str | None = None,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    licence: str | None = None,
    base_id: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    timeout: float = 30.0,
) -> Preview:
    """What :func:`push_adapter` would do. Nothing is changed anywhere; the Hub is only read.

    Args:
        adapter_dir, repo_id, revision, dtype, licence, base_id, endpoint, token, timeout: As there.
    """
    client = connect(endpoint, token, timeout=timeout)
    adapter = adapter_dir if isinstance(adapter_dir, AdapterDir) else AdapterDir.open(adapter_dir)
    with tempfile.TemporaryDirectory(prefix="hfplug-push-") as scratch:
        repo_id = _full_name(client, adapter, repo_id, base_id, 1)
        parcel = pack(
            adapter, scratch, repo_id=repo_id, dtype=dtype, licence=licence, base_id=base_id, token=client.token
        )
        with translated("look at", repo_id, client=client):
            head, repo = _head_or_none(client, repo_id, revision or MAIN)
            card = read_card(client, repo_id, head) if head else None
        plan = make_plan(parcel, head or Head("", {}), card, repo_id=repo_id)
        return Preview(
            repo_id=repo_id,
            files={name: total.size for name, total in parcel.files.items()},
            front_matter=front_matter((parcel.folder / CARD).read_text(encoding="utf-8")),
            add=tuple(plan.add),
            delete=plan.delete,
            repo=repo,
            notes=(*parcel.notes, *plan.notes),
        )


def _head_or_none(client: HubClient, repo_id: str, branch: str) -> tuple[Head | None, str]:
    try:
        with translated("look at", repo_id, client=client):
            return read_head(client, repo_id, branch), "there"
    except HubNotFoundError:
        return None, "new"
    except HubAccessError:
        if client.token is None:
            return None, "unknown"
        raise


# --------------------------------------------------------------------------------------------------- name


def default_name(adapter: AdapterDir, *, owner: str, base_id: str | None = None) -> str:
    """``<base>-<task>-<method>`` as a name that the Hub takes; parts that are not known are left out.

    Args:
        adapter: Its lock, record, task and configuration are read.
        owner: Whose repo it will be: the limit on the length counts it.
        base_id: Id of the base on the Hub, if it is another than the adapter names.
    """
    base = Path(base_id or adapter.base_name or "").name
    parts = [base, task_name(adapter) or "", method_name(adapter)]
    name = "-".join(word for part in parts if (word := _word(part))) or "adapter"
    room = _LONGEST_ID - len(owner) - 1
    if len(name) > room:
        # Two long names that differ at their ends must not become one.
        end = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[: room - 9].rstrip('-.')}-{end}"
    return name


def _word(part: str) -> str:
    word = re.sub(r"[^A-Za-z0-9._]+", "-", part.strip())
    word = re.sub(r"-{2,}", "-", re.sub(r"\.{2,}", ".", word)).strip("-.")
    return word.removesuffix(".git")


def _full_name(client: HubClient, adapter: AdapterDir, repo_id: str | None, base_id: str | None, tries: int) -> str:
    if repo_id is not None and "/" in repo_id:
        return repo_id
    owner = retrying(lambda: _owner(client), tries=tries)
    return f"{owner}/{repo_id or default_name(adapter, owner=owner, base_id=base_id)}"


def _owner(client: HubClient) -> str:
    with translated("ask who you are", client=client):
        return str(client.call(client.api.whoami)["name"])
