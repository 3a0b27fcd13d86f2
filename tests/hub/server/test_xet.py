"""The unmodified client with Xet, which is its default, uploads to the Hub on loopback and downloads from it.

Each upload and download runs in a process of its own: whether Xet is used is settled when the client is
first imported, and what it has sent before is remembered below ``HF_HOME``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from xet_server import BOB, REPO, Server, counted_hub

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

DELETE = """
import json, sys
from huggingface_hub import HfApi
HfApi().delete_repo(sys.argv[1])
print(json.dumps("deleted"))
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
    with counted_hub(tmp_path_factory.mktemp("hub")) as server:
        yield server


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
