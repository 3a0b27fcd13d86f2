"""Merged in place for a while, a loaded model answers as before, and its base is the same afterwards to the bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import IA3Config, LNTuningConfig, LoraConfig, PromptTuningConfig, get_peft_model

import hfplug
from hfplug.testing.tiny_models import tiny_model

TASKS = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "classification": "SEQ_CLS"}
CASES = {
    "t5": ("t5", "seq2seq", LoraConfig(target_modules=["q", "v", "wo"])),
    "bart": ("bart", "seq2seq", LoraConfig(target_modules=["q_proj", "fc1"])),
    "llama": ("llama", "causal", LoraConfig(target_modules="all-linear")),
    "gpt2": ("gpt2", "causal", LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)),
    "bert": ("bert", "classification", LoraConfig(target_modules=["query"])),
    "DoRA": ("llama", "causal", LoraConfig(target_modules=["q_proj"], use_dora=True)),
    "IA3": ("llama", "causal", IA3Config()),
    "norms": ("llama", "causal", LNTuningConfig(target_modules=["input_layernorm"])),
    "experts": (
        "gpt_oss",
        "causal",
        LoraConfig(target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
    ),
}


def tuned(case: str, dtype: torch.dtype = torch.float32) -> tuple[Any, str]:
    model_type, task, config = CASES[case]
    config = copy.deepcopy(config)
    config.task_type = TASKS[task]
    model: Any = get_peft_model(tiny_model(model_type, task).to(dtype), config, autocast_adapter_dtype=False)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval(), task


def logits(model: Any, task: str) -> torch.Tensor:
    ids = torch.tensor([[3, 9, 27, 50, 11, 2]])
    more = {"decoder_input_ids": ids[:, :4]} if task == "seq2seq" else {}
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits.float()


def bits(model: Any) -> dict[str, bytes]:
    return {n: p.detach().contiguous().view(torch.uint8).numpy().tobytes() for n, p in model.named_parameters()}


@pytest.mark.parametrize("case", CASES)
def test_it_answers_as_before_and_every_bit_of_the_base_comes_back(case):
    model, task = tuned(case)
    before, answers = bits(model), logits(model, task)
    for _ in range(2):
        with hfplug.merged_in_place(model) as merged:
            assert merged is model
            assert bits(model) != before
            assert torch.allclose(logits(model, task), answers, atol=2e-5 * answers.abs().max().item())
        assert bits(model) == before
    assert torch.equal(logits(model, task), answers)


def test_in_bfloat16_pefts_own_unmerge_leaves_another_base_and_this_does_not():
    model, _ = tuned("llama", torch.bfloat16)
    before = bits(model)
    with hfplug.merged_in_place(model):
        pass
    assert bits(model) == before
    model.merge_adapter()
    model.unmerge_adapter()
    assert bits(model) != before


def test_the_base_comes_back_after_an_error_inside():
    model, _ = tuned("llama")
    before = bits(model)
    with pytest.raises(KeyboardInterrupt), hfplug.merged_in_place(model):
        raise KeyboardInterrupt
    assert bits(model) == before
    with torch.no_grad():
        next(one for name, one in model.named_parameters() if "lora_B" in name).fill_(float("nan"))
    before = bits(model)
    with pytest.raises(hfplug.MethodError, match="PEFT cannot merge it"), hfplug.merged_in_place(model):
        pass
    assert bits(model) == before


def test_what_cannot_be_merged_is_refused_with_what_to_do():
    prompt = get_peft_model(
        tiny_model("llama", "causal"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    with pytest.raises(hfplug.MethodError, match="soft prompt"), hfplug.merged_in_place(prompt):
        pass
    model, _ = tuned("llama")
    model.merge_adapter()
    with pytest.raises(hfplug.MethodError, match="merged already"), hfplug.merged_in_place(model):
        pass
    settings = LoraConfig(task_type="CAUSAL_LM", target_modules=["lm_head", "q_proj"])
    base = tiny_model("gemma2", "causal")
    assert base.get_output_embeddings().weight is base.get_input_embeddings().weight
    with pytest.raises(hfplug.MethodError, match="tied"), hfplug.merged_in_place(get_peft_model(base, settings)):
        pass
