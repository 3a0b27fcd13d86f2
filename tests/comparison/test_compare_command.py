"""``hfplug compare``, as a user types it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from compare_parts import export

from hfplug.cli.main import main
from hfplug.comparison.report import read_report
from hfplug.demo.base import base_path
from hfplug.demo.world import generate
from hfplug.hub.push import push_adapter
from hfplug.hub.server import running_hub

TOKEN = "hf_" + "alice" * 7 + "aa"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory) -> Path:
    """A folder with two adapters on the built-in base."""
    folder = tmp_path_factory.mktemp("adapters")
    for name in ("lora", "prompt_tuning"):
        export(folder / name, base_path(), name)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in generate("test", 6)), encoding="utf-8")
    return file


def refused(capsys, *words) -> str:
    """The one line that the command answers with."""
    assert main(["compare", *map(str, words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    # Before it stands at most what was done so far.
    line = captured.err.splitlines()[-1]
    assert line.startswith("hfplug: ")
    return line


def test_the_table_the_notes_and_the_files_are_shown(capsys, adapters, rows, tmp_path):
    words = ["compare", "--variant", f"mine={adapters / 'lora'}", "--variant", str(adapters / "prompt_tuning")]
    assert main([*words, "--data", str(rows), "--out", str(tmp_path / "out"), "--max-eval-rows", "3"]) == 0
    out = capsys.readouterr().out
    assert [name for name in ("base ", "mine ", "prompt_tuning ", "first_turns ") if f"\n{name}" not in out] == []
    assert "Quality (ROUGE x 100 with its 95 % interval, 3 dialogues)" in out
    assert "mine: Probe: it answers as it did for its author" in out
    assert "mine, prompt_tuning: What its training cost is from its own record" in out
    assert "The base is proved untouched." in out
    assert (
        f"Dialogues: {tmp_path / 'out' / 'dialogues.html'}" in out and (tmp_path / "out" / "dialogues.html").is_file()
    )


@pytest.mark.slow
def test_flags_of_the_task_reach_the_models(capsys, adapters, rows, tmp_path):
    words = ["compare", "--variant", str(adapters / "lora"), "--data", str(rows), "--out", str(tmp_path / "out")]
    flags = ["--max-eval-rows", "2", "--max_new_tokens", "3", "--prompt", "Say it shortly: {dialogue}"]
    assert main([*words, *flags]) == 0
    report = read_report(tmp_path / "out")
    assert report.task["prompt"] == "Say it shortly: {dialogue}"
    assert report.variant("lora").mean_generated_tokens <= 3
    assert "lora: It was taught with another prompt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "needs --variant"),
        (("--variant", "lora"), "Did you mean 'lora2'?"),
        (("--variant", "x=lorra"), "Did you mean 'lora2'?"),
        (("--variant", "{lora}", "--variant", "{lora}"), "Two variants are called 'lora' and 'lora'."),
        (("--variant", "base={lora}"), "'base' is a column"),
        (("--variant", "a={lora}", "--task", "sumary"), "Did you mean 'summary'?"),
        (("--variant", "a={lora}", "--prompt", "no place"), "must hold {dialogue} exactly once"),
        (("--variant", "a={lora}", "--target-column", "sumary"), "summary"),
        (("--variant", "a={lora}", "--eval-split", "nothing"), "There is no split 'nothing'"),
        (("--variant", "a={lora}", "--base", "no/such/base/at/all"), "looks like a folder"),
        (("--variant", "a={lora}", "--on-mismatch", "hide"), "invalid choice: 'hide'"),
        (("--variant", "a={lora}", "--on-mismach", "note"), "Did you mean '--on-mismatch'?"),
        (("--variant", "a={adapters}"), "holds no adapter"),
        (("--variant", "a={lora}", "--max-eval-rows", "0"), "max_eval_rows must be 1 or more"),
    ],
)
def test_what_is_typed_wrong_is_answered_on_one_line(capsys, adapters, rows, tmp_path, monkeypatch, words, said):
    (tmp_path / "lora2").mkdir()
    monkeypatch.chdir(tmp_path)
    places = {"{lora}": str(adapters / "lora"), "{adapters}": str(adapters)}
    given = [_filled(word, places) for word in words]
    assert said in refused(capsys, *given, "--data", rows, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _filled(word: str, places: dict[str, str]) -> str:
    for place, path in places.items():
        word = word.replace(place, path)
    return word


def test_data_is_asked_for(capsys, adapters, tmp_path):
    assert "needs --data" in refused(capsys, "--variant", adapters / "lora", "--out", tmp_path / "out")


def _command(out: Path, rows: Path, *variants: str) -> list[str]:
    words = [sys.executable, "-m", "hfplug", "compare", "--base", str(base_path()), "--data", str(rows)]
    return [*words, "--out", str(out), *(word for one in variants for word in ("--variant", one))]


def _environment(tmp_path: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    quiet = {"OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**kept, **quiet, "HF_HOME": str(tmp_path / "home"), **more}


@pytest.mark.slow
def test_adapters_come_from_a_hub_at_a_commit_and_a_kill_loses_nothing_that_is_done(adapters, rows, tmp_path):
    """One from the loopback Hub by its commit, one from a folder; killed after the base, then typed again."""
    with running_hub(tmp_path / "hub", tokens={TOKEN: "alice"}) as hub:
        commit = push_adapter(adapters / "lora", "alice/lora", endpoint=hub.endpoint, token=TOKEN, timeout=30).commit
        variants = (f"theirs=alice/lora@{commit}", f"mine={adapters / 'prompt_tuning'}")
        environment = _environment(tmp_path, HF_ENDPOINT=hub.endpoint, HF_TOKEN=TOKEN)
        killed, whole = tmp_path / "killed", tmp_path / "whole"
        with subprocess.Popen(
            _command(killed, rows, *variants), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            deadline = time.monotonic() + 120
            while not (killed / "variants" / "base.json").is_file():
                assert time.monotonic() < deadline and process.poll() is None, "the base was not scored"
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert not (killed / "report.json").exists()
        before = (killed / "predictions" / "base.jsonl").stat().st_mtime_ns
        for out in (killed, whole):
            run = subprocess.run(
                _command(out, rows, *variants), env=environment, capture_output=True, text=True, timeout=240
            )
            assert run.returncode == 0, run.stderr
    assert (killed / "predictions" / "base.jsonl").stat().st_mtime_ns == before
    for name in ("base", "theirs", "mine"):
        answers = [(out / "predictions" / f"{name}.jsonl").read_bytes() for out in (killed, whole)]
        assert answers[0] == answers[1]
    report = read_report(killed)
    assert report.settings["variants"] == {"theirs": f"alice/lora@{commit}", "mine": "prompt_tuning"}
    assert f"Pulled from alice/lora at commit {commit}." in report.variant("theirs").notes
    assert TOKEN not in "".join(file.read_text(encoding="utf-8") for file in killed.glob("*.*"))


def test_a_repo_that_is_not_there_is_refused_by_name(adapters, rows, tmp_path):
    with running_hub(tmp_path / "hub", tokens={TOKEN: "alice"}) as hub:
        environment = _environment(tmp_path, HF_ENDPOINT=hub.endpoint, HF_TOKEN=TOKEN)
        run = subprocess.run(
            _command(tmp_path / "out", rows, "alice/nothing"),
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert run.returncode == 2 and "Variant 'nothing' cannot be compared: " in run.stderr
    assert "Traceback" not in run.stderr and not (tmp_path / "out").exists()


def test_a_pickle_is_refused_and_not_fetched(adapters, rows, tmp_path, capsys):
    folder = tmp_path / "pickled"
    shutil.copytree(adapters / "lora", folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    line = refused(capsys, "--variant", folder, "--data", rows, "--out", tmp_path / "out")
    assert "Variant 'pickled' cannot be compared" in line and "pickle" in line
