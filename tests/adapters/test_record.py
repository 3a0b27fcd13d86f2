"""A record survives JSON, reads a Trainer's log, refuses what is newer, and holds no secrets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hfplug.adapters.record import RECORD_VERSION, Record, plain, scrub
from hfplug.errors import AdapterError

LOG = [
    {"loss": 4.0, "grad_norm": 1.0, "learning_rate": 1e-3, "epoch": 0.5, "step": 1},
    {"eval_loss": 3.0, "eval_rouge1": 0.2, "eval_runtime": 1.0, "epoch": 0.5, "step": 1},
    {"loss": 2.0, "grad_norm": 1.0, "learning_rate": 5e-4, "epoch": 1.0, "step": 2},
    {"eval_loss": 2.5, "eval_rouge1": 0.1, "eval_runtime": 1.0, "epoch": 1.0, "step": 2},
    {"train_runtime": 9.0, "train_loss": 3.0, "total_flos": 1.0, "epoch": 1.0, "step": 2},
]


def test_json_gives_an_equal_record_back() -> None:
    record = Record(
        method="lora",
        method_settings={"r": 8, "target_modules": {"v", "q"}, "dtype": torch.bfloat16},
        task="summary",
        base="google/flan-t5-small",
        data={"source": Path("data.jsonl"), "train_rows": np.int64(400)},
        learning_rate=np.float32(0.5),
        loss_curve=((1, 4.0), (2, float("nan"))),
        model_performance={"metrics": {"rouge1": {"value": np.float64(0.5), "low": 0.4, "high": 0.6}}},
        memory_efficiency={"peak_training_bytes": torch.tensor(7)},
        notes=("a note",),
        examples=({"input": "i", "output": "o", "reference": "r"},),
    )
    again = Record.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))
    assert again == record
    assert again.method_settings == {"r": 8, "target_modules": ["q", "v"], "dtype": "torch.bfloat16"}
    assert again.loss_curve == ((1, 4.0), (2, None))
    assert again.metrics == {"rouge1": {"value": 0.5, "low": 0.4, "high": 0.6}}


def test_a_trainers_log_gives_the_curves_and_the_best_value() -> None:
    record = Record.from_log_history(LOG, method="lora", best_checkpoint="checkpoint-2")
    assert record.loss_curve == ((1, 4.0), (2, 2.0))
    assert record.eval_loss_curve == ((1, 3.0), (2, 2.5))
    assert (record.steps, record.epochs, record.learning_rate) == (2, 1.0, 1e-3)
    assert (record.best_metric, record.best_value) == ("eval_loss", 2.5)
    assert record.best_checkpoint == "checkpoint-2"


def test_the_best_value_of_a_score_is_its_highest() -> None:
    record = Record.from_log_history(LOG, best_metric="rouge1", best="highest", method="lora")
    assert (record.best_metric, record.best_value) == ("eval_rouge1", 0.2)


def test_nothing_is_invented_for_an_empty_log() -> None:
    record = Record.from_log_history([], method="lora")
    assert (record.loss_curve, record.steps, record.epochs, record.best_value) == ((), None, None, None)


def test_a_step_that_was_logged_twice_counts_once_and_the_later_one() -> None:
    log = [{"loss": 9.0, "step": 1}, {"loss": 1.0, "step": 1}]
    assert Record.from_log_history(log, method="lora").loss_curve == ((1, 1.0),)


def test_values_given_win_over_the_log() -> None:
    assert Record.from_log_history(LOG, method="lora", steps=77).steps == 77


def test_a_key_from_a_newer_hfplug_is_left_out_with_a_note() -> None:
    values = Record(method="lora").to_json() | {"carbon": 1}
    assert Record.from_json(values).notes[0].endswith("left out: carbon.")


def test_a_later_version_is_refused_with_what_to_type() -> None:
    values = Record(method="lora").to_json() | {"record_version": RECORD_VERSION + 1}
    with pytest.raises(AdapterError, match="pip install --upgrade hfplug"):
        Record.from_json(values)


@pytest.mark.parametrize(
    "values",
    [
        [],
        {},
        {"record_version": "1", "method": "lora"},
        {"record_version": 1},
        {"record_version": 1, "method": "lora", "loss_curve": 3},
        {"record_version": 1, "method": "lora", "notes": 3},
    ],
)
def test_what_is_no_record_is_refused(values: object) -> None:
    with pytest.raises(AdapterError):
        Record.from_json(values)  # type: ignore[arg-type]


def test_plain_turns_infinity_into_nothing_measured() -> None:
    assert plain({"a": math.inf, "b": [np.array([1.0, math.nan])]}) == {"a": None, "b": [[1.0, None]]}


TOKEN = "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7cF0iL"


def test_scrub_takes_out_tokens_wherever_they_stand() -> None:
    given = {
        "note": f"ran with {TOKEN}.",
        "deep": [{"x": (TOKEN, 1)}],
        "url": "https://someone:hunter2@example.org/x",
        TOKEN: "a name",
    }
    cleaned = scrub(given)
    assert TOKEN not in json.dumps(cleaned) and "hunter2" not in json.dumps(cleaned)
    assert cleaned["note"] == "ran with [removed]."
    assert given["note"] == f"ran with {TOKEN}."


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "hub_token",
        "hubToken",
        "HF_TOKEN",
        "push_to_hub_token",
        "client_secret",
        "password",
        "api_key",
    ]
    + ["apiKey", "WANDB_API_KEY", "access-key", "use_auth_token", "authorization"],
)
def test_scrub_takes_out_entries_that_say_they_are_secret(name: str) -> None:
    assert scrub({"a": {name: "letmein", "kept": 1}}) == {"a": {"kept": 1}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokenizer_name", "t5-small"),
        ("tokenizer", "t5-small"),
        ("tokens", ["a"]),
        ("eos_token", "</s>"),
        ("pad_token", "<pad>"),
        ("eos_token_id", 1),
        ("max_new_tokens", 128),
        ("num_virtual_tokens", 20),
        ("real_tokens_per_second", 3.5),
        ("first_token_seconds", 0.1),
        ("token_dim", 16),
        ("num_key_value_heads", 4),
        ("hub_token", None),
        ("text", "hf_hub_download and hf_transfer"),
        ("commit", "0123456789abcdef0123456789abcdef01234567"),
    ],
)
def test_scrub_leaves_the_words_of_language_models(name: str, value: object) -> None:
    assert scrub({name: value}) == {name: value}


def test_a_record_is_written_without_secrets() -> None:
    record = Record(method="lora", data={"source": "x", "token": TOKEN}, notes=(f"pushed with {TOKEN}",))
    assert TOKEN not in json.dumps(record.to_json())
