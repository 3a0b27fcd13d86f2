"""The package in ``examples/method_package``, installed by pip, found by hfplug, and tested by its own tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "examples" / "method_package"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that pip installed the package into."""
    folder = tmp_path_factory.mktemp("installed")
    copied = shutil.copytree(PACKAGE, folder / "source")
    words = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(folder / "site")]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *words, str(copied)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "site"


def ask(installed: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(installed), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, cwd=cwd)


def test_it_is_a_method_with_flags_and_a_preset(installed, tmp_path):
    code = "import sys; from hfplug.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = ask(installed, "-c", code, "methods", "vera", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--vera_r = 64" in done.stdout and "--preset paper  r=256" in done.stdout
    assert "'vera'" in ask(installed, "-c", code, "methods", "verra", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    "which", ["causal or flags or vectors or refused", pytest.param("Test or test", marks=pytest.mark.slow)]
)
def test_its_own_tests_pass(installed, tmp_path, which):
    shutil.copy(PACKAGE / "test_hfplug_vera.py", tmp_path)
    done = ask(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", which, "--rootdir", ".", cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    passed = int(done.stdout.split(" passed")[0].rpartition("\n")[2].split()[-1])
    assert passed == (11 if which.startswith("causal") else 27)
