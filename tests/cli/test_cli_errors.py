"""What a user types wrong is answered on one line, with the fix, exit code 2 and no stack trace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import hfplug
from hfplug.cli.main import COMMANDS, main, make_parser
from hfplug.errors import HfplugError
from hfplug.methods import method_names


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A data file of two rows."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"dialogue": f"A: {n}", "summary": f"s{n}"}) + "\n" for n in range(2)))
    return file


def refused(capsys: pytest.CaptureFixture, *words: str) -> str:
    """The one line that a command answers with."""
    assert main([*words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and captured.err.startswith("hfplug: ")
    assert "Traceback" not in captured.err
    return captured.err


def study(rows: Path, *words: str, base: str = "absent-folder/x/y") -> list[str]:
    return ["study", "--base", base, "--data", str(rows), "--out", str(rows.parent / "out"), *words]


def test_a_misspelt_command(capsys):
    assert "Did you mean 'study'?" in refused(capsys, "studdy")


def test_a_misspelt_flag(capsys, rows):
    assert "Did you mean '--lora_r'?" in refused(capsys, *study(rows, "--lora_rr", "3"))


def test_an_unknown_method(capsys, rows):
    assert "Did you mean 'lora'?" in refused(capsys, *study(rows, "--methods", "lorra"))


def test_a_flag_of_another_method(capsys, rows):
    line = refused(capsys, *study(rows, "--methods", "prompt_tuning", "--lora-r", "4"))
    owners = ", ".join(name for name in hfplug.method_names() if "r" in hfplug.get_method(name)().settings())
    assert f"--lora_r is a flag of {owners}" in line and "--prompt_num_virtual_tokens" in line


def test_a_setting_out_of_range(capsys, rows):
    assert "r must be between 1 and 4096, not 0" in refused(capsys, *study(rows, "--methods", "lora", "--lora_r", "0"))


def test_a_base_that_does_not_exist(capsys, rows):
    line = refused(capsys, *study(rows, "--methods", "lora", base="./no-such-folder"))
    assert "there is no such folder" in line and "repo id" in line


def test_a_base_that_is_no_model(capsys, rows):
    line = refused(capsys, *study(rows, "--methods", "lora", base=str(rows.parent)))
    assert "has no config.json" in line


def test_an_unreadable_data_file(capsys, rows, small_base):
    rows.write_text('{"dialogue": "A: hello"\n')
    line = refused(capsys, *study(rows, "--methods", "lora", base=str(small_base)))
    assert "line 1" in line


def test_a_missing_extra(capsys, rows, small_base, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else real(name, *a)
    )
    line = refused(
        capsys,
        *study(
            rows,
            "--methods",
            "qlora",
            "--train-split",
            "train[:1]",
            "--eval-split",
            "train[1:]",
            "--max-steps",
            "1",
            base=str(small_base),
        ),  # fmt: skip
    )
    assert "pip install 'hfplug[qlora]'" in line


def test_a_learning_rate_that_is_no_number(capsys, rows):
    assert "METHOD=RATE" in refused(capsys, *study(rows, "--methods", "lora", "--learning-rate", "lora=fast"))


def test_a_study_without_a_base(capsys, tmp_path):
    assert "needs --base" in refused(capsys, "study", "--out", str(tmp_path / "x"))


def test_debug_shows_the_stack_trace(rows):
    with pytest.raises(HfplugError):
        main(["--debug", *study(rows, "--methods", "lorra")])


def test_methods_prints_every_registered_method(capsys):
    assert main(["methods", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list(method_names())


@pytest.mark.parametrize("command", [None, *(item.__name__.rpartition(".")[2] for item in COMMANDS)])
def test_help_is_printed_without_a_heavy_import(command):
    words = [command, "--help"] if command else ["--help"]
    code = (
        "import sys\nfrom hfplug.cli.main import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'accelerate', 'bitsandbytes', 'matplotlib', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "usage: hfplug" in done.stdout


def test_every_command_says_what_it_does():
    text = make_parser().format_help()
    for command in COMMANDS:
        assert command.__doc__.splitlines()[0].partition(": ")[2].split()[0] in text
