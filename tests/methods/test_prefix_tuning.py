"""Prefix tuning: the shapes that it takes from the model, what it does in generate, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    TrainingArguments,
)

import hfplug
from hfplug.training.guard import GuardCallback

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=2, head_dim=16, **SHAPE, **TOKENS))


def t5(layers: int) -> Any:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 4, "d_ff": 64, "num_layers": layers, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(vocab_size=64, decoder_start_token_id=0, **sizes))


def ids(rows: int = 2, length: int = 6) -> torch.Tensor:
    return torch.randint(3, 64, (rows, length), generator=torch.Generator().manual_seed(1))


def loud(model: Any) -> Any:
    """The model with a prefix that is heard, in eval mode."""
    torch.manual_seed(5)
    torch.nn.init.normal_(model.prompt_encoder["default"].embedding.weight, std=3.0)
    return model.eval()


def test_the_shape_of_a_key_is_that_of_the_models_cache():
    config = hfplug.apply_method(llama(), "prefix_tuning", num_virtual_tokens=5).peft_config["default"]
    assert (config.num_layers, config.num_attention_heads, config.token_dim) == (2, 2, 32)
    config = hfplug.apply_method(t5(1), "prefix_tuning").peft_config["default"]
    assert (config.num_attention_heads, config.token_dim) == (4, 16)  # d_kv is not d_model by heads


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_each_layer_of_a_decoder_has_a_prefix_of_its_own_and_it_learns(layers):
    model = loud(hfplug.apply_method(t5(layers), "prefix_tuning", num_virtual_tokens=3))
    kept = model.get_prompt(batch_size=1).self_attention_cache.layers[:layers]
    assert len({layer.keys.sum().item() for layer in kept}) == layers
    model(input_ids=ids(), decoder_input_ids=ids()).logits.square().sum().backward()
    moved = model.prompt_encoder["default"].embedding.weight.grad.view(3, -1, 16).abs().sum(dim=(0, 2)) > 0
    assert int(moved.sum()) == 2 * layers
    assert len(moved) - int(moved.sum()) == (2 if layers % 2 == 0 else 0)


def test_generate_answers_as_forward_does_and_padding_changes_nothing():
    model = loud(hfplug.apply_method(llama(), "prefix_tuning", num_virtual_tokens=4))
    grown = ids()
    for _ in range(5):
        step = model(input_ids=grown, attention_mask=torch.ones_like(grown)).logits[:, -1:].argmax(-1)
        grown = torch.cat([grown, step], dim=1)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    assert torch.equal(model.generate(input_ids=ids(), attention_mask=torch.ones_like(ids()), **options), grown)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids()], dim=1)
    mask = (torch.arange(9) >= 3).long().expand(2, 9)
    assert torch.equal(model.generate(input_ids=padded, attention_mask=mask, **options)[:, 3:], grown)
    base = llama().eval()
    assert not torch.equal(base.generate(input_ids=ids(), attention_mask=torch.ones_like(ids()), **options), grown)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1)), "keeps no keys"),
        (
            lambda: AlbertForSequenceClassification(AlbertConfig(vocab_size=32, embedding_size=16, **SHAPE)),
            "does not support past key values",
        ),
    ],
    ids=["mamba", "albert"],
)
def test_a_model_that_takes_no_cache_is_refused_and_given_back_as_it_was(model, words):
    plain = model()
    before = [name for name, _ in plain.named_modules()]
    with pytest.raises(hfplug.MethodError, match=words):
        hfplug.apply_method(plain, "prefix_tuning")
    assert [name for name, _ in plain.named_modules()] == before
    assert all(parameter.requires_grad for parameter in plain.parameters())
    target = {"target_modules": "in_proj"} if "mamba" in words or "keys" in words else {}
    assert hfplug.apply_method(plain, "lora", **target).peft_config["default"].peft_type == "LORA"


def test_gradient_checkpointing_is_refused_before_the_first_step(tmp_path):
    model = hfplug.apply_method(llama(), "prefix_tuning")
    arguments = TrainingArguments(str(tmp_path), gradient_checkpointing=True, report_to="none")
    with pytest.raises(hfplug.TrainingError, match="gradient_checkpointing=False"):
        GuardCallback().on_train_begin(arguments, None, None, model=model)


@pytest.mark.parametrize("method", ["prefix_tuning", "p_tuning"])
def test_what_a_network_computed_is_loaded_back_as_it_was_saved(method, tmp_path):
    """Trainer loads the best checkpoint into a model that still has the network."""
    settings = {"prefix_projection": "on"} if method == "prefix_tuning" else {"encoder": "lstm"}
    model = hfplug.apply_method(llama(), method, num_virtual_tokens=3, **settings).eval()
    best = model(input_ids=ids()).logits
    model.save_pretrained(tmp_path)
    for parameter in model.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter)
    assert not torch.allclose(model(input_ids=ids()).logits, best, atol=1e-3)
    model.load_adapter(tmp_path, "default")
    assert torch.allclose(model(input_ids=ids()).logits, best, atol=1e-5)
