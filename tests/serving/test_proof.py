"""The proof that the base is untouched: it holds whatever is attached, and fails for whatever touches the base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from residents import adapter_of
from transformers import LlamaConfig, LlamaForCausalLM

from hfplug.serving.resident import Resident


@pytest.fixture
def loaded(base_folder: Callable[[str], Path]) -> Callable[[str], Resident]:
    """``loaded(kind)``: a base of its own."""
    return lambda kind: Resident.load(base_folder(kind))


def change_one_number(model: Any) -> None:
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[3] += 1e-6


def change_behind_torchs_back(model: Any) -> None:
    model.get_output_embeddings().weight.data[5, 0] *= 1.0001


def change_a_buffer(model: Any) -> None:
    next(iter(model.buffers())).add_(0.001)


def put_layers_in(model: Any) -> None:
    # They are the identity so far, so that no answer and no weight is another.
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2))


def hang_a_hook_on(model: Any) -> None:
    model.model.layers[0].register_forward_hook(lambda module, inputs, output: None)


def replace_forward(model: Any) -> None:
    inner = model.model.norm
    inner.forward = lambda x: type(inner).forward(inner, x)


def replace_generate(model: Any) -> None:
    model.prepare_inputs_for_generation = lambda *args, **kwargs: {}


def switch_dropout_on(model: Any) -> None:
    model.model.layers[0].train()


@pytest.mark.parametrize(
    ("touch", "said"),
    [
        (change_one_number, "weights and buffers"),
        (change_behind_torchs_back, "weights and buffers"),
        (change_a_buffer, "weights and buffers"),
        (put_layers_in, "modules"),
        (hang_a_hook_on, "modules"),
        (replace_forward, "modules"),
        (replace_generate, "cannot be asked any more"),
        (switch_dropout_on, "modules"),
    ],
)
def test_the_proof_fails_when_the_base_is_touched(loaded, touch, said):
    resident = loaded("llama")
    assert resident.prove_base().verdict == "proved"
    touch(resident.model)
    proof = resident.prove_base()
    assert proof.verdict == "failed"
    assert said in str(proof)


def test_a_changed_weight_changes_the_sum_and_an_untouched_base_keeps_it(loaded):
    resident = loaded("llama")
    proof = resident.prove_base()
    assert (proof.sha256_before, proof.differences) == (proof.sha256_after, ())
    change_one_number(resident.model)
    assert resident.prove_base().sha256_after != proof.sha256_before


def test_a_base_whose_position_table_grew_with_a_long_prompt_is_still_proved(tmp_path):
    config = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=32, rope_scaling={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
        bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "dynamic")
    resident = Resident.load(tmp_path / "dynamic")
    with resident.ready(["base"], [[5] * 60]) as ready, torch.inference_mode():
        ready.model.generate(**ready.inputs, max_new_tokens=3)
    proof = resident.prove_base()
    assert (proof.verdict, proof.differences) == ("proved", ())


@pytest.mark.parametrize("variant", ["lora_bias", "pissa", "lora_and_head", "lora_tokens", "layer_norm", "prompt"])
def test_adapters_that_bring_weights_of_the_base_along_do_not_write_into_it(loaded, base_folder, variant):
    resident = loaded("llama")
    resident.attach(variant, adapter_of(base_folder("llama"), "llama", variant), verify="lock")
    assert resident.prove_base().verdict == "proved"


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_soft_prompt_whose_generate_meddles_with_its_model_leaves_the_base_alone(loaded, base_folder, kind):
    resident = loaded(kind)
    tuned = resident.attach("prompt", adapter_of(base_folder(kind), kind, "prompt"), verify="lock").model
    assert isinstance(tuned, PeftModel)
    ids = torch.tensor([[5, 17, 40]])
    tuned.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=2)
    assert resident.prove_base().verdict == "proved"
