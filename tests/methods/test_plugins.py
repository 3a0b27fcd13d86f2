"""Methods of other packages: registered by an entry point, left out with a warning if broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


BROKEN = {
    "import error": ("import there_is_no_such_module", "No module named 'there_is_no_such_module'"),
    "exit": ("raise SystemExit('not today')", "SystemExit: not today"),
    "name that is taken": (METHOD.format(name="lora"), "Two tuning methods are called 'lora': hfplug.methods.lora and"),
    "flags that are taken": (METHOD.format(name="other").replace('"mine"', '"lora"'), "flags that begin with --lora"),
    "no method": (
        "from hfplug.methods import register_method\n@register_method\nclass Mine: ...",
        "is no tuning method",
    ),
    "nothing registered": ("x = 1", "registers no method; put @register_method on its class"),
    "says nothing": (
        METHOD.format(name="mine").replace("(Lora)", "(TuningMethod)").replace("import Lora", "import TuningMethod"),
        "does not say its category, summary, paper",
    ),
    "bad default": (METHOD.format(name="mine") + "    r: int = 0.5\n", "cannot be made with its defaults"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_one_is_a_warning_that_names_it_and_stops_nothing(tmp_path, what):
    code, words = BROKEN[what]
    install(tmp_path, "broken_package", code)
    install(tmp_path, "good_package", METHOD.format(name="good").replace('"mine"', '"good"'))
    done = ask(tmp_path, "from hfplug.cli.main import main; main(['methods', 'lora', 'good'])")
    assert done.returncode == 0 and "two thin matrices" in done.stdout, done.stderr
    warned = [line for line in done.stderr.splitlines() if "is left out" in line]
    assert len(warned) == 1 and "'broken_package' of the package broken_package" in warned[0]
    assert words in warned[0], warned[0]


def test_the_help_is_printed_beside_a_broken_one(tmp_path):
    install(tmp_path, "clashing_package", METHOD.format(name="lora"))
    done = ask(tmp_path, "import sys; from hfplug.cli.main import main; sys.exit(main(['--help']))")
    assert done.returncode == 0 and "usage: hfplug" in done.stdout
    assert "Traceback" not in done.stderr
