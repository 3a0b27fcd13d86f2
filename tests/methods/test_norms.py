"""Norm tuning: which layers, in which number format, and what plain PEFT makes of the result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, OlmoConfig, OlmoForCausalLM

import hfplug

IDS = torch.arange(3, 12)[None]
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama(dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, **SHAPE)).to(dtype).eval()


def answers(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_too_small_for_the_bases_format_are_kept_and_plain_peft_answers_the_same(dtype, tmp_path):
    before = answers(llama(dtype))
    model = hfplug.apply_method(llama(dtype), "norms").eval()
    trainable = {name: one for name, one in model.named_parameters() if one.requires_grad}
    assert {one.dtype for one in trainable.values()} == {torch.float32}
    assert sum(one.numel() for one in trainable.values()) == 5 * 32
    assert torch.equal(answers(model), before)
    optimizer = torch.optim.SGD(trainable.values(), lr=1.0)
    for one in trainable.values():
        one.grad = torch.full_like(one, 1e-4)  # below half a unit in the last place of bfloat16 at one
    for _ in range(100):
        optimizer.step()
    assert all(torch.allclose(one, torch.full_like(one, 0.99)) for one in trainable.values())
    loud = answers(model)
    assert not torch.equal(loud, before)
    model.save_pretrained(tmp_path)
    assert {one.dtype for one in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.float32}
    assert torch.equal(answers(PeftModel.from_pretrained(llama(dtype), tmp_path)), loud)
    with model.disable_adapter():
        assert torch.equal(answers(model), before)
    assert torch.equal(answers(model), loud)
    assert torch.equal(answers(model.merge_and_unload()), loud)


def test_norms_without_weights_are_refused():
    olmo = OlmoForCausalLM(OlmoConfig(vocab_size=32, pad_token_id=0, eos_token_id=1, **SHAPE))
    with pytest.raises(hfplug.MethodError, match="those of this olmo model have no weights. Use bitfit or lora"):
        hfplug.apply_method(olmo, "norms")
