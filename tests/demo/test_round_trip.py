"""Adapters that go to a Hub on loopback and come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

import hfplug
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.demo.base import base_path
from hfplug.demo.round_trip import render_trips, send_and_fetch
from hfplug.demo.tasks import TASKS
from hfplug.demo.world import generate

pytest.importorskip("starlette")
METHODS = ("full", "lora", "prompt_tuning")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two steps of each method on the built-in base."""
    tokenizer = AutoTokenizer.from_pretrained(base_path())
    rows = [{**tokenizer(r["dialogue"]), "labels": tokenizer(r["summary"]).input_ids} for r in generate("train", 4)]
    folder = tmp_path_factory.mktemp("adapters")
    for method in METHODS:
        Trainer(
            model=hfplug.build_model(base_path(), method),
            args=TrainingArguments(
                str(folder / "runs" / method), max_steps=2, report_to="none", disable_tqdm=True, learning_rate=1e-2
            ),
            train_dataset=Dataset.from_list(rows),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            processing_class=tokenizer,
            callbacks=hfplug.adapter_callbacks(folder / method, task=TASKS["summary"]),
        ).train()
    return [folder / method for method in METHODS]


def test_each_comes_back_with_the_same_bytes_and_answers_and_a_second_time_makes_no_commit(adapters, tmp_path):
    root = tmp_path / "hub"
    first = send_and_fetch(adapters, root=root, task="summary")
    assert [(trip.name, trip.pushed, trip.held) for trip in first] == [(method, True, True) for method in METHODS]
    second = send_and_fetch(adapters, root=root, task="summary")
    assert [(trip.commit, trip.pushed) for trip in second] == [(trip.commit, False) for trip in first]
    text = render_trips(first, root)
    assert all(trip.commit[:12] in text for trip in first) and text.count("same bytes; same answers") == len(METHODS)


def test_no_token_is_left_in_the_hubs_folder(adapters, tmp_path):
    send_and_fetch(adapters[2:], root=tmp_path / "hub", task="summary")
    files = [file for file in (tmp_path / "hub").rglob("*") if file.is_file()]
    assert files and not [file for file in files if re.search(rb"hf_[0-9a-f]{32}", file.read_bytes())]


def test_answers_that_are_not_the_authors_are_told(adapters, tmp_path):
    """Other weights under the same record; writing them brings the sums into line, so that only the probe can tell."""
    changed = tmp_path / "prompt_tuning"
    weights = load_file(adapters[2] / "adapter_model.safetensors")
    save_file({name: tensor * 3 for name, tensor in weights.items()}, tmp_path / "w.safetensors", {"format": "pt"})
    AdapterDir.write(changed, source=adapters[2], weights=tmp_path / "w.safetensors")
    [trip] = send_and_fetch([changed], root=tmp_path / "hub", task="summary")
    assert trip.same_bytes and trip.probe.verdict == "different" and not trip.held
    assert "OTHER ANSWERS" in render_trips([trip], tmp_path / "hub")
