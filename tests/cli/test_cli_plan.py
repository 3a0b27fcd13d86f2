"""``hfplug plan``."""

from __future__ import annotations

import json

import pytest

from hfplug.cli.main import main

STEP = ["--batch", "2", "--length", "32", "--target-length", "16", "--methods", "full,lora"]


def test_it_prints_a_table_the_formula_and_the_whole_for_some_tasks(small_base, capsys):
    assert main(["plan", str(small_base), *STEP, "--memory", "1GB", "--tasks", "7"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if line.startswith(("full", "lora"))] == [
        "full",
        "lora",
        "lora",
    ]
    assert "largest batch" in said
    assert "peak = weights + gradients + states + activations + temporary" in said
    assert "full, in bytes a parameter: 4.0 + 4.0 + 8.0 +" in said
    assert "7 full copies" in said


def test_it_prints_json_whose_parts_add_up(small_base, capsys):
    assert main(["plan", str(small_base), *STEP, "--json", "--memory", "A100-80GB", "--lora-r", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    for row in found["methods"]:
        assert row["peak"] == sum(row[part] for part in found["formula"])
        assert row["fits"] is True
    assert found["device"]["bytes"] == 80 * 10**9
    assert found["tasks"]["bytes"]["lora"]["full_copies"] == 10 * found["full_copy_bytes"]


def test_it_draws_a_picture(small_base, tmp_path, capsys):
    assert main(["plan", str(small_base), *STEP, "--memory", "1GB", "--plot", str(tmp_path / "plan.svg")]) == 0
    assert "<svg" in (tmp_path / "plan.svg").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["./nowhere"], "there is no such folder"),
        (["BASE", "--batch", "0"], "batch must be 1 or more"),
        (["BASE", "--tasks", "0"], "tasks must be 1 or more"),
        (["BASE", "--memory", "24GBs"], "not '24GBs'"),
        (["BASE", "--optimizer", "adamm"], "is not known"),
        (["BASE", "--dtype", "int8"], "dtype must be"),
        (["BASE", "--plot", "plan.jpeg"], "ends in .png or .svg"),
        (["BASE", "--plot", "no/such/folder/plan.png"], "There is no folder"),
        (["BASE", "--methods", "lorra"], "Did you mean 'lora'"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(small_base, capsys, words, said):
    assert main(["plan", *(str(small_base) if word == "BASE" else word for word in words)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
