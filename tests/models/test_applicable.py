"""Which methods work on a base, said without reading its weights."""

from __future__ import annotations

import pytest
from transformers import AlbertConfig, GPT2Config, MambaConfig

import hfplug

SIZES = {"hidden_size": 32, "num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("config", "task_type", "refused"),
    [
        (GPT2Config(n_embd=32, n_layer=2, n_head=4), None, set()),
        (MambaConfig(vocab_size=32, **SIZES), "causal", {"prefix_tuning"}),
        (
            AlbertConfig(
                vocab_size=32, embedding_size=16, num_attention_heads=4, intermediate_size=64,
                architectures=["AlbertForSequenceClassification"], **SIZES,
            ),
            "classification",
            set(),
        ),
    ],
    ids=["gpt2", "mamba", "albert"],
)  # fmt: skip
def test_a_configuration_is_enough(config, task_type, refused, tmp_path):
    config.save_pretrained(tmp_path)
    answers = hfplug.methods_for(tmp_path, task_type=task_type or "causal")
    assert tuple(answers) == hfplug.method_names()
    assert {name for name, why_not in answers.items() if why_not is not None} == refused
