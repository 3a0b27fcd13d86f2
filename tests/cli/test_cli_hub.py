"""``hfplug hub``, as a user types it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from hfplug.cli.main import main
from hfplug.hub.server.root import claim


@contextlib.contextmanager
def served(*words, **environment):
    """``hfplug hub serve`` in a process of its own; gives the process and its first lines."""
    command = [sys.executable, "-m", "hfplug", "hub", "serve", "--port", "0", *map(str, words)]
    kept = {name: value for name, value in os.environ.items() if name != "HFPLUG_HUB_TOKEN"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**kept, **environment}
    )
    try:
        lines = [process.stdout.readline()]
        while lines[-1] and not lines[-1].startswith("In another"):
            lines.append(process.stdout.readline())
        yield process, "".join(lines)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def endpoint_in(text):
    return re.search(r"http://127\.0\.0\.1:\d+", text)[0]


@pytest.fixture(autouse=True)
def loopback_without_a_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HFPLUG_HUB_TOKEN", raising=False)


def test_the_token_is_shown_once_works_and_lies_nowhere_in_the_folder(tmp_path):
    root = tmp_path / "hub"
    with served("--root", root, "--user", "alice") as (process, text):
        token = re.search(r"hf_\w{37}", text)[0]
        api = HfApi(endpoint=endpoint_in(text), token=token)
        assert api.whoami()["name"] == "alice"
        api.create_repo("alice/adapter")
        api.create_commit("alice/adapter", [CommitOperationAdd("f.txt", b"x")], commit_message="c")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, err) == (0, "")
        assert out == "Stopped. What was answered is on the disk.\n"
    assert all(token.encode() not in file.read_bytes() for file in root.rglob("*") if file.is_file())
    with served("--root", root, "--user", "alice") as (_, text):
        assert "hf_" not in text and "users: alice" in text
        assert HfApi(endpoint=endpoint_in(text), token=token).whoami()["name"] == "alice"


def test_a_token_from_the_environment_or_a_file_is_taken_and_not_printed(tmp_path):
    (tmp_path / "token").write_text("bobs-own-secret\n")
    root = tmp_path / "hub"
    assert main(["hub", "token", "--root", str(root), "--user", "bob", "--token-file", str(tmp_path / "token")]) == 0
    with served("--root", root, "--user", "alice", HFPLUG_HUB_TOKEN="alices-own-secret") as (_, text):
        assert "secret" not in text
        for user in ("alice", "bob"):
            assert HfApi(endpoint=endpoint_in(text), token=f"{user}s-own-secret").whoami()["name"] == user


def in_a_shell(text, stdin=""):
    """What the line for the other terminal leaves in a shell's environment when it is copied as it is."""
    line = re.search(r"^In another terminal:  (.*)$", text, re.MULTILINE)[1]
    script = f'{line}\nprintf \'%s|%s\' "$HF_ENDPOINT" "$HF_TOKEN"'
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(["sh", "-c", script], input=stdin, env=environment, capture_output=True, text=True).stdout


def test_the_line_for_the_other_terminal_can_be_copied_as_it_is(tmp_path):
    root = tmp_path / "hub"
    with served("--root", root, "--user", "alice") as (_, text):
        token = re.search(r"hf_\w{37}", text)[0]
        assert in_a_shell(text) == f"{endpoint_in(text)}|{token}"
    with served("--root", root) as (_, text):
        assert token not in text and "…" not in text
        assert in_a_shell(text, stdin=f"{token}\n").endswith(f"{endpoint_in(text)}|{token}")


def test_a_user_is_shut_out_of_a_running_hub(tmp_path, capsys):
    root = tmp_path / "hub"
    with served("--root", root, "--user", "alice") as (_, text):
        assert main(["hub", "token", "--root", str(root), "--user", "bob"]) == 0
        token = re.search(r"hf_\w{37}", capsys.readouterr().out)[0]
        api = HfApi(endpoint=endpoint_in(text), token=token)
        assert api.whoami()["name"] == "bob"
        assert main(["hub", "token", "--root", str(root), "--revoke", "bob"]) == 0
        assert "Tokens of bob that let nobody in from now on: 1." in capsys.readouterr().out
        with pytest.raises(HfHubHTTPError, match="Invalid user token"):
            api.whoami()


def test_nothing_is_said_to_be_served_that_is_not(tmp_path):
    root = tmp_path / "hub"
    assert main(["hub", "token", "--root", str(root), "--user", "alice"]) == 0
    (root / "repos").write_text("a file where a folder has to be")
    with served("--root", root) as (process, text):
        _, err = process.communicate(timeout=20)
    assert (process.returncode, text) == (2, "")
    assert "did not start" in err.splitlines()[-1]


def test_another_address_than_loopback_is_warned_about(tmp_path):
    with served("--root", tmp_path / "hub", "--host", "0.0.0.0") as (process, text):
        assert "Serving" in text
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert err.count("warning") == 1 and "other machines can reach this Hub" in err


def test_export_and_import_from_the_command_line(tmp_path, capsys):
    from hfplug.hub.server import running_hub

    with running_hub(tmp_path / "one", tokens={"hf_test": "alice"}) as hub:
        api = HfApi(endpoint=hub.endpoint, token="hf_test")
        api.create_repo("alice/adapter")
        head = api.create_commit("alice/adapter", [CommitOperationAdd("f", b"x")], commit_message="c").oid
        assert main(["hub", "export", "alice/adapter", str(tmp_path / "out"), "--root", str(tmp_path / "one")]) == 0
    words = ["hub", "import", str(tmp_path / "out"), "bob/adapter", "--root", str(tmp_path / "two")]
    assert main([*words, "--visibility", "public"]) == 0
    assert capsys.readouterr().out.count("2 commits, 2 contents") == 2
    with running_hub(tmp_path / "two") as hub:
        assert HfApi(endpoint=hub.endpoint, token=False).model_info("bob/adapter").sha == head


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hub"], "ACTION"),
        (["hub", "srve"], "Did you mean 'serve'?"),
        (["hub", "serve", "--rooot", "x"], "hfplug hub serve has no '--rooot'. Did you mean '--root'?"),
        (["hub", "serve", "--port", "x"], "invalid int value"),
        (["hub", "serve", "--port", "70000"], "cannot listen on 127.0.0.1 port 70000"),
        (["hub", "token", "--user", "../alice"], "cannot be the name of a user"),
        (["hub", "export", "alice/x", "out", "--root", "absent"], "no folder of a Hub"),
        (["hub", "import", "absent", "alice/x"], "no exported repo"),
        (["hub", "token", "--token-file", "absent"], "absent"),
        (["hub", "token", "--token-file", "latin-1"], "latin-1 must hold one token"),
        (["hub", "token", "--revoke", "bob"], "no folder of a Hub"),
        (["hub", "token", "--revoke", "bob", "--user", "bob"], "--revoke takes tokens away"),
        (["hub", "serve", "--root", "mine", "--port", "0"], "mine is no folder of a Hub"),
        (["hub", "token", "--root", "damaged"], "tokens.json is damaged"),
        (["hub", "serve", "--root", "damaged", "--port", "0"], "tokens.json is damaged"),
    ],
)
def test_what_is_typed_wrong_is_answered_on_one_line(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin-1").write_bytes(b"gr\xfcn-gr\xfcn")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    claim(tmp_path / "damaged")
    (tmp_path / "damaged" / "tokens.json").write_text("{")
    assert main(words) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and "Traceback" not in err


def test_without_the_extra_it_says_what_to_install(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["hub", "serve", "--root", str(tmp_path)]) == 2
    assert "pip install 'hfplug[hub]'" in capsys.readouterr().err
    from hfplug.errors import MissingExtraError
    from hfplug.hub.server import running_hub

    with pytest.raises(MissingExtraError), running_hub(tmp_path):
        pass
