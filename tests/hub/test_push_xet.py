"""Pushing with Xet, without it, and to a Hub that has none: each in a process of its own, for the client decides it
when it is first imported."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hfplug.hub.server import running_hub

SCRIPT = """
import json, sys
import torch
from pathlib import Path
from safetensors.torch import save_file
from hfplug import push_adapter

folder = Path(sys.argv[1])
folder.mkdir()
config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "google/flan-t5-small"}
(folder / "adapter_config.json").write_text(json.dumps(config))
shown = []
for seed in (0, 1, 1):
    torch.manual_seed(seed)
    save_file({"layer.lora_A.weight": torch.randn(300, 300)}, folder / "adapter_model.safetensors")
    sent = push_adapter(folder, "alice/x", message=f"seed {seed}", timeout=10)
    shown.append([sent.commit, sent.changed])
print(json.dumps(shown))
"""


def push_in_a_process(hub, tmp_path, **environment):
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "adapter")]
    done = subprocess.run(words, env=hub.environment(**environment), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def hub_without_xet(hub, tmp_path):
    """Another Hub, which does not know what Xet is; ``hub.api`` and ``hub.faults`` are at it."""

    def without_xet(app):
        async def older(scope, receive, send):
            if "/xet-" in scope.get("path", ""):
                scope = {**scope, "path": "/no-such-thing", "raw_path": b"/no-such-thing"}
            await app(scope, receive, send)

        return hub.faults.around(older)

    with running_hub(tmp_path / "older", tokens={hub.token: hub.owner}, wrap=without_xet) as older:
        hub.api = HfApi(endpoint=older.endpoint, token=hub.token)
        yield older


def check(hub, tmp_path, shown):
    """Two commits for three pushes, and the bytes of the last."""
    titles = [commit.title for commit in hub.api.list_repo_commits("alice/x")][:-1]
    assert titles == ["seed 1", "seed 0"]
    assert [changed for _, changed in shown] == [True, True, False]
    assert shown[1][0] == shown[2][0] == hub.api.model_info("alice/x").sha
    path = hub.api.hf_hub_download("alice/x", "adapter_model.safetensors", cache_dir=hub.cache)
    assert Path(path).read_bytes() == (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow
def test_large_files_go_by_xet_where_the_hub_has_it(hub, tmp_path):
    check(hub, tmp_path, push_in_a_process(hub, tmp_path))
    assert hub.faults.count("/xet-write-token/") and not hub.faults.count("objects/batch")


@pytest.mark.slow
def test_large_files_go_by_lfs_where_xet_is_switched_off(hub, tmp_path):
    check(hub, tmp_path, push_in_a_process(hub, tmp_path, HF_HUB_DISABLE_XET="1"))
    assert hub.faults.count("objects/batch") == 2 and not hub.faults.count("/xet-write-token/")


@pytest.mark.slow
def test_large_files_go_by_lfs_to_a_hub_without_xet(hub, tmp_path):
    with hub_without_xet(hub, tmp_path) as older:
        check(hub, tmp_path, push_in_a_process(hub, tmp_path, HF_ENDPOINT=older.endpoint))
    assert hub.faults.count("/xet-write-token/") == 2 == hub.faults.count("objects/batch")


@pytest.mark.slow
def test_where_only_a_tokenizer_changes_it_reaches_a_hub_without_xet(hub, tmp_path):
    with hub_without_xet(hub, tmp_path) as older:
        push_in_a_process(hub, tmp_path, HF_ENDPOINT=older.endpoint)
        (tmp_path / "adapter" / "spiece.model").write_bytes(bytes(range(256)) * 8)
        words = [sys.executable, "-c", PUSH_AGAIN, str(tmp_path / "adapter")]
        environment = hub.environment(HF_ENDPOINT=older.endpoint)
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        path = hub.api.hf_hub_download("alice/x", "spiece.model", cache_dir=hub.cache)
        assert Path(path).read_bytes() == bytes(range(256)) * 8
    assert hub.faults.count("objects/batch") == 3  # two of weights, and this one


@pytest.mark.slow
def test_a_commit_whose_answer_was_lost_is_recognised_with_xet(hub, tmp_path):
    hub.faults.next(2, "lost", "POST .*/commit/")
    shown = push_in_a_process(hub, tmp_path)
    assert hub.faults.left == 0
    check(hub, tmp_path, shown)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["500", "429", "reset", "truncated", "lost"])
@pytest.mark.parametrize("call", ["/xet-write-token/", "xorbs", "shards"])
def test_a_failure_on_the_way_of_xet_passes(hub, tmp_path, kind, call):
    hub.faults.next(1, kind, call)
    shown = push_in_a_process(hub, tmp_path)
    assert hub.faults.left == 0
    check(hub, tmp_path, shown)


PUSH_AGAIN = """
import sys
from hfplug import push_adapter

push_adapter(sys.argv[1], "alice/x", timeout=10, tries=1)
"""
PULL_REQUEST = """
import sys
from hfplug import push_adapter

print(push_adapter(sys.argv[1], "alice/x", create_pr="on", timeout=10).pull_request)
"""


def test_a_pull_request_to_somebody_elses_repo_goes_by_xet(hub, tmp_path):
    """Whoever opens one may not write to the branch, so the token for Xet is asked for on behalf of it."""
    push_in_a_process(hub, tmp_path)
    make = [sys.executable, "-c", CHANGE, str(tmp_path / "adapter")]
    subprocess.run(make, check=True, timeout=120)
    words = [sys.executable, "-c", PULL_REQUEST, str(tmp_path / "adapter")]
    environment = hub.environment(HF_TOKEN=hub.other_token)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["1"]
    assert hub.faults.count("/xet-write-token/") and not hub.faults.count("objects/batch")


CHANGE = """
import sys
import torch
from safetensors.torch import save_file

save_file({"layer.lora_A.weight": torch.full((300, 300), 2.0)}, sys.argv[1] + "/adapter_model.safetensors")
"""
