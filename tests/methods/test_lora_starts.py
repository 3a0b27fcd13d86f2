"""How LoRA starts: as PEFT's own, over a base that stays as it was; and the ranks of single layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import hfplug
from hfplug.testing import MethodTests, checks
from hfplug.testing.workbench import logits, parameter_bytes, shared_workbench, train

IDS = torch.arange(3, 12)[None]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def llama() -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=2, **shape)).eval()


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=32, n_layer=1, n_head=2)).eval()


def answers(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def steps(model: Any) -> torch.Tensor:
    """The logits after five steps of AdamW with decay, which pulls at everything that it is given."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    return answers(model)


class TestPissaIsAMethodLikeAnyOther(MethodTests):
    """Trained by a Trainer, exported, loaded, switched off, pushed: as every method, and the base stays."""

    method = "lora"
    settings = {"init_lora_weights": "pissa", "r": 4, "rank_pattern": ("q_proj=8",)}
    kinds = ("causal",)

    def test_untrained_it_gives_what_it_says(self, kind: str) -> None:
        model = hfplug.build_model(self.bench.base(kind), self.chosen())
        with model.disable_adapter():
            base = logits(model, kind)
        assert torch.allclose(logits(model, kind), base, atol=1e-5)


@pytest.mark.parametrize("scaling", ["by rank", "by its root"])
@pytest.mark.parametrize("how", ["pissa", "olora"])
def test_it_trains_as_pefts_own_does_and_the_base_stays(how, scaling, tmp_path):
    settings = {"r": 4, "lora_alpha": 8, "use_rslora": scaling == "by its root", "rank_pattern": {"q_proj": 6}}
    base = answers(llama())
    ours = hfplug.apply_method(llama(), "lora", init_lora_weights=how, **settings)
    theirs = get_peft_model(
        llama(), LoraConfig(task_type="CAUSAL_LM", target_modules=ATTENTION, init_lora_weights=how, **settings)
    )
    count = [sum(one.numel() for one in model.parameters() if one.requires_grad) for model in (ours, theirs)]
    assert count[0] == count[1]
    assert torch.allclose(answers(ours), base, atol=1e-5)
    tuned = steps(ours)
    assert torch.allclose(tuned, steps(theirs), atol=1e-5) and not torch.allclose(tuned, base, atol=0.1)
    with ours.disable_adapter():
        assert torch.equal(answers(ours), base)
    ours.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(llama(), tmp_path).eval()
    assert torch.equal(answers(loaded), tuned)
    assert loaded.peft_config["default"].init_lora_weights is True
    with loaded.disable_adapter():
        assert torch.equal(answers(loaded), base)
    assert torch.allclose(answers(ours.merge_and_unload()), tuned, atol=1e-5)


def test_of_mica_one_matrix_is_trained_and_it_is_pefts():
    theirs = LoraConfig(task_type="CAUSAL_LM", target_modules=ATTENTION, r=4, lora_alpha=32, init_lora_weights="mica")
    ours = hfplug.apply_method(llama(), "lora", init_lora_weights="mica", r=4)
    assert {name.split(".lora_")[1][0] for name, one in ours.named_parameters() if one.requires_grad} == {"A"}
    assert torch.equal(steps(ours), steps(get_peft_model(llama(), theirs)))


@pytest.mark.parametrize("how", ["gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora", "mica"])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_every_start_is_the_base_before_it_is_trained_also_where_weights_are_transposed(how, method):
    model = hfplug.apply_method(gpt2(), method, init_lora_weights=how, r=4)
    assert torch.allclose(answers(model.eval()), answers(gpt2()), atol=1e-5)
    assert not torch.allclose(steps(model), answers(gpt2()), atol=1e-2)


def test_what_it_starts_from_is_the_best_of_its_rank():
    model = hfplug.apply_method(llama(), "lora", init_lora_weights="pissa", r=4)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].trained, layer.lora_B["default"].trained
    u, values, v = torch.linalg.svd(layer.base_layer.weight)
    assert torch.allclose(8 * b @ a, u[:, :4] * values[:4] @ v[:4], atol=1e-5)  # lora_alpha / r is 8
    fast = hfplug.apply_method(llama(), "lora", init_lora_weights="pissa_niter_16", r=4)
    layer = fast.base_model.model.model.layers[0].self_attn.q_proj
    found = 8 * layer.lora_B["default"].trained @ layer.lora_A["default"].trained
    assert (layer.base_layer.weight - found).norm() < 1.001 * values[4:].norm()


def test_a_run_that_is_resumed_goes_on_as_if_it_had_not_stopped(tmp_path):
    def model() -> Any:
        torch.manual_seed(5)
        return hfplug.build_model(shared_workbench().base("causal"), "lora", init_lora_weights="pissa_niter_16", r=4)

    whole = train(model(), "causal", tmp_path / "whole", max_steps=4, save_steps=2)
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    again = train(model(), "causal", tmp_path / "again", resume=checkpoint, max_steps=4, save_steps=2)
    assert not (tmp_path / "again" / "checkpoint-2").exists()
    assert parameter_bytes(whole.model) == parameter_bytes(again.model)


@pytest.mark.parametrize("how", ["olora", "loftq"])
def test_over_four_bits_it_starts_from_them_or_makes_up_for_what_they_lost(how):
    base = shared_workbench().base("causal")
    exact = logits(LlamaForCausalLM.from_pretrained(base), "causal")
    model = hfplug.build_model(base, "qlora", init_lora_weights=how, r=16, target_modules="all-linear")
    with model.disable_adapter():
        coarse = logits(model, "causal")
    off, before = (logits(model, "causal") - exact).abs().mean(), (coarse - exact).abs().mean()
    assert off < 0.9 * before if how == "loftq" else torch.allclose(logits(model, "causal"), coarse, atol=1e-5)
    checks.check_saved_and_loaded_it_is_the_same(
        shared_workbench().trial(hfplug.QLora(init_lora_weights=how, r=4), "causal")
    )


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("lora", {"init_lora_weights": "eva"}, "eva starts from the layers' inputs on the training data"),
        ("lora", {"init_lora_weights": "corda"}, "corda starts from the covariance"),
        ("lora", {"init_lora_weights": "pisa"}, "init_lora_weights must be one of default, gaussian"),
        ("qlora", {"init_lora_weights": "pissa"}, "would change the base. Use init_lora_weights='olora' or 'loftq'"),
        ("lora", {"init_lora_weights": "loftq"}, "this base has layers here that are not in 4 bits. Use qlora"),
        ("lora", {"init_lora_weights": "pissa", "r": 33}, "more than model.layers.0.self_attn.q_proj.*Pass r=32"),
        ("lora", {"init_lora_weights": "orthogonal", "r": 3}, "orthogonal matrices need an even rank"),
        ("lora", {"init_lora_weights": "olora", "target_modules": "embed_tokens"}, "is a Embedding"),
        ("lora", {"rank_pattern": "q_proj:4"}, "rank_pattern takes layer=number"),
        ("lora", {"rank_pattern": {"q_prj": 4}}, "names 'q_prj', which is none of the layers that it goes on"),
        ("lora", {"alpha_pattern": {"up_proj": 4}}, "names 'up_proj', which is none of the layers.*add the layer"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_the_model_stays_as_it_was(method, settings, words):
    model = llama()
    with pytest.raises(hfplug.HfplugError, match=words):
        hfplug.apply_method(model, method, **settings)
    assert not any("lora" in name for name, _ in model.named_modules())
    assert torch.equal(answers(model), answers(llama()))


def test_pissa_over_a_base_that_came_in_four_bits_is_refused():
    model = hfplug.build_model(shared_workbench().base("causal"), "qlora").unload()
    with pytest.raises(hfplug.MethodError, match="pissa over 4 bits"):
        hfplug.apply_method(model, "lora", init_lora_weights="pissa")


class TestPatterns:
    """Ranks and scales of single layers."""

    @pytest.mark.parametrize(
        "given", [{"attention": 4, "q_proj": 2}, "attention=4,q_proj=2", ["attention=4", "q_proj=2"]]
    )
    def test_groups_and_layers_have_ranks_and_scales_of_their_own(self, given, tmp_path):
        model = hfplug.apply_method(
            llama(), "lora", r=8, target_modules="all-linear", rank_pattern=given, alpha_pattern={"feed_forward": 16}
        )
        layers = {name.rpartition(".")[2]: one for name, one in model.named_modules() if hasattr(one, "lora_A")}
        ranks = {name: layer.r["default"] for name, layer in layers.items()}
        feed_forward = {"gate_proj", "up_proj", "down_proj"}
        assert ranks == {"q_proj": 2, "k_proj": 4, "v_proj": 4, "o_proj": 4} | dict.fromkeys(feed_forward, 8)
        assert {name: layer.scaling["default"] for name, layer in layers.items()} == {
            name: (16 if name in feed_forward else 32) / rank for name, rank in ranks.items()
        }
        tuned = steps(model)
        model.save_pretrained(tmp_path)
        assert torch.equal(answers(PeftModel.from_pretrained(llama(), tmp_path).eval()), tuned)

    def test_one_layer_of_one_block_can_be_meant(self):
        model = hfplug.apply_method(llama(), "lora", r=8, rank_pattern={"layers.1.self_attn.q_proj": 2})
        layers = model.base_model.model.model.layers
        assert [block.self_attn.q_proj.r["default"] for block in layers] == [8, 2]


def test_the_memory_plan_knows_what_is_trained_and_what_is_kept_beside():
    base = shared_workbench().base("causal")
    plan = hfplug.plan_memory(base, [hfplug.Lora(r=4), hfplug.Lora(r=4, init_lora_weights="pissa")])
    plain, pissa = plan.methods
    assert (pissa.trainable_parameters, pissa.optimizer_states) == (plain.trainable_parameters, plain.optimizer_states)
    assert pissa.weights == plain.weights + 4 * plain.trainable_parameters
