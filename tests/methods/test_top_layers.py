"""Top layers: which blocks, and what is saved of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    FalconMambaConfig,
    FalconMambaForCausalLM,
    LagunaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import hfplug
from hfplug.testing.tiny_models import tiny_model

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, **SHAPE))


def t5() -> Any:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=32, decoder_start_token_id=0, **sizes))


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_last_blocks_are_trained_and_saved_and_nothing_else(blocks, tmp_path):
    model = hfplug.apply_method(llama(), "top_layers", blocks=blocks)
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert trained == sum(one.numel() for block in llama().model.layers[-blocks:] for one in block.parameters())
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(one.numel() for one in saved.values()) == trained
    assert {name.split("layers.")[1][0] for name in saved} == {"1", "2"} - ({"1"} if blocks == 1 else set())


def test_of_an_encoder_decoder_they_are_the_decoders():
    model = hfplug.apply_method(t5(), "top_layers")
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    assert trained and all("decoder.block.1." in name for name in trained)


def test_more_blocks_than_there_are_is_refused_with_the_number():
    with pytest.raises(hfplug.MethodError, match="has 3 blocks, not 4. Pass blocks=3 or fewer"):
        hfplug.apply_method(llama(), "top_layers", blocks=4)


def mixtral() -> Any:
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(vocab_size=32, num_key_value_heads=2, num_local_experts=4, **SHAPE))


def mamba() -> Any:
    torch.manual_seed(0)
    return FalconMambaForCausalLM(FalconMambaConfig(vocab_size=32, hidden_size=32, num_hidden_layers=2, state_size=4))


@pytest.mark.parametrize("make", [mixtral, mamba])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_experts_and_mixers_are_copied_whole(make, dtype, tmp_path):
    base = make().to(getattr(torch, dtype)).eval()
    ids = torch.randint(0, 32, (2, 8), generator=torch.Generator().manual_seed(1))
    before = base(input_ids=ids).logits
    model = hfplug.apply_method(base, "top_layers")
    trained = [one for one in model.parameters() if one.requires_grad]
    assert {one.dtype for one in trained} == {torch.float32}
    torch.testing.assert_close(model.eval()(input_ids=ids).logits, before)
    stack = base.model.layers if make is mixtral else base.backbone.layers
    per_block = sum(one.numel() for one in make().get_decoder().layers[-1].parameters())
    assert sum(one.numel() for one in trained) == per_block and len(stack) > 1
    optimizer = torch.optim.SGD(trained, lr=0.5)
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in trained)
    optimizer.step()
    after = model(input_ids=ids).logits
    assert (after - before).abs().max() > 0.01
    with model.disable_adapter():
        torch.testing.assert_close(model(input_ids=ids).logits, before)
    model.save_pretrained(tmp_path)
    from peft import PeftModel

    again = PeftModel.from_pretrained(make().to(getattr(torch, dtype)), tmp_path).eval()
    torch.testing.assert_close(again(input_ids=ids).logits, after)


def test_what_the_class_of_the_base_does_not_train_is_saved_with_a_copy_and_not_trained(tmp_path):
    tiny_model("laguna", "causal").save_pretrained(tmp_path / "base")
    base = LagunaForCausalLM.from_pretrained(tmp_path / "base")  # which turns all gradients on
    ids = torch.randint(0, 50, (2, 8), generator=torch.Generator().manual_seed(1))
    model = hfplug.apply_method(base, "top_layers")
    with model.disable_adapter():
        pass  # PEFT turns gradients on again afterwards
    model(input_ids=ids, labels=ids).loss.backward()
    assert [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None] == []
    model.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any(name.endswith("e_score_correction_bias") for name in saved)


def test_what_a_text_alone_does_not_reach_in_a_copy_is_not_trained():
    model = hfplug.apply_method(tiny_model("xlnet", "causal"), "top_layers")
    trained = {name.rpartition(".")[2] for name, one in model.named_parameters() if one.requires_grad}
    copied = {name.rpartition(".")[2] for name, _ in model.named_buffers() if ".modules_to_save." in name}
    assert {"q", "k", "r_w_bias"} <= trained and copied == {"r_s_bias", "seg_embed"}  # its weights for segments


def test_a_number_of_a_copy_that_its_configuration_switches_off_is_not_trained_and_its_neighbours_are():
    model = hfplug.apply_method(tiny_model("gemma3n_text", "causal"), "top_layers")  # altup_correct_scale=False
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    copied = [name for name, _ in model.named_buffers() if ".modules_to_save." in name]
    assert any(".altup." in name for name in trained) and not any("correct_output_scale" in name for name in trained)
    assert any(name.endswith("correct_output_scale") for name in copied)
