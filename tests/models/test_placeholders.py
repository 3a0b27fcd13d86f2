"""Soft prompts on models that want ids, or whose layers keep keys and values of different shapes."""

from __future__ import annotations

import pytest
import torch

import hfplug
from hfplug.models.placeholders import tables_of, takes_embeddings
from hfplug.models.tryout import few_tokens
from hfplug.testing.architectures import check_method, save_base
from hfplug.testing.tiny_models import tiny_model


@pytest.mark.parametrize(
    ("model_type", "task", "takes"),
    [("llama", "causal", True), ("t5", "classification", False), ("gemma4", "causal", False)],
)
def test_it_is_seen_whether_embedded_input_does(model_type, task, takes):
    model = tiny_model(model_type, task)
    assert takes_embeddings(model, tables_of(model)[0]) is takes


@pytest.mark.parametrize(
    ("model_type", "task", "method"),
    [
        ("gemma4", "causal", "prompt_tuning"),  # looks ids up once more in every layer
        ("t5", "classification", "p_tuning"),  # looks for the end among the ids
        ("bamba", "causal", "prompt_tuning"),  # generate takes no vectors
        ("qwen2_audio", "seq2seq", "prompt_tuning"),  # a decoder, filed under sequence to sequence
        ("deepseek_v3", "causal", "prefix_tuning"),  # keys wider than values
        ("gemma4", "causal", "prefix_tuning"),  # wide and narrow layers
        ("qwen3_next", "causal", "prefix_tuning"),  # mixers beside attention
    ],
)
def test_it_trains_and_is_the_same_when_loaded(tmp_path, model_type, task, method):
    save_base(model_type, task, tmp_path / "base")
    assert check_method(tmp_path / "base", task, method, tmp_path).wrong == []


def test_a_base_called_with_ids_is_not_touched():
    model = tiny_model("t5", "classification")
    inputs = few_tokens(model)
    with torch.no_grad():
        before = model(**inputs).logits
        tuned = hfplug.apply_method(model, "prompt_tuning")
        assert torch.equal(tuned.get_base_model().eval()(**inputs).logits, before)


def test_a_model_without_a_table_of_embeddings_is_refused_in_words():
    with pytest.raises(hfplug.MethodError, match="no table with a row for each token"):
        hfplug.apply_method(tiny_model("perceiver", "classification"), "prompt_tuning")


def test_a_model_without_keys_and_values_is_refused_a_prefix():
    with pytest.raises(hfplug.MethodError, match="keeps no keys and values"):
        hfplug.apply_method(tiny_model("mamba", "causal"), "prefix_tuning")
