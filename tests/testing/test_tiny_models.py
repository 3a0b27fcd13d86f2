"""Tiny models of every text architecture: they are built, they are tiny, and what is left out says why."""

from __future__ import annotations

import pytest
import torch
from transformers.models.auto import modeling_auto

from hfplug.errors import BaseModelError
from hfplug.models.tryout import few_tokens
from hfplug.testing.tiny_models import TASKS, all_pairs, text_pairs, tiny_model

SOME = ("gpt2-causal", "mixtral-causal", "mamba-causal", "t5-seq2seq", "bert-classification", "llama-classification")


def build_and_run(pair):
    """A model of the pair, small enough, that gives finite logits."""
    model = tiny_model(pair.model_type, pair.task)
    assert sum(one.numel() for one in model.parameters()) < 1e6
    with torch.no_grad():
        logits = model(**few_tokens(model)).logits
    assert torch.isfinite(logits).all()
    return model


def test_every_pair_of_the_mappings_is_there_once():
    names = [pair.name for pair in all_pairs()]
    assert len(names) == len(set(names)) == sum(len(getattr(modeling_auto, name)) for _, name in TASKS.values())


def test_a_pair_that_is_left_out_says_why_when_it_is_asked_for():
    left_out = [pair for pair in all_pairs() if pair.left_out]
    assert left_out
    for pair in left_out:
        with pytest.raises(BaseModelError, match=pair.left_out):
            tiny_model(pair.model_type, pair.task)


def test_a_model_is_the_same_each_time_and_leaves_the_random_numbers_alone():
    before = torch.random.get_rng_state()
    first, second = (tiny_model("gpt2", "causal").state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("pair", [one for one in text_pairs() if one.name in SOME], ids=lambda pair: pair.name)
def test_some_are_built_and_run(pair):
    build_and_run(pair)


def test_layers_of_every_kind_are_kept():
    assert set(tiny_model("qwen3_next", "causal").config.layer_types) == {"linear_attention", "full_attention"}


@pytest.mark.slow
@pytest.mark.parametrize("pair", text_pairs(), ids=lambda pair: pair.name)
def test_each_is_built_and_runs(pair):
    build_and_run(pair)
