"""``hfplug space``, as a user types it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from huggingface_hub import HfApi

from hfplug.cli.main import main, make_parser
from hfplug.cli.space import DEFAULT_PORT, _free_port, config_from

TOKEN = "hf_" + "alice" * 7 + "aa"
SPACE = "alice/compare"
LIGHT = ["--hfplug-requirement", "hfplug==0.1.0"]


@pytest.fixture(autouse=True)
def nothing_from_outside(tmp_path, monkeypatch):
    """An empty folder, no settings and no token in the environment, and no proxy for loopback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name in [name for name in os.environ if name.startswith("HFPLUG_SPACE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on which alice is signed in."""
    from hfplug.hub.server import running_hub

    with running_hub(tmp_path / "hub", tokens={TOKEN: "alice"}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def settings(*words):
    return config_from(make_parser().parse_args(["space", "serve", *words]))


def refused(capsys, *words):
    """The one line that a command answers with."""
    assert main(["space", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("hfplug: ") and "Traceback" not in captured.err
    return captured.err


def test_serve_prints_the_address_answers_there_and_ends_with_ctrl_c(tmp_path):
    words = [sys.executable, "-m", "hfplug", "space", "serve", "--port", "0", "--title", "Our page"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        address = re.fullmatch(r"Our page: (http://127\.0\.0\.1:\d+)\n", process.stdout.readline())[1]
        assert process.stdout.readline() == "Stop it with Ctrl-C.\n"
        assert b"Our page" in urllib.request.urlopen(address, timeout=20).read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    said = "hfplug: loading the base; each is tried out first\n"
    assert (process.returncode, out, err) == (0, "\nStopped.\n", said)
    assert sorted(path.name for path in tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_said_and_without_a_wish_the_next_one_is_used(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(capsys, "serve", "--port", str(port))
    assert f"Cannot listen on 127.0.0.1 port {port}: " in line and "--port 0" in line
    assert "port 70000" in refused(capsys, "serve", "--port", "70000")
    assert "Cannot listen on 192.0.2.1" in refused(capsys, "serve", "--host", "192.0.2.1")
    first = _free_port("127.0.0.1", None)
    with socket.create_server(("127.0.0.1", first)):
        assert first < _free_port("127.0.0.1", None) < DEFAULT_PORT + 100


def test_without_gradio_it_says_what_to_install(capsys, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gradio" else real(name, *a))
    assert "pip install 'hfplug[space]'" in refused(capsys, "serve", "--port", "0")


def test_flags_go_before_the_file_and_paths_are_meant_as_seen_from_here(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "adapter").mkdir()
    values = {"title": "Theirs", "base": "me/base", "variants": [{"name": "a", "source": "me/a"}], "votes": "v.jsonl"}
    (tmp_path / "there" / "space.json").write_text(json.dumps(values))
    config = settings("--config", "there", "--title", "Ours")
    assert (config.title, config.base, config.variants[0].source) == ("Ours", "me/base", "me/a")
    config = settings("--config", "there", "--variant", "b=adapter", "--votes", "w.jsonl")
    assert [(v.name, v.source) for v in config.variants] == [("b", str(tmp_path / "adapter"))]
    assert config.path(config.votes) == tmp_path / "w.jsonl"
    assert settings("--config", "there").path("v.jsonl") == tmp_path / "there" / "v.jsonl"
    assert settings("--config", "there", "--base", "me/other").variants == ()
    assert settings("--allowed-owners", "me, you", "--add-adapters", "off").allowed_owners == ("me", "you")


def test_another_base_or_other_columns_leave_the_demos_alone(tmp_path):
    study = tmp_path / "hfplug-demo" / "study"
    (study / "adapters" / "lora").mkdir(parents=True)
    (study / "adapters" / "lora" / "adapter_config.json").write_text("{}")
    (study / "report.json").write_text("{}")
    assert [v.name for v in settings().variants] == ["lora"] and settings().report
    other = settings("--base", "me/base")
    assert (other.variants, other.report) == ((), None)
    assert [v.name for v in settings("--variant", "me/x").variants] == ["x"]


def test_deploy_says_what_it_did_and_the_second_time_that_there_is_nothing_to_do(hub, capsys, monkeypatch):
    monkeypatch.setenv("MY_KEY", "the-value-of-it")
    more = ["--secret", "MY_KEY", "--variable", "MODE=demo", "--hardware", "t4-small", "--title", "Ours"]
    assert main(["space", "deploy", SPACE, *LIGHT, *more]) == 0
    out = capsys.readouterr().out
    assert re.match(rf"Deployed {SPACE} at [0-9a-f]{{12}}  {hub.endpoint}/spaces/{SPACE}\n", out)
    assert "set: variable MODE, secret MY_KEY, hardware t4-small" in out and "the-value" not in out
    assert main(["space", "deploy", SPACE, *LIGHT, "--hardware", "t4-small", "--title", "Ours"]) == 0
    assert capsys.readouterr().out.startswith("Nothing to deploy, it is all there: ")
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    assert len(api.list_repo_commits(SPACE, repo_type="space")) == 2


def test_a_dry_run_prints_the_files_and_makes_nothing(hub, capsys, monkeypatch):
    monkeypatch.setenv("MY_KEY", "the-value-of-it")
    assert main(["space", "deploy", SPACE, "--dry-run", "--secret", "MY_KEY", "--private"]) == 0
    out = capsys.readouterr().out
    for text in (f"{SPACE}, which would be made:", "app.py", "sdk_version:", '"base": "built-in"', "gradio==",
                 "hfplug/ (", "Secret MY_KEY would be set", "would be private", "in one commit"):  # fmt: skip
        assert text in out
    assert "the-value" not in out
    assert list(HfApi(endpoint=hub.endpoint, token=TOKEN).list_spaces()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["deploy", SPACE, "--secret", "KEY=value"], "takes the name alone"),
        (["deploy", SPACE, "--secret", "NOT_THERE"], "no environment variable 'NOT_THERE'"),
        (["deploy", SPACE, "--variable", "MODE"], "NAME=VALUE"),
        (["deploy", SPACE, "--variant", "lora=adapter"], "hfplug push"),
        (["deploy", SPACE, "--base", "./adapter"], "which a Space cannot see"),
        (["deploy", "../x", *LIGHT], "no id of a Space"),
        (["deploy", SPACE, "--edited", "kep"], "Did you mean 'keep'?"),
        (["deploy"], "OWNER/NAME"),
        (["srve"], "Did you mean 'serve'?"),
        (["serve", "--prot", "1"], "Did you mean '--port'?"),
        (["serve", "--config", "absent.json"], "There is no file 'absent.json'"),
        (["serve", "--variant", "lora"], "A variant is NAME=SOURCE"),
        (["serve", "--votes", "somewhere"], "dataset repo"),
        (["serve", "--title", TOKEN], "access token"),
    ],
)
def test_what_is_typed_wrong_is_answered_on_one_line(words, said, capsys, tmp_path):
    (tmp_path / "adapter").mkdir()
    line = refused(capsys, *words)
    assert said in line and "value'" not in line and TOKEN not in line
