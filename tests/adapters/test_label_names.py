"""The names of a classifier's labels, which neither the base nor ``adapter_config.json`` knows."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

import hfplug
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.lock import Lock
from hfplug.demo.chat_base import write_chat_base

NAMES = ["cars", "music", "travel"]


def trained(folder, **labels) -> AdapterDir:
    base = AutoModelForSequenceClassification.from_pretrained(write_chat_base(folder / "base"), **labels)
    Trainer(
        hfplug.apply_method(base, "lora"),
        TrainingArguments(output_dir=str(folder), max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True),
        train_dataset=[{"input_ids": [5, 6, 7], "labels": n % 3} for n in range(4)],
        callbacks=hfplug.adapter_callbacks(),
    ).train()
    return AdapterDir.open(folder / "adapter")


def test_a_loaded_classifier_calls_its_labels_what_they_were_called_in_training(tmp_path):
    adapter = trained(tmp_path, num_labels=3, id2label=dict(enumerate(NAMES)))
    assert Lock.from_json(adapter.lock.to_json()) == adapter.lock
    config = hfplug.load_adapter(adapter.path).config
    assert config.id2label == dict(enumerate(NAMES))
    assert config.label2id == {name: number for number, name in enumerate(NAMES)}


def test_labels_without_names_are_not_written_down(tmp_path):
    adapter = trained(tmp_path, num_labels=3)
    assert adapter.num_labels == 3 and "label_names" not in adapter.lock.to_json()
    model = hfplug.load_adapter(adapter.path)
    assert model(torch.tensor([[5, 6, 7]])).logits.shape == (1, 3)


@pytest.mark.parametrize("wrong", ["abc", ["a", "b"], [1, 2, 3], {"a": 1}])
def test_a_lock_with_other_names_than_labels_is_refused(wrong):
    values = Lock(num_labels=3).to_json() | {"label_names": wrong}
    with pytest.raises(hfplug.AdapterError, match="label_names"):
        Lock.from_json(values)
