"""``hfplug methods`` on a base."""

from __future__ import annotations

import json

from hfplug.cli.main import main
from hfplug.demo.base import base_path


def test_it_says_which_methods_work_on_a_base_and_why_the_others_do_not(capsys):
    assert main(["methods", "--json", "--base", str(base_path())]) == 0
    found = {row["name"]: row["on_base"] for row in json.loads(capsys.readouterr().out)}
    assert {name for name, answer in found.items() if answer != "works"} == {"bitfit"}
    assert "this t5 model has no bias. Use norms" in found["bitfit"]


def test_a_base_that_is_not_there_is_one_sentence(capsys):
    assert main(["methods", "--base", "./nowhere"]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_all_are_those_that_work_on_the_base_and_the_log_says_which_do_not(caplog):
    import hfplug
    from hfplug.cli.method_flags import method_words

    assert method_words("all", default=(), base=base_path()) == [n for n in hfplug.method_names() if n != "bitfit"]
    assert "bitfit is left out: bitfit trains biases" in caplog.text
    assert method_words("all", default=()) == list(hfplug.method_names())
    assert method_words(" lora, ia3", default=()) == ["lora", "ia3"]


def test_the_table_says_what_is_to_be_known_of_each_and_fits_a_hundred_columns(capsys, monkeypatch):
    import hfplug

    monkeypatch.setenv("COLUMNS", "100")
    assert main(["methods"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    assert shown.splitlines()[0].split() == ["method", "class", "merges", "batched", "tasks"]
    words = " ".join(shown.split())
    for name in hfplug.method_names():
        cls = hfplug.get_method(name)
        assert f"{name}: {' '.join(cls.summary.split())}" in words
        assert (
            f"paper {cls.paper}" in words and f"merging {cls.merging}" in words and f"batching {cls.batching}" in words
        )
    assert "--lora_r = 16 rank of the two matrices (1 to 4096)" in words
    assert "--bottleneck_placement = pfeiffer where the networks stand (pfeiffer, houlsby, parallel)" in words


def test_on_a_base_it_says_what_each_trains_of_it(capsys):
    import hfplug

    assert main(["methods", "--base", str(base_path()), "--json", "full", "lora", "bitfit"]) == 0
    full, lora, bitfit = json.loads(capsys.readouterr().out)
    model = hfplug.build_model(base_path(), "lora")
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    total = sum(one.numel() for one in hfplug.build_model(base_path(), "full").parameters())
    assert (lora["share"]["trainable"], lora["share"]["total"]) == (trained, total)
    assert full["share"]["share"] == 1.0 and "no bias" in bitfit["share"]["why_not"]
    assert lora["share"]["learning_rate"] == hfplug.advised_learning_rate(model).value
    assert main(["methods", "--base", str(base_path()), "lora", "bitfit"]) == 0
    shown = capsys.readouterr().out
    assert f"{trained:,}  {100 * trained / total:.2f} %" in shown and "bitfit  selective             no" in shown


def test_who_reads_only_the_first_lines_is_told_nothing_of_a_pipe():
    import subprocess
    import sys

    words = [sys.executable, "-c", "from hfplug.cli.main import main; raise SystemExit(main(['methods']))"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 141
