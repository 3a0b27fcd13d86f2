"""An upload or a download through Xet gets through a Hub that fails now and then, and what arrives is right."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hfplug.hub.server.xet_hashes import from_text, hash_chunk, hash_xorb
from hfplug.hub.server.xet_store import XorbStore

UPLOAD = """
import json, sys
from huggingface_hub import HfApi
done = HfApi().upload_file(repo_id="alice/a", path_or_fileobj=sys.argv[1], path_in_repo="model.bin")
print(json.dumps(done.oid))
"""
DOWNLOAD = """
import json
from huggingface_hub import hf_hub_download
print(json.dumps(hf_hub_download("alice/a", "model.bin")))
"""
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
CONTENT = random.Random(0).randbytes(1_000_000)
KINDS = ["lost", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("500", "429", "reset", "truncated"))]


SERVE = """
import sys, time
from pathlib import Path
from hfplug.hub.server import running_hub
with running_hub(Path(sys.argv[1]), port=int(sys.argv[2]), tokens={sys.argv[3]: "alice"}):
    print("up", flush=True)
    time.sleep(600)
"""


def run(hub: Any, code: str, *arguments: str, home: Path) -> Any:
    # The Rust half of the client waits three seconds before it tries again; that is not what is tested.
    environment = hub.environment(HF_HOME=str(home), HF_XET_CLIENT_RETRY_BASE_DELAY="50ms")
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_an_upload_gets_through_failures_of_the_content_server(hub: Any, tmp_path: Path, kind: str) -> None:
    hub.api.create_repo("alice/a")
    path = tmp_path / "model.bin"
    path.write_bytes(CONTENT)
    hub.faults.next(2, kind, r"POST .*/v1/xorbs/")
    hub.faults.next(2, kind, r"POST .*/v1/shards")
    commit = run(hub, UPLOAD, str(path), home=tmp_path / "home")
    assert len(hub.faults.struck) == 4
    assert hub.api.model_info("alice/a").sha == commit
    assert len(hub.api.list_repo_commits("alice/a")) == 2
    got = run(hub, DOWNLOAD, home=tmp_path / "other")
    assert Path(got).read_bytes() == CONTENT
    assert not list((hub.root / "xet" / "incoming").iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_a_download_gets_through_failures_of_the_content_server(hub: Any, tmp_path: Path, kind: str) -> None:
    hub.api.create_repo("alice/a")
    path = tmp_path / "model.bin"
    path.write_bytes(CONTENT)
    run(hub, UPLOAD, str(path), home=tmp_path / "home")
    hub.faults.next(2, kind, r"GET .*/v2/reconstructions/")
    hub.faults.next(2, kind, r"GET .*/v1/blobs/")
    got = run(hub, DOWNLOAD, home=tmp_path / "other")
    assert len(hub.faults.struck) == 4
    assert Path(got).read_bytes() == CONTENT


def test_an_upload_goes_on_where_it_was_after_a_restart_of_the_hub(hub: Any, tmp_path: Path) -> None:
    hub.api.create_repo("alice/a")
    path = tmp_path / "model.bin"
    path.write_bytes(CONTENT)
    run(hub, UPLOAD, str(path), home=tmp_path / "home")
    hub.stop()
    hub.start()
    path.write_bytes(CONTENT + b"more")
    run(hub, UPLOAD, str(path), home=tmp_path / "home")
    sizes = sorted(kept.stat().st_size for kept in (hub.root / "xet" / "xorbs").glob("??/*"))
    assert len(sizes) == 2 and sizes[0] < len(CONTENT) / 5
    assert Path(run(hub, DOWNLOAD, home=tmp_path / "other")).read_bytes() == CONTENT + b"more"


@pytest.mark.slow
def test_a_hub_that_is_killed_while_it_takes_xorbs_keeps_whole_ones_only(hub: Any, tmp_path: Path) -> None:
    hub.api.create_repo("alice/a")
    hub.stop()
    port = hub.endpoint.rpartition(":")[2]
    rng = random.Random(0)
    environment = hub.environment(HF_HOME=str(tmp_path / "home"), HF_XET_CLIENT_RETRY_BASE_DELAY="50ms")
    path = tmp_path / "model.bin"
    seen = set()
    for number in range(8):
        content = random.Random(number).randbytes(20_000_000)
        path.write_bytes(content)
        with serving(hub, port) as server:
            uploading = subprocess.Popen([sys.executable, "-c", UPLOAD, str(path)], env=environment, **QUIET)
            wait_for(lambda: any((hub.root / "xet" / "incoming").glob("*")))
            time.sleep(rng.uniform(0, 0.3))
            server.kill()
        uploading.wait(60)
        seen |= {uploading.returncode}
        check_xorbs(XorbStore(hub.root / "xet"))
    assert seen != {0}  # some were caught in the middle
    with serving(hub, port):
        assert not any((hub.root / "xet" / "incoming").glob("*"))
        run(hub, UPLOAD, str(path), home=tmp_path / "home")
        assert Path(run(hub, DOWNLOAD, home=tmp_path / "other")).read_bytes() == content


@contextmanager
def serving(hub: Any, port: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SERVE, str(hub.root), port, hub.token]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdout.readline() == "up\n"
        try:
            yield server
        finally:
            server.kill()


def check_xorbs(store: XorbStore) -> None:
    for path in (store.folder / "xorbs").glob("??/*"):
        xorb = from_text(path.parent.name + path.name)
        index = store.index(xorb)
        assert index is not None
        leaves = list(index.leaves(0, len(index)))
        assert hash_xorb(leaves) == xorb
        assert [hash_chunk(data) for data in store.content(xorb, 0, len(index))] == [digest for digest, _ in leaves]


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)
