"""What the content server refuses: 4xx, with the reason, and nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from xet_bytes import File, Xorb, make_shard
from xet_server import ALICE, BOB, REPO, Server, counted_hub

from hfplug.hub.server.access import signing_key
from hfplug.hub.server.tickets import Tickets
from hfplug.hub.server.xet_hashes import to_text

XORB = Xorb([os.urandom(9000), b"abc" * 3000])
WHOLE = hashlib.sha256(b"".join(XORB.chunks)).digest()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with counted_hub(tmp_path_factory.mktemp("hub")) as server:
        body = json.dumps({"name": REPO.partition("/")[2], "type": "model"}).encode()
        assert server.call("POST", "/api/repos/create", body, ALICE)[0] == 200
        yield server


def upload(server: Server) -> File:
    """Send a file of one xorb, as the client does."""
    xorb = Xorb([os.urandom(5000), b"abc" * 2000])
    file = File([(xorb, 0, 2)], hashlib.sha256(b"".join(xorb.chunks)).digest())
    token, store = server.token("write")["accessToken"], server.store()
    assert server.call("POST", f"{store}/v1/xorbs/default/{to_text(xorb.hash)}", xorb.body, token)[0] == 200
    assert server.call("POST", f"{store}/v1/shards", make_shard([file], [xorb]), token)[0] == 200
    return file


def test_a_token_is_given_to_those_who_may_read_or_write(server: Server) -> None:
    def status(access: str, token: str | None, repo: str = REPO, revision: str = "main") -> int:
        return server.call("GET", f"/api/models/{repo}/xet-{access}-token/{revision}", token=token)[0]

    body = json.dumps({"name": "hidden", "type": "model", "visibility": "private"}).encode()
    assert server.call("POST", "/api/repos/create", body, ALICE)[0] == 200
    assert status("read", None) == status("read", BOB) == status("write", ALICE) == 200
    assert status("write", None) == 401 and status("write", BOB) == 403
    assert status("read", None, "alice/hidden") == 401 and status("read", BOB, "alice/hidden") == 404
    assert status("write", BOB, "alice/hidden") == 404 and status("read", ALICE, "alice/hidden") == 200
    assert status("read", ALICE, revision="nowhere") == 404 and status("read", "hf_unknown") == 401


def test_whoever_may_open_a_pull_request_gets_a_token_for_its_files(server: Server) -> None:
    def ask(query: str, token: str | None, repo: str = REPO) -> tuple[int, bytes]:
        return server.call("GET", f"/api/models/{repo}/xet-write-token/main{query}", token=token)

    body = json.dumps({"name": "unseen", "type": "model", "visibility": "private"}).encode()
    assert server.call("POST", "/api/repos/create", body, ALICE)[0] == 200
    status, answer = ask("?create_pr=1", BOB)
    assert status == 200 and ask("", BOB)[0] == ask("?create_pr=0", BOB)[0] == 403
    assert ask("?create_pr=1", None)[0] == 401 and ask("?create_pr=1", BOB, "alice/unseen")[0] == 404
    xorb = Xorb([os.urandom(3000)])
    path = f"{server.store()}/v1/xorbs/default/{to_text(xorb.hash)}"
    assert server.call("POST", path, xorb.body, json.loads(answer)["accessToken"])[0] == 200


@pytest.mark.parametrize("kind", ["none", "forged", "expired", "of the hub", "noise", "a link", "of another hub"])
def test_a_call_with_a_bad_token_is_refused_and_leaves_nothing(server: Server, kind: str) -> None:
    good = server.token("write")["accessToken"]
    claims = {"use": "xet", "type": "model", "repo": REPO, "user": "alice", "access": "write"}
    token = {
        "none": None,
        "forged": good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB"),
        "expired": Tickets(signing_key(server.root)).issue(claims, seconds=-1),
        "of the hub": ALICE,
        "noise": "é?.=",
        "a link": Tickets(signing_key(server.root)).issue({**claims, "use": "xorb"}),
        "of another hub": Tickets(bytes(32)).issue(claims),
    }[kind]
    if token is not None and not token.isascii():
        token = token.encode().decode("latin-1")
    before, store, xorb = server.kept(), server.store(), Xorb([os.urandom(100)])
    assert server.call("POST", f"{store}/v1/xorbs/default/{to_text(xorb.hash)}", xorb.body, token)[0] == 401
    assert server.call("POST", f"{store}/v1/shards", make_shard([]), token)[0] == 401
    assert server.call("GET", f"{store}/v1/reconstructions/{'0' * 64}", token=token)[0] == 401
    assert server.call("GET", f"{store}/v1/chunks/default/{'0' * 64}", token=token)[0] == 401
    assert server.kept() == before


def test_a_token_for_reading_writes_nothing(server: Server) -> None:
    token, before, xorb = server.token("read")["accessToken"], server.kept(), Xorb([os.urandom(100)])
    status, body = server.call("POST", f"{server.store()}/v1/xorbs/default/{to_text(xorb.hash)}", xorb.body, token)
    assert status == 403 and b"xet-write-token" in body
    assert server.call("POST", f"{server.store()}/v1/shards", make_shard([]), token)[0] == 403
    assert server.kept() == before


def test_a_token_is_good_for_its_own_repo_only(server: Server) -> None:
    name = to_text(upload(server).hash)
    body = json.dumps({"name": "other", "type": "model"}).encode()
    server.call("POST", "/api/repos/create", body, BOB)
    for version in ("/v1", "/v2", ""):  # the last is hf-xet 1.2
        path = f"{server.store()}{version}/reconstructions/{name}"
        assert server.call("GET", path, token=server.token("read")["accessToken"])[0] == 200
        token = server.token("read", "bob/other", BOB)["accessToken"]
        assert server.call("GET", path, token=token)[0] == 404


def test_a_repo_that_becomes_private_or_goes_takes_its_tokens_along(server: Server) -> None:
    body = json.dumps({"name": "brief", "type": "model"}).encode()
    server.call("POST", "/api/repos/create", body, ALICE)
    token, owners = (server.token("write", "alice/brief", who)["accessToken"] for who in (ALICE, ALICE))
    readers = server.token("read", "alice/brief", BOB)["accessToken"]
    path = f"{server.store()}/v1/shards"
    assert server.call("POST", path, make_shard([]), token)[0] == 200
    settings = json.dumps({"visibility": "private"}).encode()
    assert server.call("PUT", "/api/models/alice/brief/settings", settings, ALICE)[0] == 200
    reading = f"{server.store()}/v1/chunks/default/{'0' * 64}"
    assert b"Repository not found" in server.call("GET", reading, token=readers)[1]
    assert b"Repository not found" not in server.call("GET", reading, token=owners)[1]
    body = json.dumps({"name": "brief", "organization": "alice", "type": "model"}).encode()
    assert server.call("DELETE", "/api/repos/delete", body, ALICE)[0] == 200
    assert server.call("POST", path, make_shard([]), token)[0] == 404


@pytest.mark.parametrize(
    "body, words",
    [
        (XORB.body[:-1], b"early"),
        (XORB.body[:5], b"ends within"),
        (b"", b"holds no chunk"),
        (Xorb([b"other"]).body, b"the xorb that came has hash"),
        (os.urandom(50).replace(b"\0", b"\1"), b"is not known"),
    ],
    ids=["cut", "cut in a header", "empty", "another", "noise"],
)
def test_a_wrong_xorb_is_refused_and_leaves_nothing(server: Server, body: bytes, words: bytes) -> None:
    token, before = server.token("write")["accessToken"], server.kept()
    status, answer = server.call("POST", f"{server.store()}/v1/xorbs/default/{to_text(XORB.hash)}", body, token)
    assert status == 400 and words in answer
    assert server.kept() == before


@pytest.mark.parametrize(
    "body, words",
    [
        (make_shard([File([(Xorb([b"never sent"]), 0, 1)], WHOLE)]), b"upload it again"),
        (make_shard([], [Xorb([b"never sent"])]), b"was not uploaded"),
        (make_shard([File([(XORB, 0, 2)], hashlib.sha256(b"").digest())]), b"have sha256"),
        (make_shard([File([(XORB, 0, 2)], WHOLE, file_hash=bytes(32))]), b"have another hash"),
        (make_shard([File([(XORB, 0, 2)], WHOLE, proofs=[bytes(32)])]), b"not proven"),
        (make_shard([File([(XORB, 0, 2)], None)]), b"SHA-256"),
        (make_shard([File([(XORB, 0, 3)], WHOLE)]), b"has no chunks"),
        (make_shard([])[:-1], b"before its end mark"),
        (b"", b"do not begin"),
    ],
)
def test_an_untrue_shard_is_refused_and_leaves_nothing(server: Server, body: bytes, words: bytes) -> None:
    token, store = server.token("write")["accessToken"], server.store()
    assert server.call("POST", f"{store}/v1/xorbs/default/{to_text(XORB.hash)}", XORB.body, token)[0] == 200
    before = server.kept()
    status, answer = server.call("POST", f"{store}/v1/shards", body, token)
    assert status == 400 and words in answer
    assert server.kept() == before


def test_a_body_above_the_limit_is_refused_and_leaves_nothing(server: Server) -> None:
    token, before = server.token("write")["accessToken"], server.kept()
    status, _ = server.call("POST", f"{server.store()}/v1/xorbs/default/{to_text(XORB.hash)}", bytes(69 << 20), token)
    assert status == 413
    assert server.kept() == before


def test_a_refusal_reaches_a_caller_who_is_still_sending(server: Server) -> None:
    path = f"{server.store()}/v1/xorbs/default/{to_text(XORB.hash)}"
    assert server.call("POST", path, bytes(60 << 20), "not.a-token")[0] == 401


def test_an_upload_that_breaks_off_leaves_nothing(server: Server) -> None:
    token, before, xorb = server.token("write")["accessToken"], server.kept(), Xorb([os.urandom(5000)])
    host, port = server.endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:
        path = f"{server.store()}/v1/xorbs/default/{to_text(xorb.hash)}"
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 5008\r\n\r\n"
        line.sendall(head.encode() + xorb.body[:4000])
        wait_until(lambda: server.kept() != before)
    wait_until(lambda: server.kept() == before)


def wait_until(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_link_opens_what_it_was_made_for_and_nothing_else(server: Server) -> None:
    name = to_text(upload(server).hash)
    token, store = server.token("read")["accessToken"], server.store()
    plan = json.loads(server.call("GET", f"{store}/v1/reconstructions/{name}", token=token)[1])
    xorb, fetches = next(iter(plan["fetch_info"].items()))
    url, place = fetches[0]["url"].removeprefix(server.endpoint), fetches[0]["url_range"]
    status, body = server.call("GET", url)
    assert (status, len(body)) == (206, place["end"] + 1 - place["start"])
    assert server.call("GET", url.replace(xorb, "0" * 64))[0] == 403
    assert server.call("GET", url[:-3])[0] == 403
    assert server.call("GET", url.partition("?")[0])[0] == 403
    expired = Tickets(signing_key(server.root)).issue({"use": "xorb", "xorb": xorb, "first": 0, "last": 9}, seconds=-1)
    assert server.call("GET", f"{url.partition('?')[0]}?ticket={expired}")[0] == 403
    request = urllib.request.Request(server.endpoint + url, headers={"Range": "bytes=0-0"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=30)
