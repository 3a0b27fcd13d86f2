"""Users' scripts in processes of their own, told of the Hub by the environment alone; with Xet and without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


def run_script(hub, name, *words, **environment):
    return subprocess.run(
        [sys.executable, str(SCRIPTS / name), *map(str, words)],
        env=hub.environment(**environment), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "way"), [({}, "through Xet"), ({"HF_HUB_DISABLE_XET": "1"}, "through LFS")], ids=["xet", "lfs"]
)
def test_a_folder_goes_up_and_comes_down_by_commit_and_by_pull_request(hub, tmp_path, environment, way):
    folder = tmp_path / "adapter"
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# An adapter\n")
    (folder / "sub" / "notes.txt").write_text("text")
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 2000)
    done = run_script(hub, "use_hub.py", folder, **environment)
    assert (done.returncode, done.stdout.strip()) == (0, way), done.stderr
    assert (hub.faults.count("lfs/objects/batch") > 0) == (way == "through LFS")


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, {"HF_HUB_DISABLE_XET": "1"}], ids=["xet", "lfs"])
def test_plain_transformers_and_peft_push_and_load_by_name(hub, environment):
    done = run_script(hub, "load_from_hub.py", OMP_NUM_THREADS="1", **environment)
    assert (done.returncode, done.stdout.strip()) == (0, "loaded"), done.stderr


@pytest.mark.slow
def test_plain_datasets_push_and_load_by_name(hub):
    done = run_script(hub, "rows_on_hub.py")
    assert (done.returncode, done.stdout.strip()) == (0, "loaded"), done.stderr
