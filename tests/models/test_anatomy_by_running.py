"""Where the parts of a model are, found by running it once."""

from __future__ import annotations

import inspect

import pytest
import torch
import transformers

import hfplug
from hfplug.models import shortened
from hfplug.models.anatomy import read_anatomy
from hfplug.models.parts import _READ_BY_KERNELS
from hfplug.testing.tiny_models import TASKS, tiny_config, tiny_model

PEFT_TASKS = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "classification": "SEQ_CLS"}


def anatomy_of(model_type, task="causal"):
    return read_anatomy(tiny_model(model_type, task), PEFT_TASKS[task])


def last_parts(names):
    return sorted({name.rpartition(".")[2] for name in names})


def test_a_layer_that_makes_queries_keys_and_values_at_once_is_all_three():
    found = anatomy_of("gpt2")
    assert last_parts(found.query) == last_parts(found.key) == last_parts(found.value) == ["c_attn"]
    assert found.attention_output == ("transformer.h.0.attn.c_proj", "transformer.h.1.attn.c_proj")
    assert last_parts(found.feed_forward_input) == ["c_fc"] and last_parts(found.feed_forward_output) == ["c_proj"]
    assert set(found.transposed) == set(found.linear)
    assert found.tied and found.head == ("lm_head",) and found.read_by == "run"


def test_an_encoder_and_a_decoder_have_their_own_blocks_and_queries():
    found = anatomy_of("t5", "seq2seq")
    assert found.encoder == ("encoder.block.0", "encoder.block.1")
    assert found.decoder == ("decoder.block.0", "decoder.block.1")
    assert last_parts(found.query) == ["q"] and last_parts(found.value) == ["v"]
    assert "decoder.block.1.layer.1.EncDecAttention.k" in found.key
    assert last_parts(found.feed_forward) == ["wi", "wo"]


def test_experts_in_one_tensor_and_the_router_that_chooses_among_them():
    found = anatomy_of("mixtral")
    assert found.expert_tensors[:2] == (
        "model.layers.0.mlp.experts.gate_up_proj",
        "model.layers.0.mlp.experts.down_proj",
    )
    assert found.routers == ("model.layers.0.mlp.gate", "model.layers.1.mlp.gate")
    assert last_parts(found.attention) == ["k_proj", "o_proj", "q_proj", "v_proj"] and not found.feed_forward


@pytest.mark.parametrize("names", [{0: 0, 1: 1}, {"novice": 0, "expert": 1}])
def test_a_users_names_of_labels_are_no_number_of_experts(names):
    model = tiny_model("bert", "classification")
    model.cls_token = torch.nn.Parameter(torch.zeros(1, 4, 8))
    model.config.label2id = names
    found = read_anatomy(model, "SEQ_CLS")
    assert found.query and not found.expert_tensors


def test_linear_attention_is_a_mixer_and_not_feed_forward():
    found = anatomy_of("qwen3_next")
    assert last_parts(found.mixer) == ["in_proj_ba", "in_proj_qkvz", "out_proj"]
    assert {name.split(".")[2] for name in found.attention} == {"1"}  # its first layer is of the other kind


def test_what_only_chooses_positions_gets_no_adapter():
    found = anatomy_of("deepseek_v32")
    left = dict(found.left_out)
    assert last_parts(left) == ["weights_proj", "wk", "wq_b"]
    assert not [name for name in (*found.linear, *found.norms, *found.biases) if ".indexer." in name]


def test_what_does_not_run_on_text_gets_no_adapter():
    found = anatomy_of("bart")  # its decoder alone, whose cross-attention has nothing to look at
    reached = (*found.linear, *found.norms, *found.biases)
    assert any(".encoder_attn." in name for name in dict(found.left_out))
    assert not [name for name in reached if "encoder_attn" in name]


@pytest.mark.parametrize("pair", ["llama-causal", "deepseek_v3-causal", "lfm2-causal", "bart-seq2seq"])
def test_without_weights_the_same_is_found(pair):
    model_type, task = pair.split("-")
    with torch.device("meta"):
        empty = getattr(transformers, TASKS[task][0]).from_config(tiny_config(model_type, task))
    assert read_anatomy(empty, PEFT_TASKS[task]) == anatomy_of(model_type, task)


def test_a_model_is_left_as_it_was():
    model = tiny_model("gpt_oss", "causal").train()
    frozen = model.get_input_embeddings().weight.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    read_anatomy(model, "CAUSAL_LM")
    assert model.training and torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not frozen.requires_grad and sum(not one.requires_grad for one in model.parameters()) == 1
    assert all(one.grad is None for one in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_exception_for_state_space_kernels_is_still_needed():
    """Their fused kernels are handed the weights of layers, which an adapter beside a layer does not reach."""
    from transformers.models.mamba.modeling_mamba import MambaMixer

    source = inspect.getsource(MambaMixer.forward)
    handed = source[source.index("mamba_inner_fn(") : source.index("if fused_output")]
    assert all(f"self.{name}.weight" in handed for name in _READ_BY_KERNELS)
    assert last_parts(anatomy_of("mamba").linear) == ["in_proj"]


def test_a_run_that_stops_leaves_the_rest_to_names():
    model = tiny_model("llama", "causal")

    def stop(*args, **kwargs):
        raise RuntimeError("no kernel for this")

    model.model.layers[0].self_attn.forward = stop
    found = read_anatomy(model, "CAUSAL_LM")
    assert found.read_by == "RuntimeError: no kernel for this"
    assert last_parts(found.attention) == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert last_parts(found.feed_forward) == ["down_proj", "gate_proj", "up_proj"]


def test_what_a_zero_weight_multiplies_gets_no_adapter():
    assert {name.rpartition(".")[2] for name in dict(anatomy_of("doge").left_out)} == {"dt_proj"}


@pytest.mark.parametrize(("model_type", "holder"), [("deepseek_v4", "mlp"), ("dbrx", "ffn")])
def test_the_module_that_holds_the_experts_is_the_feed_forward_part_of_its_block(model_type, holder):
    found = anatomy_of(model_type)
    assert last_parts(found.feed_forward_block) == [holder]
    assert len(found.feed_forward_block) == len(found.decoder)


def test_the_bias_of_the_output_layer_is_not_among_the_biases():
    found = anatomy_of("codegen")  # PEFT would save the whole layer for it
    assert found.output_embeddings == "lm_head" and found.biases and "lm_head" not in found.biases


def test_an_attention_gate_with_the_name_of_an_expert_does_not_stop_lora():
    model = hfplug.apply_method(tiny_model("afmoe", "causal"), "lora")
    adapted = last_parts(
        name.removesuffix(".lora_A.default") for name, _ in model.named_modules() if "lora_A.d" in name
    )
    assert adapted == ["k_proj", "o_proj", "q_proj", "v_proj"]


def test_a_feed_forward_part_that_is_called_by_keyword_takes_a_bottleneck():
    model = hfplug.apply_method(tiny_model("zamba", "causal"), "bottleneck")
    model(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()
    assert all(one.grad is not None for name, one in model.named_parameters() if "bottleneck_up" in name)


def test_a_large_part_that_does_not_run_on_text_does_not_hide_the_blocks_that_do():
    blocks = ("model.language_model.layers.0", "model.language_model.layers.1")
    assert anatomy_of("granite_speech", "seq2seq").blocks == (blocks,)  # its encoder of sound has ten times the weights


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2", "deepseek_v3", "mamba"])
def test_of_many_blocks_alike_a_few_run_and_speak_for_the_rest(model_type, monkeypatch):
    config = tiny_config(model_type, "causal")
    if vars(config).get("layer_types"):
        config.layer_types = [config.layer_types[place % len(config.layer_types)] for place in range(14)]
    config.num_hidden_layers = 14
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    names = [name for name, _ in model.named_modules()]
    few = read_anatomy(model, "CAUSAL_LM")
    assert [name for name, _ in model.named_modules()] == names
    monkeypatch.setattr(shortened, "FEW_BLOCKS", 1000)
    assert few == read_anatomy(model, "CAUSAL_LM") and few.read_by == "run"
    assert len({name.split(".")[2] for name in few.linear if ".layers." in name or ".h." in name}) in (0, 14)
