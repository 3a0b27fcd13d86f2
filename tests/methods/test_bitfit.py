"""BitFit: what is trained and saved, merging and unmerging bit for bit, and models without biases."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

import hfplug

IDS = torch.arange(3, 12)[None]


def gpt2(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)).to(dtype).eval()


def tuned(model: Any, method: str = "bitfit", **settings: Any) -> Any:
    made = hfplug.apply_method(model, method, **settings).eval()
    for number, parameter in enumerate(one for one in made.parameters() if one.requires_grad):
        with torch.no_grad():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return made


def answers(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_every_bias_is_trained_and_nothing_else_is_saved(tmp_path):
    model = tuned(gpt2())
    biases = {name: one for name, one in gpt2().named_parameters() if name.endswith(".bias")}
    trainable = [one for one in model.parameters() if one.requires_grad]
    assert sum(one.numel() for one in trainable) == sum(one.numel() for one in biases.values())
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {name.removeprefix("base_model.model.").removesuffix(".bitfit_bias") for name in saved} == {
        name.removesuffix(".bias") for name in biases
    }
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "HFPLUG_BITFIT"


def test_training_the_difference_is_training_the_bias():
    plain, model = gpt2(), hfplug.apply_method(gpt2(), "bitfit").eval()
    for one in (plain, model):
        one(input_ids=IDS, labels=IDS).loss.backward()
    found = dict(model.named_parameters())
    for name, parameter in plain.named_parameters():
        if name.endswith(".bias"):
            ours = found[f"base_model.model.{name.removesuffix('.bias')}.bitfit_bias.default"]
            assert torch.allclose(ours.grad, parameter.grad, atol=1e-6), name


def test_merged_it_answers_the_same_and_unmerged_the_base_is_back_bit_for_bit():
    before = answers(gpt2())
    model = tuned(gpt2())
    loud = answers(model)
    model.merge_adapter()
    assert torch.allclose(answers(model), loud, atol=1e-4)
    model.unmerge_adapter()
    with model.disable_adapter():
        assert torch.equal(answers(model), before)
    assert torch.allclose(tuned(gpt2()).merge_and_unload()(input_ids=IDS).logits, loud, atol=1e-4)


def test_two_adapters_merged_one_after_the_other_unmerge_to_the_base_bit_for_bit():
    model = tuned(gpt2())
    model.add_adapter("second", model.peft_config["default"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".second"):
                parameter.fill_(0.3)
    for name in ("default", "second"):
        model.base_model.merge_adapter([name])
    model.unmerge_adapter()
    found = {name.replace(".base_layer", ""): one for name, one in model.get_base_model().named_parameters()}
    assert all(torch.equal(found[name], one) for name, one in gpt2().named_parameters())


@pytest.mark.parametrize(
    ("place", "endings"),
    [
        ("attention", {"c_attn", "attn.c_proj"}),
        ("feed_forward", {"c_fc", "mlp.c_proj"}),
        ("norms", {"ln_1", "ln_2", "ln_f"}),
    ],
)
def test_the_biases_of_one_kind_of_layer_can_be_chosen(place, endings):
    assert set(hfplug.apply_method(gpt2(), "bitfit", biases=place).peft_config["default"].target_modules) == endings


def test_a_model_without_biases_is_refused_and_norms_is_offered():
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    )
    with pytest.raises(hfplug.MethodError, match="this t5 model has no bias. Use norms"):
        hfplug.apply_method(t5, "bitfit")
    assert hfplug.apply_method(t5, "norms").peft_config["default"].peft_type == "LN_TUNING"


def test_over_a_16_bit_base_the_difference_keeps_small_steps():
    model = hfplug.apply_method(gpt2(torch.bfloat16), "bitfit")
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}
    assert answers(model.eval()).dtype == torch.bfloat16
    assert torch.equal(answers(model), answers(gpt2(torch.bfloat16)))


def test_peft_without_hfplug_names_what_is_missing_and_with_it_loads(tmp_path):
    gpt2().save_pretrained(tmp_path / "base")
    model = tuned(gpt2())
    model.save_pretrained(tmp_path / "adapter")
    torch.save(answers(model), tmp_path / "answers.pt")
    code = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[1])
try:
    PeftModel.from_pretrained(base, sys.argv[2])
except KeyError as error:
    print(error)
import hfplug
hfplug.register_peft_types()
tuned = PeftModel.from_pretrained(base, sys.argv[2]).eval()
print(torch.equal(tuned(input_ids=torch.arange(3, 12)[None]).logits, torch.load(sys.argv[3])))
"""
    places = [str(tmp_path / name) for name in ("base", "adapter", "answers.pt")]
    done = subprocess.run([sys.executable, "-c", code, *places], capture_output=True, text=True)
    assert done.stdout == "'HFPLUG_BITFIT'\nTrue\n", done.stderr
