"""Methods of other packages: registered by an entry point, left out if broken, refused if the name is taken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

METHOD = '''
from dataclasses import dataclass
from typing import ClassVar
from hfplug.methods import Lora, register_method

@register_method
@dataclass(frozen=True, kw_only=True)
class Mine(Lora):
    """A method of another package."""
    name: ClassVar[str] = "{name}"
    flag_prefix: ClassVar[str] = "mine"
'''


def install(folder: Path, package: str, code: str) -> None:
    """What an installer leaves: the module, and the metadata with its entry point."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{package}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[hfplug.methods]\n{package} = {package}\n")


def ask(folder: Path, code: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_a_method_of_another_package_has_a_name_and_flags(tmp_path):
    install(tmp_path, "good_package", METHOD.format(name="mine"))
    code = "import hfplug; print('mine' in hfplug.method_names(), type(hfplug.get_method('mine')()).__module__)"
    assert ask(tmp_path, code).stdout.split() == ["True", "good_package"]
    code = "from hfplug.training.arguments import flag_table; print('lora_r' in flag_table())"
    assert ask(tmp_path, code).stdout.split() == ["True"]


def test_a_broken_one_is_a_warning_that_names_it_and_stops_nothing(tmp_path):
    install(tmp_path, "broken_package", "import there_is_no_such_module")
    found = ask(tmp_path, "import hfplug; print('lora' in hfplug.method_names())")
    assert found.stdout.split() == ["True"], found.stderr
    assert "'broken_package'" in found.stderr and "there_is_no_such_module" in found.stderr


def test_a_name_that_is_taken_is_an_error_that_names_both(tmp_path):
    install(tmp_path, "clashing_package", METHOD.format(name="lora"))
    code = (
        "import hfplug\nfor _ in range(2):\n    try:\n        hfplug.method_names()\n"
        "    except hfplug.MethodError as e:\n        print(e)"
    )
    lines = ask(tmp_path, code).stdout.splitlines()
    assert len(lines) == 2 and all("clashing_package" in line and "hfplug.methods.lora" in line for line in lines)
