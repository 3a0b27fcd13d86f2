"""The names of a classifier's labels, which neither the base nor ``adapter_config.json`` knows."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, Trainer, TrainingArguments

import hfplug
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.fingerprint import config_sha256, is_config_of, sha256_of
from hfplug.adapters.lock import Lock
from hfplug.demo.chat_base import write_chat_base

NAMES = ["cars", "music", "travel"]


def trained(folder, **labels) -> AdapterDir:
    base = AutoModelForSequenceClassification.from_pretrained(write_chat_base(folder / "base"), **labels)
    Trainer(
        hfplug.apply_method(base, "lora"),
        TrainingArguments(output_dir=str(folder), max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True),
        train_dataset=[{"input_ids": [5, 6, 7], "labels": n % labels["num_labels"]} for n in range(4)],
        callbacks=hfplug.adapter_callbacks(),
    ).train()
    return AdapterDir.open(folder / "adapter")


def test_a_loaded_classifier_calls_its_labels_what_they_were_called_in_training(tmp_path):
    adapter = trained(tmp_path, num_labels=3, id2label=dict(enumerate(NAMES)))
    assert Lock.from_json(adapter.lock.to_json()) == adapter.lock
    config = hfplug.load_adapter(adapter.path).config
    assert config.id2label == dict(enumerate(NAMES))
    assert config.label2id == {name: number for number, name in enumerate(NAMES)}


@pytest.mark.parametrize("count", [2, 3])
def test_names_that_only_label2id_has_are_found_as_in_run_glue(tmp_path, count):
    """Its labels that are numbers are keys that are numbers; two labels are as many as a configuration has anyway."""
    adapter = trained(tmp_path, label2id={number: number for number in range(count)}, num_labels=count)
    assert adapter.lock.label_names == [str(number) for number in range(count)]
    assert hfplug.load_adapter(adapter.path).config.id2label[1] == "1"


def test_two_labels_with_names_load_on_a_base_where_they_have_none(tmp_path):
    adapter = trained(tmp_path, num_labels=2, id2label={0: "no", 1: "yes"})
    assert hfplug.load_adapter(adapter.path).config.id2label == {0: "no", 1: "yes"}


def test_the_sum_of_a_configuration_does_not_count_names_and_knows_those_that_did():
    plain, named = BertConfig(hidden_size=32), BertConfig(hidden_size=32, id2label={0: "no", 1: "yes"})
    assert config_sha256(plain) == config_sha256(named) != config_sha256(BertConfig(hidden_size=32, num_labels=3))
    once = sha256_of(json.dumps({"hidden_size": 32, "id2label": 2, "model_type": "bert"}))
    assert is_config_of(plain, once) and is_config_of(named, once) and is_config_of(named, config_sha256(named))
    for other in (BertConfig(hidden_size=64), BertConfig(hidden_size=32, num_labels=3)):
        assert not is_config_of(other, once) and not is_config_of(other, config_sha256(named))


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
