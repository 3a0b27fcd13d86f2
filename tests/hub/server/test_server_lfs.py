"""Large files: in one piece, in parts, and what a stranger who has an address can do with it."""

from __future__ import annotations

import hashlib
import json

import pytest
from huggingface_hub import CommitOperationAdd
from raw import request

DATA = bytes(range(256)) * 50  # 12,800 bytes
SHA256 = hashlib.sha256(DATA).hexdigest()


def commit(hub, *operations):
    return hub.api.create_commit("alice/adapter", list(operations), commit_message="a commit")


def content(hub, path):
    with open(hub.api.hf_hub_download("alice/adapter", path, cache_dir=hub.cache), "rb") as file:
        return file.read()


def ask(hub, transfers=("basic",)):
    """Where to send a content, as the client asks."""
    body = {"operation": "upload", "transfers": list(transfers), "objects": [{"oid": SHA256, "size": len(DATA)}]}
    answer = request(hub.endpoint, "POST", "/alice/adapter.git/info/lfs/objects/batch", token=hub.token, body=body)
    return answer.json()["objects"][0]


def put(hub, href, data):
    return request(hub.endpoint, "PUT", href.removeprefix(hub.endpoint), body=data)


def commit_large(hub, oid, path="w.bin", repo="alice/adapter", token=None):
    lines = [{"key": "header", "value": {"summary": "s"}}]
    lines.append({"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": oid}})
    body = "\n".join(map(json.dumps, lines)).encode()
    return request(hub.endpoint, "POST", f"/api/models/{repo}/commit/main", token=token or hub.token, body=body)


@pytest.fixture
def parts_hub(make_hub):
    """A Hub that takes large files in parts of 4,000 bytes."""
    made = make_hub(part_size=4000)
    made.api.create_repo("alice/adapter")
    return made


@pytest.fixture
def hub(hub):
    hub.api.create_repo("alice/adapter")
    return hub


def test_a_file_goes_up_in_parts(parts_hub):
    commit(parts_hub, CommitOperationAdd("w.bin", DATA))
    assert content(parts_hub, "w.bin") == DATA
    assert parts_hub.faults.count("PUT .*/parts/") == 4
    assert parts_hub.faults.count("POST .*/complete") == 1
    assert parts_hub.faults.count("POST .*/verify") == 1
    assert list((parts_hub.root / "repos" / "models--alice--adapter" / "incoming").iterdir()) == []


def test_a_part_that_fails_is_sent_again(parts_hub, clients_sleep):
    clients_sleep()
    parts_hub.faults.next(1, "500", "PUT .*/parts/2")
    parts_hub.faults.next(1, "lost", "PUT .*/parts/3")
    parts_hub.faults.next(1, "lost", "POST .*/complete")
    commit(parts_hub, CommitOperationAdd("w.bin", DATA))
    assert len(parts_hub.faults.struck) == 3
    assert content(parts_hub, "w.bin") == DATA


def test_parts_that_are_missing_short_or_wrong_make_no_file(parts_hub):
    upload = ask(parts_hub, transfers=("basic", "multipart"))["actions"]["upload"]
    parts = [href for number, href in sorted(upload["header"].items()) if number.isdigit()]
    complete = upload["href"].removeprefix(parts_hub.endpoint)
    assert put(parts_hub, parts[0], DATA[:3999]).status == 400
    assert put(parts_hub, parts[0], DATA[:4001]).status == 400
    for number, href in enumerate(parts[:3]):
        assert put(parts_hub, href, DATA[number * 4000 :][:4000]).status == 200
    assert request(parts_hub.endpoint, "POST", complete, body={"oid": SHA256, "parts": []}).status == 400
    assert put(parts_hub, parts[3], b"x" * 800).status == 200
    assert request(parts_hub.endpoint, "POST", complete, body={"oid": SHA256, "parts": []}).status == 400
    assert commit_large(parts_hub, SHA256).status == 400
    assert put(parts_hub, parts[3], DATA[12000:]).status == 200
    assert request(parts_hub.endpoint, "POST", complete, body={"oid": SHA256, "parts": []}).status == 200
    assert commit_large(parts_hub, SHA256).status == 200


def test_other_bytes_than_announced_are_refused(hub):
    href = ask(hub)["actions"]["upload"]["href"]
    for wrong in (b"x" * len(DATA), DATA[:-1], DATA + b"x", b""):
        assert put(hub, href, wrong).status == 400
    assert commit_large(hub, SHA256).status == 400
    assert put(hub, href, DATA).status == 200
    assert commit_large(hub, SHA256).status == 200
    assert content(hub, "w.bin") == DATA


def test_an_address_that_was_tampered_with_or_made_up_is_refused(hub):
    href = ask(hub)["actions"]["upload"]["href"]
    start, _, ticket = href.rpartition("/")
    claims, _, signature = ticket.partition(".")
    for forged in (claims, f"{claims}.", f"{claims}.{signature[::-1]}", f"{claims[:-2]}xx.{signature}", "a.b", "é.é"):
        assert put(hub, f"{start}/{forged}".replace("é", "%C3%A9"), DATA).status == 403
    assert commit_large(hub, SHA256).status == 400


def test_what_is_there_need_not_be_sent_again(hub):
    put(hub, ask(hub)["actions"]["upload"]["href"], DATA)
    assert "actions" not in ask(hub)


def test_knowing_the_hash_of_a_private_file_does_not_give_it_away(hub):
    commit(hub, CommitOperationAdd("w.bin", DATA))
    hub.api.update_repo_settings("alice/adapter", private=True)
    hub.other_api.create_repo("bob/thief")
    answer = commit_large(hub, SHA256, repo="bob/thief", token=hub.other_token)
    assert (answer.status, "has not been uploaded" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize("oid", ["../../../../tokens.json", "A" * 64, "0" * 63, "0" * 64 + "/..", ""])
def test_a_hash_that_is_none_is_refused(hub, oid):
    body = {"operation": "upload", "objects": [{"oid": oid, "size": 1}]}
    batch = request(hub.endpoint, "POST", "/alice/adapter.git/info/lfs/objects/batch", token=hub.token, body=body)
    assert (batch.status, commit_large(hub, oid).status) == (400, 400)


def test_sending_without_a_token_cannot_be_asked_for(hub):
    body = {"operation": "upload", "objects": [{"oid": SHA256, "size": 1}]}
    assert request(hub.endpoint, "POST", "/alice/adapter.git/info/lfs/objects/batch", body=body).status == 401
