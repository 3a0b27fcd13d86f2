"""The sweep over every text architecture: its page is what the script writes, and each pair ends as the page says."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hfplug.testing.architectures import Findings, check_method, save_base
from hfplug.testing.tiny_models import text_pairs

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "architectures.py"
PAGE = ROOT / "docs" / "architectures.md"


@pytest.fixture(scope="module")
def script():
    """The benchmark as a module."""
    made = importlib.util.spec_from_file_location("architectures_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    return module


def counts_of(page: str) -> dict[str, list[int]]:
    """The counts of each method in the first table of the page."""
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| `")]
    rows = [row for row in rows if len(row) > 4]
    return {row[0].strip(" `"): [int(cell) for cell in row[1:-2]] for row in rows}


def left_over(page: str) -> dict[tuple[str, str], str]:
    """How each pair and method that does not work ends, as the page says."""
    ends = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and cells[0].startswith("`"):
            ends |= {(pair, cells[0].strip("`")): cells[1] for pair in cells[3].split(", ")}
    return ends


def test_the_page_has_the_columns_that_the_script_writes(script):
    assert script.HEADER in PAGE.read_text()


def test_the_page_counts_every_pair_once_for_every_method(script):
    page = PAGE.read_text()
    for method, (pairs, *ends) in counts_of(page).items():
        assert pairs == sum(ends), method
        told = [one for (_, name), one in left_over(page).items() if name == method]
        assert [told.count(end) for end in script.ENDS[1:]] == ends[1:], method


@pytest.mark.slow
def test_a_run_writes_lines_and_a_page_and_does_not_run_again_what_is_there(tmp_path):
    lines, page = tmp_path / "lines.jsonl", tmp_path / "page.md"
    command = [sys.executable, str(SCRIPT), "--only", "gpt2-causal", "--methods", "lora,bitfit"]
    command += ["--json", str(lines), "--markdown", str(page)]
    subprocess.run(command, check=True, capture_output=True)
    first = lines.read_text()
    ends = {line["method"]: line["end"] for line in map(json.loads, first.splitlines())}
    assert ends == {"lora": "works", "bitfit": "works"}
    assert counts_of(page.read_text()) == {"lora": [1, 1, 0, 0, 0, 0], "bitfit": [1, 1, 0, 0, 0, 0]}
    subprocess.run(command, check=True, capture_output=True)
    assert lines.read_text() == first


def test_a_method_that_leaves_something_dead_is_found_out(tmp_path, monkeypatch):
    from hfplug.methods.lora import Lora

    def freeze_one(self, model):
        next(one for name, one in model.named_parameters() if "lora_A" in name).requires_grad_(False)
        return model

    monkeypatch.setattr(Lora, "finish", freeze_one)
    save_base("gpt2", "causal", tmp_path / "base")
    found = check_method(tmp_path / "base", "causal", "lora", tmp_path)
    assert isinstance(found, Findings) and any("numbers are saved" in one for one in found.wrong)


@pytest.mark.slow
@pytest.mark.parametrize("pair", text_pairs(), ids=lambda pair: pair.name)
def test_each_pair_ends_as_the_page_says(script, pair):
    page = PAGE.read_text()
    told = {method: left_over(page).get((pair.name, method), "works") for method in counts_of(page)}
    ends = {line["method"]: line["end"] for line in script.in_a_child(pair, list(told))}
    assert ends == told
