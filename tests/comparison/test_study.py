"""A study: every method on the same rows, beside an untouched base, resumable."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.comparison.presets import PRESETS, SUMMARY
from hfplug.comparison.report import read_report
from hfplug.comparison.study import run_study
from hfplug.comparison.study_folder import read_predictions
from hfplug.comparison.study_settings import StudySettings
from hfplug.demo.base import base_path
from hfplug.errors import BaseModelError, DataError, StudyError
from hfplug.methods import method_names, resolve_method
from hfplug.models.applicable import methods_for

# The built-in base has no biases, so one method does not work on it.
METHODS = tuple(name for name, why_not in methods_for(base_path()).items() if why_not is None)
TASK = dataclasses.replace(
    SUMMARY, reference_columns=("reference_2",), max_input_tokens=256, decoding={"max_new_tokens": 8}
)


def settings_for(base: Path, data: Path, out: Path, **changes) -> StudySettings:
    values = {
        "base": str(base),
        "data": str(data),
        "task": TASK,
        "methods": tuple(resolve_method(name) for name in METHODS),
        "out": out,
        "max_steps": 6,
        "batch_size": 4,
        "eval_loss_rows": 4,
    }
    return StudySettings(**{**values, **changes})


@pytest.fixture(scope="module")
def finished(small_base: Path, dialogues: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of every registered method."""
    out = tmp_path_factory.mktemp("study") / "out"
    run_study(settings_for(small_base, dialogues, out))
    return out


def test_every_method_stands_beside_the_base_the_copied_turns_and_the_human(finished):
    names = [variant.name for variant in read_report(finished).variants]
    assert names == ["base", *METHODS, "first_turns", "human"]


@pytest.mark.parametrize("name", METHODS)
def test_what_was_measured_travels_with_each_adapter(finished, name):
    variant = read_report(finished).variant(name)
    adapter = AdapterDir.open(finished / variant.adapter_path)
    rouge, found = variant.metrics["rouge1"], adapter.record.metrics["rouge1"]
    assert found == {"value": rouge.value, "low": rouge.low, "high": rouge.high, "confidence": 0.95}
    assert adapter.record.inference_cost["first_token_seconds"] == variant.first_token_seconds
    assert adapter.record.data["eval_rows"] == read_report(finished).data.eval_rows
    card = (adapter.path / "README.md").read_text(encoding="utf-8")
    for part in ("| metric | value | 95 % interval |", "Measured on", "| inference cost |", "## Examples"):
        assert part in card
    assert len(list(adapter.path.parent.glob("*.previous-*"))) == 0


def test_the_base_is_proved_untouched(finished):
    report = read_report(finished)
    assert report.base_untouched is True
    assert report.base_proof.sha256_before == report.base_proof.sha256_after
    assert report.variant("lora").switched_off_equals_base is True
    assert report.variant("prompt_tuning").switched_off_equals_base is True


@pytest.mark.parametrize("name", METHODS)
def test_each_method_has_all_five_trade_offs(finished, name):
    variant = read_report(finished).variant(name)
    measured = (
        "trainable_parameters", "adapter_bytes", "full_copy_bytes", "peak_training_bytes", "training_memory",
        "seconds_per_step", "real_tokens_per_second", "generated_tokens_per_second", "first_token_seconds",
    )  # fmt: skip
    assert {field: getattr(variant, field) for field in measured if getattr(variant, field) is None} == {}
    parts = variant.training_memory
    assert parts.weights + parts.gradients + parts.optimizer_states + parts.rest == variant.peak_training_bytes
    assert all(metric.low <= metric.value <= metric.high for metric in variant.metrics.values())
    assert variant.steps == 6


@pytest.mark.parametrize("name", METHODS)
def test_the_peak_was_predicted_before_the_run(finished, name):
    variant = read_report(finished).variant(name)
    assert variant.predicted_peak_bytes == pytest.approx(variant.peak_training_bytes, rel=0.1)
    record = AdapterDir.open(finished / variant.adapter_path).record
    assert record.memory_efficiency["predicted_peak_bytes"] == variant.predicted_peak_bytes


def test_every_method_trained_on_the_same_rows_in_the_same_order(finished):
    """The rows of each step decide its real tokens, so that equal counts at every step mean equal batches."""
    counts = {}
    for name in METHODS:
        figures = json.loads((finished / "runs" / name / "checkpoint-6" / "hfplug_figures.json").read_text())
        counts[name] = figures["real_tokens"] + figures["padding_tokens"]
    assert len({counts[name] for name in ("full", "lora", "qlora")}) == 1


def test_adapters_are_smaller_than_the_full_copy(finished):
    report = read_report(finished)
    for name in ("lora", "qlora", "prompt_tuning"):
        variant = report.variant(name)
        assert variant.adapter_bytes == AdapterDir.open(finished / "adapters" / name).weight_bytes
        assert variant.adapter_bytes < report.variant("full").adapter_bytes
        assert variant.training_memory.optimizer_states < report.variant("full").training_memory.optimizer_states


def test_each_adapter_carries_its_task(finished):
    assert {AdapterDir.open(finished / "adapters" / name).task for name in METHODS} == {TASK}


def test_the_report_opens_in_all_its_forms(finished):
    assert {path.name for path in finished.glob("report.*")} == {
        f"report.{kind}" for kind in ("json", "csv", "md", "html")
    }


def test_a_finished_study_is_not_trained_again(finished, small_base, dialogues):
    before = {path: path.stat().st_mtime_ns for path in (finished / "adapters").rglob("*") if path.is_file()}
    report = run_study(settings_for(small_base, dialogues, finished))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert report.base_untouched is True


def test_a_study_does_not_go_on_with_other_settings(finished, small_base, dialogues):
    with pytest.raises(StudyError, match=r"was made with seed=42, not 7.*another --out"):
        run_study(settings_for(small_base, dialogues, finished, seed=7))


@pytest.mark.slow
def test_a_method_may_be_added_to_a_study(small_base, dialogues, tmp_path):
    lora, prompt = resolve_method("lora"), resolve_method("prompt_tuning")
    run_study(settings_for(small_base, dialogues, tmp_path / "s", methods=(lora,), max_steps=2))
    report = run_study(settings_for(small_base, dialogues, tmp_path / "s", methods=(lora, prompt), max_steps=2))
    assert [variant.name for variant in report.variants][:3] == ["base", "lora", "prompt_tuning"]


def test_a_folder_that_holds_something_else_is_refused(small_base, dialogues, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StudyError, match="not empty and holds no study"):
        run_study(settings_for(small_base, dialogues, tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_rows_that_were_trained_on_are_not_scored(small_base, dialogues, tmp_path):
    with pytest.raises(StudyError, match="also among the rows to train on"):
        run_study(settings_for(small_base, dialogues, tmp_path / "s", eval_split="train[:4]"))


def test_a_base_without_a_tokenizer_is_refused_before_anything_is_written(small_base, dialogues, tmp_path):
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(small_base)).save_pretrained(tmp_path / "bare")
    with pytest.raises(BaseModelError, match="no tokenizer"):
        run_study(settings_for(tmp_path / "bare", dialogues, tmp_path / "s"))
    assert not (tmp_path / "s").exists()


def test_a_wrong_column_is_refused_with_the_columns_there_are(small_base, dialogues, tmp_path):
    task = dataclasses.replace(TASK, target_column="sumary")
    with pytest.raises(DataError, match="summary"):
        run_study(settings_for(small_base, dialogues, tmp_path / "s", task=task))


def test_learning_rates_of_methods_that_are_not_trained_are_refused(small_base, dialogues, tmp_path):
    with pytest.raises(StudyError, match="'lora'"):
        settings_for(small_base, dialogues, tmp_path, methods=(resolve_method("full"),), learning_rates={"lora": 1e-3})


def test_the_lab_preset_names_methods_flags_that_exist():
    from hfplug.training.arguments import flag_table

    preset = PRESETS["lab"]
    assert set(preset["flags"]) <= set(flag_table())
    assert set(preset["learning_rates"]) <= set(method_names())


@pytest.mark.slow
def test_a_study_killed_in_training_goes_on_to_the_same_result(small_base, dialogues, tmp_path):
    """SIGKILL after the first checkpoint; the same command then gives what an unbroken run gives."""
    command = [
        sys.executable, "-m", "hfplug", "study", "--base", str(small_base), "--data", str(dialogues),
        "--methods", "lora",
        "--max-steps", "60", "--batch-size", "4", "--max-new-tokens", "8", "--max-input-tokens", "256",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    with subprocess.Popen([*command, "--out", str(killed)], env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (killed / "runs" / "lora" / "checkpoint-15" / "trainer_state.json").is_file():
            assert time.monotonic() < deadline and process.poll() is None, "no checkpoint was written"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (killed / "adapters" / "lora").exists()
    for out in (killed, whole):
        subprocess.run([*command, "--out", str(out)], env=environment, check=True, capture_output=True, timeout=240)
    weights = [AdapterDir.open(out / "adapters" / "lora").weights[0].read_bytes() for out in (killed, whole)]
    assert weights[0] == weights[1]
    predictions = [read_predictions(out / "predictions" / "lora.jsonl") for out in (killed, whole)]
    assert predictions[0] == predictions[1]
    assert read_report(killed).variant("lora").seconds_per_step is not None
