"""Bases that need care of their own when they are loaded."""

from __future__ import annotations

import torch
from transformers import LongT5Config, LongT5ForConditionalGeneration

import hfplug


def test_longt5_trains_over_four_bits_with_its_wo_as_it_was(tmp_path):
    shape = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_heads": 4, "decoder_start_token_id": 0}
    LongT5ForConditionalGeneration(LongT5Config(vocab_size=64, **shape)).save_pretrained(tmp_path / "base")
    model = hfplug.build_model(tmp_path / "base", "qlora")
    kinds = {name.rsplit(".", 1)[-1]: type(module).__name__ for name, module in model.named_modules()}
    assert kinds["wo"] == "Linear" and kinds["wi"] == "Linear4bit"
    ids = torch.arange(2, 12)[None]
    model(input_ids=ids, labels=ids[:, :4]).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
