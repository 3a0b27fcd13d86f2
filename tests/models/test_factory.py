"""Bases that need care of their own when they are loaded."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LongT5Config, LongT5ForConditionalGeneration

import hfplug
from hfplug.errors import BaseModelError


def test_longt5_trains_over_four_bits_with_its_wo_as_it_was(tmp_path):
    shape = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_heads": 4, "decoder_start_token_id": 0}
    LongT5ForConditionalGeneration(LongT5Config(vocab_size=64, **shape)).save_pretrained(tmp_path / "base")
    model = hfplug.build_model(tmp_path / "base", "qlora")
    kinds = {name.rsplit(".", 1)[-1]: type(module).__name__ for name, module in model.named_modules()}
    assert kinds["wo"] == "Linear" and kinds["wi"] == "Linear4bit"
    ids = torch.arange(2, 12)[None]
    model(input_ids=ids, labels=ids[:, :4]).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("way", ["alone", "beside safetensors", "named by the configuration"])
def test_a_base_is_never_read_from_a_pickle(tmp_path, way):
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape))
    model.save_pretrained(tmp_path)
    torch.save({name: torch.zeros_like(value) for name, value in model.state_dict().items()}, tmp_path / "x.bin")
    if way == "beside safetensors":
        (tmp_path / "x.bin").rename(tmp_path / "pytorch_model.bin")
        loaded = hfplug.build_model(tmp_path, "full")
        assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
        return
    if way == "alone":
        (tmp_path / "model.safetensors").unlink()
        (tmp_path / "x.bin").rename(tmp_path / "pytorch_model.bin")
    else:
        (tmp_path / "x.bin").rename(tmp_path / "adapter_model.bin")
        values = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(values | {"transformers_weights": "adapter_model.bin"}))
    with pytest.raises(BaseModelError, match="never read here.*save_pretrained"):
        hfplug.build_model(tmp_path, "full")
