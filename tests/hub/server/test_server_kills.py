"""A Hub that is killed in the middle of anything comes back with whole commits."""

from __future__ import annotations

import random
import signal
import socket
import threading
import time

import pytest
from hub_process import start
from huggingface_hub import CommitOperationAdd, HfApi
from raw import request

from hfplug.errors import HubError
from hfplug.hub.server import running_hub


def give_up(seconds):
    raise OSError("the server is dead, and nobody starts it again")


def push_until_it_fails(api, acknowledged, number):
    """Commits with a small and a large file, one after another; notes those that were acknowledged."""
    while True:
        number += 1
        text = str(number).encode()
        operations = [CommitOperationAdd("n.txt", text), CommitOperationAdd("w.bin", text * 20_000)]
        try:
            done = api.create_commit("alice/adapter", operations, commit_message=f"commit {number}")
        except Exception:  # whatever the client makes of a server that dies
            return
        acknowledged.append((number, done.oid))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_what_was_acknowledged_is_there_and_every_commit_is_whole(tmp_path, seed, monkeypatch, clients_sleep):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    clients_sleep(give_up)
    acknowledged: list[tuple[int, str]] = []
    chance = random.Random(seed)
    for round in range(2):
        process, endpoint = start(tmp_path / "hub")
        try:
            api = HfApi(endpoint=endpoint, token="hf_test")
            api.create_repo("alice/adapter", exist_ok=True)
            writer = threading.Thread(target=push_until_it_fails, args=(api, acknowledged, 1000 * round))
            writer.start()
            time.sleep(chance.uniform(0.2, 0.7))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        writer.join()
    with running_hub(tmp_path / "hub", tokens={"hf_test": "alice"}) as hub:
        api = HfApi(endpoint=hub.endpoint, token="hf_test")
        commits = api.list_repo_commits("alice/adapter")
        titles = {commit.commit_id: commit.title for commit in commits}
        assert {oid: f"commit {number}" for number, oid in acknowledged}.items() <= titles.items()
        assert len(commits) <= 1 + len(acknowledged) + 2  # at most one a kill that landed and was not heard of
        for commit in commits[:-1]:
            number = commit.title.removeprefix("commit ")
            for name, times in (("n.txt", 1), ("w.bin", 20_000)):
                path = api.hf_hub_download("alice/adapter", name, revision=commit.commit_id, cache_dir=tmp_path / "c")
                with open(path) as file:
                    assert file.read() == number * times
        assert list((tmp_path / "hub" / "repos" / "models--alice--adapter").glob("incoming/*")) == []
    assert acknowledged  # else nothing was tried


def test_what_a_kill_leaves_half_made_is_swept(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    root = tmp_path / "hub"
    with running_hub(root, tokens={"hf_test": "alice"}) as hub:
        api = HfApi(endpoint=hub.endpoint, token="hf_test")
        api.create_repo("alice/moved")
        head = api.model_info("alice/moved").sha
    for half in ("0123456789abcdef", "fedcba9876543210"):  # being made, being deleted
        (root / "trash" / half / "commits").mkdir(parents=True)
    # Killed in mid-move: the name inside is the new one, the folder's the old one.
    state = root / "repos" / "models--alice--moved" / "state.json"
    state.write_text(state.read_text().replace("alice/moved", "alice/new"))
    with running_hub(root, tokens={"hf_test": "alice"}) as hub:
        api = HfApi(endpoint=hub.endpoint, token="hf_test")
        assert [model.id for model in api.list_models()] == ["alice/new"]
        assert api.model_info("alice/new").sha == head
        api.create_repo("alice/moved")
    assert list((root / "trash").iterdir()) == []


def test_a_second_process_on_one_folder_is_refused(tmp_path):
    process, endpoint = start(tmp_path / "hub")
    try:
        assert endpoint
        with pytest.raises(HubError, match="being served by another process"), running_hub(tmp_path / "hub"):
            pass
    finally:
        process.kill()
        process.wait()
    with running_hub(tmp_path / "hub") as hub:
        assert hub.endpoint.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_is_said(tmp_path):
    with running_hub(tmp_path / "one") as hub:
        port = int(hub.endpoint.rpartition(":")[2])
        with (
            pytest.raises(HubError, match=f"cannot listen on 127.0.0.1 port {port}"),
            running_hub(tmp_path / "two", port=port),
        ):
            pass


def test_a_hub_starts_and_stops_within_a_second_even_with_an_open_connection(tmp_path, monkeypatch):
    before = set(threading.enumerate())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    seconds = []
    for attempt in range(3):  # a busy machine may be late once; a server that waits for the connection always is
        with running_hub(tmp_path / str(attempt), tokens={"hf_test": "alice"}) as hub:
            HfApi(endpoint=hub.endpoint, token="hf_test").whoami()  # its connection stays open
            began = time.monotonic()
        seconds.append(time.monotonic() - began)
        if seconds[-1] < 1.0:
            break
    assert min(seconds) < 1.0
    # Other Hubs of this session may be running, and start workers of theirs.
    left = {one for one in threading.enumerate() if not one.name.startswith("AnyIO worker")} - before
    assert left == set()


def test_no_answer_waits_for_an_acknowledgement_of_the_client(tmp_path):
    options = []

    def looking(app):
        async def around(scope, receive, send):
            if scope["type"] == "http":
                connection = send.__self__.transport.get_extra_info("socket")
                options.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            await app(scope, receive, send)

        return around

    with running_hub(tmp_path / "hub", wrap=looking) as hub:
        assert request(hub.endpoint, "GET", "/api/models").status == 200
    assert options == [1]
