"""The Space's app is found in a checkout and in a wheel, and pins what the tests ran with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hfplug.hub.server.cards import problems, read_card
from hfplug.hub.server.space_cards import space_problems
from hfplug.space.app_files import app_folder, load_app

ROOT = Path(__file__).parents[2]
APP = ROOT / "spaces" / "compare"


def project():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(file):
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in lines if line)


def test_a_checkout_has_it_where_it_can_be_pushed_from():
    assert app_folder() == APP
    assert {"app.py", "README.md", "requirements.txt"} <= {path.name for path in APP.iterdir()}


def test_what_the_app_gives_can_be_called():
    app = load_app()
    assert callable(app.create_app) and callable(app.launch)


def test_a_wheel_has_it_beside_the_package(tmp_path):
    """The wheel as pyproject.toml describes it, laid out without building one."""
    wheel = project()["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["hfplug"]
    junk = shutil.ignore_patterns("__pycache__", "model.safetensors")
    shutil.copytree(ROOT / "hfplug", tmp_path / "hfplug", ignore=junk)
    for source, target in wheel["force-include"].items():
        shutil.copytree(ROOT / source, tmp_path / target, ignore=junk)
    code = (
        "from hfplug.space.app_files import app_folder\nprint(app_folder())\n"
        "from hfplug.space.config import SpaceConfig\nfrom hfplug.space.space_files import space_files\n"
        "names = space_files(SpaceConfig()).files\n"
        "print('app.py' in names, 'hfplug/space/app_files.py' in names, any('space/compare' in name for name in names))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [str(tmp_path / "hfplug" / "space" / "compare"), "True True False"]


def test_the_versions_are_those_that_the_tests_run_with():
    tested, wanted = pins(ROOT / "constraints.txt"), pins(APP / "requirements.txt")
    assert wanted and {name: tested.get(name) for name in wanted} == wanted
    front = read_card((APP / "README.md").read_text(encoding="utf-8"))
    assert front["sdk_version"] == tested["gradio"] == wanted["gradio"]


def test_everything_that_hfplug_needs_is_pinned():
    declared = project()["project"]
    needed = [*declared["dependencies"], *declared["optional-dependencies"]["space"]]
    names = {re.match(r"[\w-]+", line)[0] for line in needed}
    assert names - set(pins(APP / "requirements.txt")) == set()


def test_its_readme_is_one_that_the_hub_takes():
    text = (APP / "README.md").read_text(encoding="utf-8")
    assert problems(text) == ([], []) and space_problems(read_card(text)) == []
