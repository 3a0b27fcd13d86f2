"""Loaded in 4 bits or brought into them later, a model is the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM, T5Config, T5ForConditionalGeneration

import hfplug

T5 = {"vocab_size": 32, "d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 4}
MAMBA = {"vocab_size": 32, "hidden_size": 64, "num_hidden_layers": 1, "state_size": 4}


def four_bit_layers(model: Any) -> set[str]:
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", "")
        for name, module in model.named_modules()
        if type(module).__name__ == "Linear4bit" and "lora_" not in name
    }


@pytest.mark.parametrize(
    ("make", "ids"),
    [
        (lambda: MambaForCausalLM(MambaConfig(**MAMBA)), {}),
        (lambda: T5ForConditionalGeneration(T5Config(**T5)), {"decoder_input_ids": torch.ones(1, 2, dtype=torch.long)}),
    ],
    ids=["mamba", "t5"],
)
def test_the_same_layers_are_held_in_four_bits_either_way_and_give_the_same_answers(make, ids, tmp_path):
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    make().save_pretrained(tmp_path)
    loaded = hfplug.build_model(tmp_path, "qlora")
    later = type(make()).from_pretrained(tmp_path)
    hfplug.plug(later, "qlora")
    assert four_bit_layers(loaded) and four_bit_layers(later) == four_bit_layers(loaded)
    inputs = {"input_ids": torch.arange(3, 9)[None], **ids}
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**inputs).logits, later.eval()(**inputs).logits)
