"""A repo that is deleted or moved while somebody still writes to it is gone at once, and whole where it went."""

from __future__ import annotations

import hashlib
import json
import threading

import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import RepositoryNotFoundError
from raw import request

from hfplug.hub.server.shelf import Shelf
from hfplug.hub.server.store import ObjectStore

PATH = "/api/models/alice/adapter/commit/main"


@pytest.fixture
def paused(hub, monkeypatch):
    """Lets a commit wait after it has been let in, until it is told to go on."""
    hub.api.create_repo("alice/adapter")
    arrived, go_on = threading.Event(), threading.Event()
    put = ObjectStore.put

    def waiting(store, data):
        arrived.set()
        assert go_on.wait(20)
        return put(store, data)

    monkeypatch.setattr(ObjectStore, "put", waiting)
    answers = []

    def write():
        lines = [
            {"key": "header", "value": {"summary": "s"}},
            {"key": "file", "value": {"path": "f.txt", "content": "text"}},
        ]
        body = "\n".join(map(json.dumps, lines)).encode()
        answers.append(request(hub.endpoint, "POST", PATH, token=hub.token, body=body))

    def finish(meanwhile):
        thread = threading.Thread(target=write)
        thread.start()
        assert arrived.wait(20)
        meanwhile()
        go_on.set()
        thread.join()
        return answers[0]

    return finish


def folders(hub):
    return sorted(path.name for path in (hub.root / "repos").iterdir())


def test_a_commit_to_a_repo_that_is_deleted_meanwhile_is_404_and_leaves_no_folder(hub, paused):
    answer = paused(lambda: hub.api.delete_repo("alice/adapter"))
    assert (answer.status, answer.headers["x-error-code"]) == (404, "RepoNotFound")
    assert folders(hub) == []
    assert not hub.api.repo_exists("alice/adapter")


@pytest.mark.parametrize("id", ["alice/other", "alice/ADAPTER"])
def test_a_commit_to_a_repo_that_is_moved_meanwhile_is_404_and_leaves_no_folder(hub, paused, id):
    head = hub.api.model_info("alice/adapter").sha
    answer = paused(lambda: hub.api.move_repo("alice/adapter", id))
    assert answer.status == 404 and "deleted or moved" in answer.json()["error"]
    assert folders(hub) == [f"models--{id.replace('/', '--')}".lower()]
    assert (hub.api.model_info(id).id, hub.api.model_info(id).sha) == (id, head)
    hub.api.create_commit(id, [CommitOperationAdd("n.txt", b"n")], commit_message="goes on")


def test_a_large_file_to_a_repo_that_is_deleted_meanwhile_is_refused(hub):
    hub.api.create_repo("alice/adapter")
    repo = Shelf(hub.root).find("model", "alice/adapter")
    data = b"weights" * 1000
    with repo.objects.writer() as writer:
        writer.write(data)
        hub.api.delete_repo("alice/adapter")
        with pytest.raises(FileNotFoundError):
            writer.keep(hashlib.sha256(data).hexdigest())
    with pytest.raises(FileNotFoundError):
        repo.objects.put(b"small")
    with pytest.raises(FileNotFoundError):
        repo.objects.note_xet_hash("0" * 64, "1" * 64)
    assert folders(hub) == []
    with pytest.raises(RepositoryNotFoundError):
        hub.api.model_info("alice/adapter")
