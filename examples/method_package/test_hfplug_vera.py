"""VeRA passes what every method of hfplug passes; below is what is its own."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

import hfplug
from hfplug.testing import MethodTests


class TestVera(MethodTests):
    method = "vera"


def test_what_is_trained_is_two_vectors_a_layer():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = hfplug.apply_method(LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)), "vera", r=8)
    trained = {name: one.shape for name, one in model.named_parameters() if one.requires_grad}
    assert len(trained) == 2 * 4 * 2
    assert set(trained.values()) == {torch.Size([8]), torch.Size([32])}


def test_a_model_without_attention_is_refused():
    mamba = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(hfplug.MethodError, match="this mamba model has none. Use lora"):
        hfplug.apply_method(mamba, "vera")
