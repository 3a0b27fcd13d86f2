"""Bottleneck adapters: the mathematics, where they stand, and where they cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import hfplug

IDS = torch.arange(3, 12)[None]
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def made(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 2}
        return T5ForConditionalGeneration(T5Config(vocab_size=32, decoder_start_token_id=0, **sizes)).eval()
    if kind == "bert":
        return BertForSequenceClassification(BertConfig(vocab_size=32, **SHAPE)).eval()
    if kind == "mixtral":
        return MixtralForCausalLM(
            MixtralConfig(vocab_size=32, num_key_value_heads=2, num_local_experts=2, **SHAPE)
        ).eval()
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, **SHAPE)).eval()


def places(model: Any) -> list[str]:
    found = [name for name, module in model.named_modules() if hasattr(module, "bottleneck_up")]
    return [name.removeprefix("base_model.model.") for name in found]


@pytest.mark.parametrize(
    ("kind", "placement", "expected"),
    [
        ("llama", "pfeiffer", [f"model.layers.{n}.mlp.down_proj" for n in (0, 1)]),
        (
            "llama",
            "houlsby",
            [f"model.layers.{n}.{part}" for n in (0, 1) for part in ("self_attn.o_proj", "mlp.down_proj")],
        ),
        ("llama", "parallel", [f"model.layers.{n}.mlp" for n in (0, 1)]),
        ("bert", "pfeiffer", [f"bert.encoder.layer.{n}.output.dense" for n in (0, 1)]),
        ("mixtral", "pfeiffer", [f"model.layers.{n}.mlp" for n in (0, 1)]),
        (
            "t5",
            "houlsby",
            [
                "encoder.block.0.layer.0.SelfAttention.o",
                "encoder.block.0.layer.1.DenseReluDense.wo",
                "decoder.block.0.layer.0.SelfAttention.o",
                "decoder.block.0.layer.1.EncDecAttention.o",
                "decoder.block.0.layer.2.DenseReluDense.wo",
            ],
        ),
    ],
)
def test_where_the_networks_stand(kind, placement, expected):
    assert places(hfplug.apply_method(made(kind), "bottleneck", placement=placement)) == expected


@pytest.mark.parametrize("placement", ["pfeiffer", "parallel"])
def test_it_starts_as_the_base_and_then_computes_what_the_papers_say(placement):
    before = made("llama")(input_ids=IDS).logits
    settings = {"reduction_factor": 4, "non_linearity": "gelu", "scale": 2.0}
    model = hfplug.apply_method(made("llama"), "bottleneck", placement=placement, **settings).eval()
    assert torch.equal(model(input_ids=IDS).logits, before)
    layer = model.base_model.model.get_submodule(places(model)[0])
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    assert (down.weight.shape, up.weight.shape) == ((8, 32), (32, 8))
    torch.nn.init.normal_(up.weight)
    torch.nn.init.normal_(up.bias)
    x = torch.randn(2, 3, 64 if placement == "pfeiffer" else 32)
    plain = layer.base_layer(x)
    fed = plain if placement == "pfeiffer" else x
    network = torch.nn.functional.gelu(fed @ down.weight.T + down.bias) @ up.weight.T + up.bias
    assert torch.allclose(layer(x), plain + 2 * network, atol=1e-5)


def test_over_a_16_bit_base_the_network_is_trained_in_float32():
    base = made("llama").to(torch.bfloat16)
    before = base(input_ids=IDS).logits
    model = hfplug.apply_method(base, "bottleneck").eval()
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}
    assert torch.equal(model(input_ids=IDS).logits, before)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("bert", {"placement": "parallel"}, "not one module. Use placement='pfeiffer' or 'houlsby'"),
        ("llama", {"placement": "behind"}, "placement must be one of pfeiffer, houlsby, parallel"),
        ("llama", {"reduction_factor": 0.1}, "reduction_factor must be between"),
    ],
)
def test_what_cannot_stand_is_refused(kind, settings, words):
    with pytest.raises(hfplug.MethodError, match=words):
        hfplug.apply_method(made(kind), "bottleneck", **settings)


def test_it_does_not_merge_and_says_what_does():
    model = hfplug.apply_method(made("llama"), "bottleneck")
    with pytest.raises(hfplug.MethodError, match="no weight to merge it into.*train lora"):
        model.merge_and_unload()
