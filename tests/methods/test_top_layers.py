"""Top layers: which blocks, and what is saved of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

import hfplug

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, **SHAPE))


def t5() -> Any:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=32, decoder_start_token_id=0, **sizes))


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_last_blocks_are_trained_and_saved_and_nothing_else(blocks, tmp_path):
    model = hfplug.apply_method(llama(), "top_layers", blocks=blocks)
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert trained == sum(one.numel() for block in llama().model.layers[-blocks:] for one in block.parameters())
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(one.numel() for one in saved.values()) == trained
    assert {name.split("layers.")[1][0] for name in saved} == {"1", "2"} - ({"1"} if blocks == 1 else set())


def test_of_an_encoder_decoder_they_are_the_decoders():
    model = hfplug.apply_method(t5(), "top_layers")
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    assert trained and all("decoder.block.1." in name for name in trained)


def test_more_blocks_than_there_are_is_refused_with_the_number():
    with pytest.raises(hfplug.MethodError, match="has 3 blocks, not 4. Pass blocks=3 or fewer"):
        hfplug.apply_method(llama(), "top_layers", blocks=4)
