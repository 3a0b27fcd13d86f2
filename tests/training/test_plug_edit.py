"""``hfplug diff``: the two lines that do to a script what ``hfplug run`` does without them."""

from __future__ import annotations

import runpy
import sys

import pytest
from plug_samples import SCRIPTS, dialogues, make_base, training_flags

import hfplug
from hfplug.cli.main import main
from hfplug.errors import TrainingError
from hfplug.training.plug_edit import edit_source

SMALL = '''"""Doc."""
import os

class Mine(Trainer):
    pass

def main():
    trainer = Mine(
        model=model,
    )
    trainer.train()
'''


def test_two_lines_are_added_and_nothing_else():
    added = edit_source(SMALL, "lora", {"r": 4}).splitlines()
    assert [line for line in added if line not in SMALL.splitlines()] == [
        "import hfplug",
        '    hfplug.plug(trainer, "lora", r=4)',
    ]
    assert added[2] == "import hfplug" and added[added.index("    )") + 1].strip().startswith("hfplug.plug")


def test_the_line_ends_stay_as_they_are():
    windows = SMALL.replace("\n", "\r\n")
    assert edit_source(windows, "lora") == edit_source(SMALL, "lora").replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print(1)\n", "no statement such as"),
        ("import hfplug\ntrainer = Trainer()\n", "imports hfplug already"),
        ("trainer = = 3", "cannot be read as Python"),
    ],
)
def test_what_cannot_be_edited_is_said(code, message):
    with pytest.raises(TrainingError, match=message):
        edit_source(code, "lora")


def test_a_page_break_is_no_line_end_and_tabs_stay_tabs():
    source = "import os\n\x0c\ndef main():\n\ttrainer = Trainer()  # mine\n\ttrainer.train()\n"
    changed = edit_source(source, "lora")
    assert changed == (
        "import os\nimport hfplug\n\x0c\ndef main():\n\ttrainer = Trainer()  # mine\n"
        '\thfplug.plug(trainer, "lora")\n\ttrainer.train()\n'
    )


def test_hfplug_is_imported_before_it_is_used():
    changed = edit_source("import a\ntrainer = Trainer()\nimport b\n", "lora").splitlines()
    assert changed == ["import a", "import hfplug", "trainer = Trainer()", 'hfplug.plug(trainer, "lora")', "import b"]


@pytest.mark.parametrize("line", ["trainer = Trainer(); trainer.train()", "if True: trainer = Trainer()"])
def test_a_statement_that_shares_its_line_is_refused(line):
    with pytest.raises(TrainingError, match="in line 2 together with another statement"):
        edit_source(f"import a\n{line}\n", "lora")


@pytest.mark.parametrize(
    ("start", "encoding"),
    [("", "utf-8"), ("", "utf-8-sig"), ("# -*- coding: latin-1 -*-\n", "latin-1")],
)
def test_write_keeps_encoding_line_ends_mode_and_links(tmp_path, start, encoding):
    path, link = tmp_path / "theirs.py", tmp_path / "link.py"
    source = f"{start}# é\nimport a\ntrainer = Trainer()\n".replace("\n", "\r\n")
    path.write_bytes(source.encode(encoding))
    path.chmod(0o755)
    link.symlink_to(path)
    assert main(["diff", "--method", "lora", str(link), "--write"]) == 0
    assert path.read_bytes() == edit_source(source, "lora").encode(encoding)
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o755
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link.py", "theirs.py"]


def test_a_script_in_another_encoding_than_it_says_is_refused(tmp_path, capsys):
    path = tmp_path / "theirs.py"
    path.write_bytes("trainer = Trainer()  # é\n".encode("latin-1"))
    assert main(["diff", str(path), "--write"]) == 2
    assert "cannot be read as Python" in capsys.readouterr().err


def test_an_edited_script_trains_an_adapter(monkeypatch, tmp_path, capsys):
    path = tmp_path / "theirs.py"
    original = (SCRIPTS / "summarize.py").read_text(encoding="utf-8")
    path.write_text(original, encoding="utf-8")
    assert main(["diff", "--method", "prompt_tuning", str(path)]) == 0
    printed = capsys.readouterr().out
    assert path.read_text(encoding="utf-8") == original
    assert [line for line in printed.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")] == [
        "+import hfplug",
        '+    hfplug.plug(trainer, "prompt_tuning")',
    ]
    assert main(["diff", "--method", "prompt_tuning", str(path), "--write"]) == 0
    train, evaluation = dialogues(tmp_path)
    flags = ["--model_name_or_path", make_base("t5", tmp_path / "base"), "--train_file", train]
    flags += ["--validation_file", evaluation, "--do_train", *training_flags(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, flags)])
    runpy.run_path(str(path), run_name="__main__")
    assert hfplug.AdapterDir.open(tmp_path / "out" / "adapter").record.method == "prompt_tuning"


@pytest.mark.parametrize(
    "code",
    [
        "from transformers import *\ntrainer = Trainer(model, args)\n",
        "from transformers import Seq2SeqTrainer as Maker\ntrainer = Maker(model)\n",
        "from transformers import Trainer\nclass A(Trainer): pass\nclass B(A): pass\ntrainer = B(model)\n",
        "import transformers as tf\n@record\ndef main():\n\ttrainer = tf.Trainer(\n\t\tmodel,\n\t)\n\ttrainer.go()\n",
        "#!/usr/bin/env python\n# -*- coding: latin-1 -*-\ntry:\n    import x\nexcept ImportError:\n    pass\n"
        "trainer = Trainer(model)  # \xe9\n",
        "# coding: latin-1\nif True:\n    trainer = Trainer('\xe9')\n",
    ],
)
def test_scripts_of_all_shapes_are_edited_into_ones_that_compile(code):
    changed = edit_source(code, "lora")
    compile(changed.encode("latin-1" if "latin-1" in code else "utf-8"), "script.py", "exec")
    lines = changed.splitlines()
    assert [line for line in lines if "hfplug" not in line] == code.splitlines()
    put_on = next(at for at, line in enumerate(lines) if "hfplug.plug(trainer" in line)
    assert lines.index("import hfplug") < put_on
    assert [line for line in lines if line.startswith("#")] == lines[: sum(line.startswith("#") for line in lines)]
