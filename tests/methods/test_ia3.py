"""What IA3 scales, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, T5Config
from transformers import T5ForConditionalGeneration as T5

import hfplug

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def made(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "t5":
        return T5(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2))
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=32, n_layer=1, n_head=2))
    return BertForSequenceClassification(BertConfig(vocab_size=32, **SHAPE))


def scaled(model: torch.nn.Module) -> dict[str, str]:
    """Name of each scaled layer, and the side that is scaled."""
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "ia3_l")}
    return {
        name.removeprefix("base_model.model."): "input" if module.is_feedforward else "output"
        for name, module in layers.items()
    }


def test_keys_values_and_what_goes_into_the_last_feed_forward_layer_are_scaled():
    found = scaled(hfplug.apply_method(made("t5"), "ia3"))
    assert {name.rpartition(".")[2]: side for name, side in found.items()} == {
        "k": "output",
        "v": "output",
        "wo": "input",
    }
    assert len(found) == 3 * 2 + 2  # three attentions and two feed-forward layers


def test_bert_has_two_output_layers_and_only_that_of_the_feed_forward_is_scaled():
    found = scaled(hfplug.apply_method(made("bert"), "ia3"))
    assert {name for name, side in found.items() if side == "input"} == {
        f"bert.encoder.layer.{number}.output.dense" for number in (0, 1)
    }
    assert not any("attention.output" in name for name in found)


def test_where_keys_and_values_are_one_layer_with_the_queries_all_three_are_scaled():
    found = scaled(hfplug.apply_method(made("gpt2"), "ia3"))
    assert found == {"transformer.h.0.attn.c_attn": "output", "transformer.h.0.mlp.c_proj": "input"}


def test_it_starts_as_the_base_and_merges_exactly():
    plain = made("gpt2").eval()
    ids = torch.arange(3, 12)[None]
    before = plain(input_ids=ids).logits
    model = hfplug.apply_method(made("gpt2"), "ia3").eval()
    assert torch.equal(model(input_ids=ids).logits, before)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, mean=1.0)
    tuned = model(input_ids=ids).logits
    assert not torch.allclose(tuned, before)
    assert torch.allclose(model.merge_and_unload()(input_ids=ids).logits, tuned, atol=1e-5)


def test_each_half_can_be_left_out_but_not_both():
    assert set(scaled(hfplug.apply_method(made("t5"), "ia3", feed_forward="off")).values()) == {"output"}
    assert set(scaled(hfplug.apply_method(made("t5"), "ia3", attention="off")).values()) == {"input"}
    with pytest.raises(hfplug.MethodError, match="finds nothing to scale on this t5 model.*Leave both 'on'"):
        hfplug.apply_method(made("t5"), "ia3", attention="off", feed_forward="off")
