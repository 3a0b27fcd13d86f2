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
