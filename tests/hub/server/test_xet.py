"""The unmodified client with Xet, which is its default, uploads to the Hub on loopback and downloads from it.

Each upload and download runs in a process of its own: whether Xet is used is settled when the client is
first imported, and what it has sent before is remembered below ``HF_HOME``.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from xet_bytes import File, Xorb, make_shard

from hfplug.hub.server import running_hub
from hfplug.hub.server.access import signing_key
from hfplug.hub.server.tickets import Tickets
from hfplug.hub.server.xet_hashes import to_text

ALICE, BOB = "hf_aliceTokenOfTheTests", "hf_bobTokenOfTheTests"
REPO = "alice/large"


class Traffic:
    """Every request to a Hub, and its bytes."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def wrap(self, app: Any) -> Any:
        async def counting(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                return await app(scope, receive, send)
            entry: dict[str, Any] = {"call": f"{scope['method']} {scope['path']}", "in": 0, "out": 0, "status": 0}
            self.seen.append(entry)

            async def receive_counting() -> Any:
                message = await receive()
                entry["in"] += len(message.get("body", b""))
                return message

            async def send_counting(message: Any) -> None:
                entry["status"] = message.get("status", entry["status"])
                entry["out"] += len(message.get("body", b""))
                await send(message)

            await app(scope, receive_counting, send_counting)

        return counting

    def take(self) -> list[dict[str, Any]]:
        """What was seen since the last time."""
        seen, self.seen[:] = list(self.seen), []
        return seen


class Server:
    """A running Hub with what the tests look at."""

    def __init__(self, endpoint: str, root: Path, traffic: Traffic) -> None:
        self.endpoint, self.root, self.traffic = endpoint, root, traffic

    def run(self, code: str, *arguments: str, home: Path, xet: str = "on", token: str = ALICE) -> Any:
        """Run ``code`` in a new process; returns what it prints as JSON."""
        drop = ("HF_", "HUGGING", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(drop)}
        environment |= {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_TOKEN": token}
        environment |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        if xet == "off":
            environment["HF_HUB_DISABLE_XET"] = "1"
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.strip().splitlines()[-1])

    def call(self, method: str, path: str, body: bytes | None = None, token: str | None = None) -> tuple[int, bytes]:
        request = urllib.request.Request(self.endpoint + path, data=body, method=method)
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def token(self, access: str, repo: str = REPO, hub_token: str | None = ALICE) -> dict[str, Any]:
        status, body = self.call("GET", f"/api/models/{repo}/xet-{access}-token/main", token=hub_token)
        assert status == 200, body
        return json.loads(body)

    def store(self) -> str:
        """The path of the content server."""
        return self.token("read")["casUrl"].removeprefix(self.endpoint)

    def kept(self) -> set[str]:
        """Every file of the Hub's folder but those of the repos' state."""
        return {str(path) for path in self.root.rglob("*") if path.is_file() and path.suffix != ".json"}


UPLOAD = """
import json, sys
from huggingface_hub import HfApi
repo, folder, *more = sys.argv[1:]
api = HfApi()
api.create_repo(repo, exist_ok=True)
done = api.upload_folder(repo_id=repo, folder_path=folder, create_pr="create_pr" in more)
print(json.dumps([done.oid, done.pr_revision]))
"""
DOWNLOAD = """
import json, sys
from huggingface_hub import snapshot_download
print(json.dumps(snapshot_download(sys.argv[1], revision=sys.argv[2])))
"""
DOWNLOAD_ONE = """
import json, sys
from huggingface_hub import hf_hub_download
print(json.dumps(hf_hub_download(sys.argv[1], sys.argv[3], revision=sys.argv[2])))
"""


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"layer.{n}": rng.normal(0, 0.02, (512, 768)).astype("float32") for n in range(6)}


def contents() -> dict[str, bytes]:
    rng = random.Random(0)
    return {
        "model.safetensors": save(weights()),
        "random.bin": rng.randbytes(4_000_000),
        "zeros.bin": bytes(6_000_000),
        "small.bin": rng.randbytes(700),
        "deep/er/short.pt": b"PK",
        "config.json": b"{}",
    }


def changed() -> dict[str, bytes]:
    values = weights()
    values["layer.3"][100] = 0
    return {**contents(), "model.safetensors": save(values)}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read(folder: Path | str, names: dict[str, bytes]) -> dict[str, bytes]:
    return {name: Path(folder, name).read_bytes() for name in names}


def bytes_of(seen: list[dict[str, Any]], part: str, direction: str = "in") -> int:
    return sum(entry[direction] for entry in seen if part in entry["call"])


def calls(seen: list[dict[str, Any]], part: str) -> list[str]:
    return [entry["call"] for entry in seen if part in entry["call"]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    traffic = Traffic()
    root = tmp_path_factory.mktemp("hub")
    with running_hub(root, tokens={ALICE: "alice", BOB: "bob"}, wrap=traffic.wrap) as hub:
        yield Server(hub.endpoint, root, traffic)


@pytest.fixture(scope="module")
def pushed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two revisions, pushed one after the other from one machine; and the traffic of each."""
    folder, home = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("home")
    server.traffic.take()
    first, _ = server.run(UPLOAD, REPO, str(write(folder, contents())), home=home)
    first_traffic = server.traffic.take()
    second, _ = server.run(UPLOAD, REPO, str(write(folder, changed())), home=home)
    return {
        "first": first, "second": second, "home": home, "folder": folder,
        "first_traffic": first_traffic, "second_traffic": server.traffic.take(),
    }  # fmt: skip


def test_large_files_are_sent_as_xorbs_and_a_shard_and_not_through_lfs(pushed: dict[str, Any]) -> None:
    seen = pushed["first_traffic"]
    assert calls(seen, "/v1/xorbs/default/") and calls(seen, "/v1/shards")
    assert calls(seen, "info/lfs") == []
    # Weights and noise do not shrink much; six million zeros nearly vanish.
    assert 8_000_000 < bytes_of(seen, "/v1/xorbs/") < 13_600_000


def test_a_revision_that_shares_most_chunks_sends_only_the_others(pushed: dict[str, Any]) -> None:
    sent, sent_again = (bytes_of(pushed[f"{which}_traffic"], "/v1/xorbs/") for which in ("first", "second"))
    assert 0 < sent_again < sent / 20


@pytest.mark.parametrize("which, files", [("first", contents()), ("second", changed())], ids=["first", "second"])
@pytest.mark.parametrize("xet", ["on", "off"])
def test_another_machine_downloads_the_same_bytes(
    server: Server, pushed: dict[str, Any], tmp_path: Path, which: str, files: dict[str, bytes], xet: str
) -> None:
    server.traffic.take()
    folder = server.run(DOWNLOAD, REPO, pushed[which], home=tmp_path, xet=xet)
    assert read(folder, files) == files
    seen = server.traffic.take()
    assert (calls(seen, "/v1/blobs/") != []) == (xet == "on")
    # Each large file came one way and not the other.
    assert (bytes_of(seen, "/resolve/", "out") > 10_000_000) == (xet == "off")


def test_one_file_is_downloaded_through_xet_by_what_resolve_says(
    server: Server, pushed: dict[str, Any], tmp_path: Path
) -> None:
    server.traffic.take()
    path = server.run(DOWNLOAD_ONE, REPO, "main", "model.safetensors", home=tmp_path)
    assert Path(path).read_bytes() == changed()["model.safetensors"]
    seen = server.traffic.take()
    assert calls(seen, "/v1/blobs/") and bytes_of(seen, "/resolve/", "out") == 0


def test_content_that_another_repo_has_is_not_sent_again_and_is_there(
    server: Server, pushed: dict[str, Any], tmp_path: Path
) -> None:
    folder = write(tmp_path / "folder", {"copy.safetensors": contents()["model.safetensors"]})
    server.traffic.take()
    commit, _ = server.run(UPLOAD, "alice/second", str(folder), home=pushed["home"])
    assert bytes_of(server.traffic.take(), "/v1/xorbs/") == 0
    assert server.run(DELETE, "alice/second", home=pushed["home"]) == "deleted"
    # The client still believes that its chunks are there. They are.
    commit, _ = server.run(UPLOAD, "alice/second", str(folder), home=pushed["home"])
    for xet in ("on", "off"):
        got = server.run(DOWNLOAD, "alice/second", commit, home=tmp_path / xet, xet=xet)
        assert Path(got, "copy.safetensors").read_bytes() == contents()["model.safetensors"]


DELETE = """
import json, sys
from huggingface_hub import HfApi
HfApi().delete_repo(sys.argv[1])
print(json.dumps("deleted"))
"""


def test_a_file_that_came_without_xet_is_downloaded_by_a_client_with_xet(server: Server, tmp_path: Path) -> None:
    files = {"old.bin": random.Random(1).randbytes(100_000)}
    folder = write(tmp_path / "folder", files)
    commit, _ = server.run(UPLOAD, "alice/without", str(folder), home=tmp_path / "home", xet="off")
    server.traffic.take()
    assert read(server.run(DOWNLOAD, "alice/without", commit, home=tmp_path / "other"), files) == files
    assert calls(server.traffic.take(), "/api/xet/") == []


def test_a_pull_request_of_somebody_else_goes_through_xet(
    server: Server, pushed: dict[str, Any], tmp_path: Path
) -> None:
    files = {"theirs.bin": random.Random(2).randbytes(100_000)}
    folder = write(tmp_path / "folder", files)
    code = UPLOAD.replace("api.create_repo(repo, exist_ok=True)\n", "")
    server.traffic.take()
    _, revision = server.run(code, REPO, str(folder), "create_pr", home=tmp_path / "home", token=BOB)
    assert calls(server.traffic.take(), "/v1/shards")
    assert read(server.run(DOWNLOAD, REPO, revision, home=tmp_path / "other"), files) == files


def test_a_token_is_given_to_those_who_may_read_or_write(server: Server, pushed: dict[str, Any]) -> None:
    def status(access: str, token: str | None, repo: str = REPO, revision: str = "main") -> int:
        return server.call("GET", f"/api/models/{repo}/xet-{access}-token/{revision}", token=token)[0]

    body = json.dumps({"name": "hidden", "type": "model", "visibility": "private"}).encode()
    assert server.call("POST", "/api/repos/create", body, ALICE)[0] == 200
    assert status("read", None) == status("read", BOB) == status("write", ALICE) == 200
    assert status("write", None) == 401 and status("write", BOB) == 403
    assert status("read", None, "alice/hidden") == 401 and status("read", BOB, "alice/hidden") == 404
    assert status("write", BOB, "alice/hidden") == 404 and status("read", ALICE, "alice/hidden") == 200
    assert status("read", ALICE, revision="nowhere") == 404 and status("read", "hf_unknown") == 401


@pytest.mark.parametrize("kind", ["none", "forged", "expired", "of the hub", "noise", "a link", "of another hub"])
def test_a_call_with_a_bad_token_is_refused_and_leaves_nothing(
    server: Server, pushed: dict[str, Any], kind: str
) -> None:
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


def test_a_token_for_reading_writes_nothing(server: Server, pushed: dict[str, Any]) -> None:
    token, before, xorb = server.token("read")["accessToken"], server.kept(), Xorb([os.urandom(100)])
    status, body = server.call("POST", f"{server.store()}/v1/xorbs/default/{to_text(xorb.hash)}", xorb.body, token)
    assert status == 403 and b"xet-write-token" in body
    assert server.call("POST", f"{server.store()}/v1/shards", make_shard([]), token)[0] == 403
    assert server.kept() == before


def test_a_token_is_good_for_its_own_repo_only(server: Server, pushed: dict[str, Any]) -> None:
    xet_hash = server.call("HEAD", f"/{REPO}/resolve/main/model.safetensors")[0]
    assert xet_hash == 200
    rows = json.loads(server.call("GET", f"/api/models/{REPO}/tree/main")[1])
    name = next(row["xetHash"] for row in rows if row["path"] == "model.safetensors")
    body = json.dumps({"name": "other", "type": "model"}).encode()
    server.call("POST", "/api/repos/create", body, BOB)
    for version in ("v1", "v2"):
        path = f"{server.store()}/{version}/reconstructions/{name}"
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


XORB = Xorb([os.urandom(9000), b"abc" * 3000])
WHOLE = hashlib.sha256(b"".join(XORB.chunks)).digest()


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
def test_a_wrong_xorb_is_refused_and_leaves_nothing(
    server: Server, pushed: dict[str, Any], body: bytes, words: bytes
) -> None:
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
def test_an_untrue_shard_is_refused_and_leaves_nothing(
    server: Server, pushed: dict[str, Any], body: bytes, words: bytes
) -> None:
    token, store = server.token("write")["accessToken"], server.store()
    assert server.call("POST", f"{store}/v1/xorbs/default/{to_text(XORB.hash)}", XORB.body, token)[0] == 200
    before = server.kept()
    status, answer = server.call("POST", f"{store}/v1/shards", body, token)
    assert status == 400 and words in answer
    assert server.kept() == before


def test_a_body_above_the_limit_is_refused_and_leaves_nothing(server: Server, pushed: dict[str, Any]) -> None:
    token, before = server.token("write")["accessToken"], server.kept()
    status, _ = server.call("POST", f"{server.store()}/v1/xorbs/default/{to_text(XORB.hash)}", bytes(69 << 20), token)
    assert status == 413
    assert server.kept() == before


def test_a_refusal_reaches_a_caller_who_is_still_sending(server: Server, pushed: dict[str, Any]) -> None:
    path = f"{server.store()}/v1/xorbs/default/{to_text(XORB.hash)}"
    assert server.call("POST", path, bytes(60 << 20), "not.a-token")[0] == 401


def test_an_upload_that_breaks_off_leaves_nothing(server: Server, pushed: dict[str, Any]) -> None:
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


def test_a_link_opens_what_it_was_made_for_and_nothing_else(server: Server, pushed: dict[str, Any]) -> None:
    rows = json.loads(server.call("GET", f"/api/models/{REPO}/tree/main")[1])
    name = next(row["xetHash"] for row in rows if row["path"] == "random.bin")
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
