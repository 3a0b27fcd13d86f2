"""Embeddings: the vectors of tokens are trained, all or given ones, and what shares them goes on sharing them."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
)

import hfplug

IDS = torch.tensor([[5, 9, 17, 23, 5]])


def llama(tied: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, tie_word_embeddings=tied == "tied", **sizes)).eval()


def t5(head: str) -> T5ForConditionalGeneration:
    """FLAN-T5's configuration says that its output layer is tied; its checkpoint has another."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=40, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4, decoder_start_token_id=0
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval()
    if head == "own":
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    return model


def marian() -> MarianMTModel:
    """Its encoder's table, which is the input embedding, takes its weight from a third that is not called."""
    torch.manual_seed(0)
    sizes = {
        f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads", "ffn_dim")
    }
    config = MarianConfig(
        vocab_size=40, d_model=16, pad_token_id=39, decoder_start_token_id=39, tie_word_embeddings=True, **sizes
    )  # fmt: skip
    return MarianMTModel(config).eval()


def logits(model, ids=IDS):
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.eval()(input_ids=ids, **more).logits


def move(model, size: float = 1.0):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model


def rows_of(model) -> torch.Tensor:
    return next(parameter for parameter in model.parameters() if parameter.requires_grad).detach()


@pytest.mark.parametrize(
    "make", [lambda: llama("tied"), lambda: llama("own"), lambda: t5("tied"), lambda: t5("own"), marian]
)
def test_it_is_the_base_with_other_rows_in_its_embedding_and_in_what_is_tied_to_it(make, tmp_path):
    model = move(hfplug.apply_method(make(), "embeddings"))
    written = make()
    with torch.no_grad():
        written.get_input_embeddings().weight.copy_(rows_of(model))
    assert torch.allclose(logits(model), logits(written), atol=1e-5)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(make(), tmp_path)), logits(model))


def test_given_tokens_are_trained_and_saved_and_no_others(tmp_path):
    model = hfplug.apply_method(llama("tied"), "embeddings", tokens=("9", "23"))
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert rows_of(model).shape == (2, 16)
    move(model).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert [tuple(tensor.shape) for tensor in saved.values()] == [(2, 16)]
    assert not torch.equal(logits(model), logits(llama("tied")))
    elsewhere = torch.tensor([[5, 17, 30]])
    other_columns = [column for column in range(40) if column not in (9, 23)]
    same = logits(model, elsewhere)[..., other_columns] - logits(llama("tied"), elsewhere)[..., other_columns]
    assert float(same.abs().max()) < 1e-6


def test_a_file_holds_a_tied_embedding_once(tmp_path):
    hfplug.apply_method(t5("tied"), "embeddings").save_pretrained(tmp_path)
    assert sum(tensor.numel() for tensor in load_file(tmp_path / "adapter_model.safetensors").values()) == 40 * 16


def test_encoder_and_decoder_go_on_sharing_an_embedding_that_the_output_layer_does_not():
    model = hfplug.apply_method(t5("own"), "embeddings")
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert [tuple(parameter.shape) for parameter in trainable] == [(40, 16)]
    before = model.base_model.model.lm_head.weight.clone()
    move(model)
    assert torch.equal(model.base_model.model.lm_head.weight, before)


def test_a_configuration_that_says_tied_of_an_output_layer_of_its_own_is_refused():
    model = llama("own")
    model.config.tie_word_embeddings = True
    with pytest.raises(hfplug.MethodError, match="tie_word_embeddings = False"):
        hfplug.apply_method(model, "embeddings")


def test_sixteen_bit_rows_are_trained_in_float32_and_used_rounded(tmp_path):
    model = hfplug.apply_method(llama("tied").to(torch.bfloat16), "embeddings")
    assert rows_of(model).dtype == torch.float32
    assert logits(move(model, 0.1)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("tokens", "words"),
    [(("40",), "no row 40 in the embedding, which has 40"), (("<sep>",), "needs a tokenizer")],
)
def test_a_token_that_is_not_there_is_refused(tokens, words):
    with pytest.raises(hfplug.MethodError, match=words):
        hfplug.apply_method(llama("tied"), "embeddings", tokens=tokens)


def test_merged_it_is_a_plain_model_with_the_trained_rows():
    model = move(hfplug.apply_method(llama("tied"), "embeddings", tokens=("9",)))
    expected = logits(model)
    merged = model.merge_and_unload()
    assert type(merged.get_input_embeddings()) is torch.nn.Embedding
    assert torch.allclose(logits(merged), expected, atol=1e-6)
