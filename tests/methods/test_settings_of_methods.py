"""What each setting does, seen in what is trained, on two architectures; and that all start as the base."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import hfplug

IDS = torch.arange(3, 12)[None]
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIDES = {f"{side}_{part}": n for side in ("encoder", "decoder") for part, n in (("layers", 1), ("ffn_dim", 64))}


def made(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 2}
        return T5ForConditionalGeneration(T5Config(vocab_size=32, decoder_start_token_id=0, **sizes)).eval()
    if kind == "bert":
        return BertForSequenceClassification(BertConfig(vocab_size=32, **SHAPE)).eval()
    if kind == "bart":
        return BartForConditionalGeneration(BartConfig(vocab_size=32, d_model=32, **SIDES)).eval()
    if kind.startswith("gpt2"):
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "tie_word_embeddings": kind == "gpt2"}
        return GPT2LMHeadModel(GPT2Config(vocab_size=32, **sizes)).eval()
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, **SHAPE)).eval()


def answers(model: Any) -> torch.Tensor:
    extra = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.eval()(input_ids=IDS, **extra).logits


def trained(kind: str, method: str, **settings: Any) -> dict[str, torch.nn.Parameter]:
    """Names, without PEFT's own parts of them, of what is trained; untrained it answers as the base."""
    model = hfplug.apply_method(made(kind), method, **settings)
    assert torch.equal(answers(model), answers(made(kind)))
    found = {name: one for name, one in model.named_parameters() if one.requires_grad}
    return {name.removeprefix("base_model.model."): one for name, one in found.items() if "modules_to_save" not in name}


@pytest.mark.parametrize("kind", ["llama", "bert", "t5"])
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_bottlenecks_are_as_wide_as_the_factor_says_in_each_place(kind, placement):
    for factor, width in ((16, 2), (4, 8)):
        found = trained(kind, "bottleneck", placement=placement, reduction_factor=factor)
        downs = [one for name, one in found.items() if name.endswith("bottleneck_down.default.weight")]
        # Of each block: Houlsby after every attention (T5's decoder has two) and after the feed-forward part.
        of_blocks = {"llama": 4, "bert": 4, "t5": 10} if placement == "houlsby" else {"llama": 2, "bert": 2, "t5": 4}
        assert len(downs) == of_blocks[kind] and {tuple(one.shape) for one in downs} == {(width, 32)}


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_bottlenecks_scale_and_non_linearity_change_what_it_computes(kind):
    def tuned(**settings: Any) -> torch.Tensor:
        model = hfplug.apply_method(made(kind), "bottleneck", **settings)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, one in model.named_parameters():
                if "bottleneck_" in name:
                    one.copy_(0.1 * torch.randn(one.shape, generator=generator))
        return answers(model)

    found = [tuned(), tuned(scale=4.0), *(tuned(non_linearity=name) for name in ("gelu", "silu", "tanh"))]
    assert all(not torch.allclose(one, other) for at, one in enumerate(found) for other in found[:at])


@pytest.mark.parametrize(("kind", "blocks"), [("bert", 2), ("bart", 2)])
@pytest.mark.parametrize("place", ["all", "attention", "feed_forward", "norms"])
def test_the_biases_of_one_kind_of_layer_are_those_of_the_model(kind, blocks, place):
    def belongs(name: str) -> bool:
        norm, attention = "norm" in name.lower(), "attn" in name or ("attention" in name)
        kinds = {"norms": norm, "attention": attention and not norm, "feed_forward": not attention and not norm}
        in_blocks = "layers." in name or "layer." in name
        return place == "all" or (kinds[place] and (in_blocks or place == "norms"))

    head = ("classifier",)
    biases = {name.removesuffix(".bias") for name, _ in made(kind).named_parameters() if name.endswith(".bias")}
    wanted = {name for name in biases if belongs(name) and not name.startswith(head)}
    assert {name.removesuffix(".bitfit_bias.default") for name in trained(kind, "bitfit", biases=place)} == wanted


@pytest.mark.parametrize("kind", ["llama", "gpt2 untied"])
def test_the_output_layer_is_trained_with_the_top_layers_if_asked_for(kind):
    without, with_head = trained(kind, "top_layers"), trained(kind, "top_layers", head="on")
    added = {name.partition(".ln_tuning_layers")[0] for name in with_head.keys() - without.keys()}
    assert added == {"lm_head"}
    shared = made("gpt2")
    with pytest.raises(
        hfplug.MethodError, match="shares its weights with the embedding.*embeddings, which trains both"
    ):
        hfplug.apply_method(shared, "top_layers", head="on")


@pytest.mark.parametrize(("kind", "last"), [("llama", "layers.1."), ("bert", "layer.1."), ("gpt2", "h.1.")])
def test_no_number_of_blocks_means_a_fourth_and_one_at_least(kind, last):
    found = trained(kind, "top_layers", blocks=0)
    assert found and all(last in name for name in found)
    assert len(trained(kind, "top_layers", blocks=2)) == 2 * len(found)


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("half", ["attention", "feed_forward"])
def test_each_half_of_ia3_can_be_left_out(kind, half):
    whole, rest = trained(kind, "ia3"), trained(kind, "ia3", **{half: "off"})
    left_out = {name for name in whole if name not in rest}
    is_attention = {name: "self_attn" in name or ".self." in name for name in whole}
    assert left_out == {name for name in whole if is_attention[name] == (half == "attention")} and rest


@pytest.mark.parametrize("kind", ["llama", "bert", "gpt2"])
def test_all_norms_and_nothing_else_are_trained(kind):
    found = {name.partition(".ln_tuning_layers")[0] for name in trained(kind, "norms")}
    names = {name.rpartition(".")[0] for name, _ in made(kind).named_parameters()}
    assert found == {name for name in names if "norm" in name.lower() or ".ln_" in name}
