"""Where LoRA goes, and what it says where it cannot go."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

import hfplug


def llama() -> LlamaForCausalLM:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, **shape))


def targets(model: torch.nn.Module) -> list[str]:
    return sorted(model.peft_config["default"].target_modules)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("attention", ["k_proj", "o_proj", "q_proj", "v_proj"]),
        ("feed_forward", ["down_proj", "gate_proj", "up_proj"]),
        ("all-linear", ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]),
        ("q_proj,v_proj", ["q_proj", "v_proj"]),
        (("attention", "down_proj"), ["down_proj", "k_proj", "o_proj", "q_proj", "v_proj"]),
    ],
)
def test_layers_are_named_by_group_or_by_name(wanted, expected):
    assert targets(hfplug.apply_method(llama(), "lora", target_modules=wanted)) == expected


def test_layers_that_hold_their_weight_the_other_way_round_are_told_to_peft():
    model = hfplug.apply_method(GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=32, n_layer=1, n_head=2)), "lora")
    assert model.peft_config["default"].fan_in_fan_out is True
    assert targets(model) == ["attn.c_proj", "c_attn"]


def test_a_misspelt_layer_is_guessed_and_the_layers_are_named():
    with pytest.raises(hfplug.MethodError) as caught:
        hfplug.apply_method(llama(), "lora", target_modules="q_prj")
    assert "'q_prj' matches no linear layer of this llama model" in str(caught.value)
    assert "Did you mean 'q_proj'?" in str(caught.value)


def test_a_model_without_attention_gets_it_on_its_mixer():
    mamba = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(hfplug.MethodError) as caught:
        hfplug.apply_method(mamba, "lora", target_modules="feed_forward,in_proj")
    assert "Did you mean" not in str(caught.value)  # what was asked for is spelt right
    assert "in_proj" in caught.value.fix
    assert targets(hfplug.apply_method(mamba, "lora")) == ["in_proj"]


def mixtral() -> MixtralForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return MixtralForCausalLM(MixtralConfig(vocab_size=32, num_key_value_heads=2, num_local_experts=2, **shape)).eval()


@pytest.mark.parametrize("wanted", ["experts", "attention,experts"])
def test_experts_that_are_one_tensor_are_adapted_saved_switched_off_and_merged(wanted, tmp_path):
    from peft import PeftModel

    ids = torch.arange(3, 12)[None]
    base = mixtral()(input_ids=ids).logits
    model = hfplug.apply_method(mixtral(), "lora", target_modules=wanted, r=4)
    assert torch.equal(model.eval()(input_ids=ids).logits, base)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        trained = {name: one.grad for name, one in model.named_parameters() if one.requires_grad}
        assert all(grad is not None for grad in trained.values())
        optimizer.step()
    assert all(bool(grad.any()) for grad in trained.values())
    assert sum("experts" in name for name in trained) == 2 * 2 * 2  # two blocks, up and down, A and B
    assert any("q_proj" in name for name in trained) == ("attention" in wanted)
    tuned = model(input_ids=ids).logits
    with model.disable_adapter():
        assert torch.equal(model(input_ids=ids).logits, base)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(mixtral(), tmp_path).eval()
    assert torch.equal(loaded(input_ids=ids).logits, tuned) and not torch.allclose(tuned, base, atol=1e-3)
    assert torch.allclose(model.merge_and_unload()(input_ids=ids).logits, tuned, atol=1e-5)


def test_a_model_without_experts_has_none_to_adapt():
    with pytest.raises(hfplug.MethodError, match="'experts' matches no linear layer of this llama model"):
        hfplug.apply_method(llama(), "lora", target_modules="experts")


def test_experts_have_ranks_of_their_own_and_a_misspelt_layer_is_guessed(tmp_path):
    from peft import PeftModel
    from transformers import MixtralConfig, MixtralForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MixtralConfig(vocab_size=32, num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1, **shape)
    base = MixtralForCausalLM(config).eval()
    base.save_pretrained(tmp_path / "base")
    both = {"target_modules": ("attention", "experts")}
    model = hfplug.build_model(tmp_path / "base", "lora", rank_pattern={"experts": 2, "q_proj": 4}, **both).eval()
    ranks = {name.split("layers.0.")[1]: len(one) for name, one in model.named_parameters() if ".lora_A." in name}
    experts = {"mlp.experts.lora_A.default.weight": 2 * 2, "mlp.experts.base_layer.lora_A.default.weight": 2 * 2}
    assert ranks == experts | {
        f"self_attn.{part}_proj.lora_A.default.weight": 4 if part == "q" else 16 for part in "qkvo"
    }
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_" in name:
                one.normal_()
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ids = torch.arange(3, 12)[None]
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    with pytest.raises(hfplug.MethodError, match="Did you mean 'q_proj'"):
        hfplug.apply_method(MixtralForCausalLM(config), "lora", rank_pattern={"q_prj": 2})
    for method, settings, words in (
        ("dora", {}, "dora: PEFT has no DoRA for experts that are stacked .* Use lora"),
        ("lora", {"lora_dropout": 0.1}, "lora: PEFT has no dropout for experts .* Pass lora_dropout=0"),
    ):
        with pytest.raises(hfplug.MethodError, match=words):
            hfplug.apply_method(MixtralForCausalLM(config), method, target_modules=("experts",), **settings)
    with pytest.raises(hfplug.MethodError, match="Its feed-forward parts are experts: pass 'experts'"):
        hfplug.apply_method(MixtralForCausalLM(config), "lora", target_modules=("feed_forward",))


def test_the_line_of_a_run_says_that_most_of_a_mixture_of_experts_goes_without(caplog):
    import logging

    from transformers import MixtralConfig, MixtralForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MixtralConfig(vocab_size=32, num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1, **shape)
    with caplog.at_level(logging.INFO, "hfplug"):
        hfplug.apply_method(MixtralForCausalLM(config), "lora")
        hfplug.apply_method(MixtralForCausalLM(config), "lora", target_modules=("all-linear", "experts"))
    attention, experts, rest = 2 * 16 * 16 + 2 * 16 * 8, 2 * 3 * 16 * 32, 32 * 16 + 2 * 16  # the rest: head, router
    few, most = (part / (attention + experts + rest) for part in (attention, attention + experts))
    said = [record.getMessage() for record in caplog.records if "in its matrices" in record.getMessage()]
    assert f"of the numbers in its matrices {few:.1%} are adapted (the experts are most of the rest)" in said[0]
    assert f"of the numbers in its matrices {most:.1%} are adapted" in said[1] and "experts are most" not in said[1]
