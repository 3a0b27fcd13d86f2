"""``--config FILE``: what is in it counts as typed, what is typed counts more, and a bad file is named."""

from __future__ import annotations

import json

import pytest
import yaml

from hfplug.cli.main import main, make_parser, own_words
from hfplug.cli.run import method_from
from hfplug.cli.run_config import with_config
from hfplug.methods import get_method, method_names, resolve_method
from hfplug.testing.checks import other_settings
from hfplug.training.arguments import flag_name


def parsed(*words):
    words = [str(word) for word in words]
    parser = make_parser()
    return parser.parse_args(with_config(words, own_words(words), parser))


@pytest.mark.parametrize("name", method_names())
def test_every_setting_of_every_method_can_be_in_a_file(tmp_path, name):
    cls = get_method(name)
    settings = other_settings(cls)
    settings = {key: value for key, value in settings.items() if key != "preset"}
    wanted = None
    try:
        wanted = resolve_method(name, settings)
    except Exception:  # two of its settings exclude each other: one at a time then
        settings = dict([next(iter(settings.items()))])
        wanted = resolve_method(name, settings)
    flags = {flag_name(cls, key): list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    for file, dump in ((tmp_path / "a.json", json.dumps), (tmp_path / "a.yaml", yaml.safe_dump)):
        file.write_text(dump({"method": name, **flags}), encoding="utf-8")
        command = "run" if file.suffix == ".json" else "doctor"
        assert method_from(parsed(command, f"--config={file}", "script.py", "--config", "its-own.json")) == wanted


def test_what_is_typed_counts_more_and_the_scripts_own_words_stay(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("method: lora\nlora-r: 4\nlearning_rate: auto\nno_preflight: true\nprivate: on\npush_to: null\n")
    got = parsed("run", "--lora-r", "2", "--config", file, "--push-when", "best", "--", "train.py", "--config", "x")
    assert (got.lora_r, got.learning_rate, got.no_preflight, got.private) == (2, "auto", True, "on")
    assert (got.push_to, got.push_when, got.script) == (None, "best", ["--", "train.py", "--config", "x"])
    assert parsed("diff", "--config", _written(tmp_path, "method: ia3\nwrite: false"), "train.py").write is False


def _written(folder, text, name="b.yaml"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


BAD = [
    ("lora_rr: 4", "names 'lora_rr', which is no flag of hfplug run. Did you mean 'lora_r'"),
    ("- lora", "holds a list, and flags have names"),
    ("method: {lora: 1}", "method must be one value"),
    ("lora_target_modules: [[a]]", "must be a plain list"),
    ("no_preflight: 3", "no_preflight must be true or false, not 3"),
    ("a: [", "is no YAML"),
    ("lora_r: many", "invalid int value: 'many'"),
    ("method: lroa", "lora"),
    ("learning_rate: 0.1", "invalid choice: '0.1'"),
]


@pytest.mark.parametrize(("text", "said"), BAD, ids=[text for text, _ in BAD])
def test_a_bad_file_is_answered_on_one_line(tmp_path, capsys, text, said):
    script = _written(tmp_path, "", "script.py")
    assert main(["run", "--config", str(_written(tmp_path, text)), str(script)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error


def test_a_file_that_is_not_there_or_not_text_or_not_json(tmp_path, capsys):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for name, said in (("absent.yaml", "No such file"), ("bytes.yaml", "it is not UTF-8"), ("", "needs a file")):
        assert main(["run", f"--config={tmp_path / name if name else ''}", "script.py"]) == 2
        assert said in capsys.readouterr().err
    assert main(["run", "--config", str(_written(tmp_path, "{", "c.json")), "script.py"]) == 2
    assert "is no JSON" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "doctor"])
def test_the_help_names_it(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert "--config FILE" in shown
    if command == "doctor":
        assert "Exit status: 0 if nothing stands in the way" in shown
