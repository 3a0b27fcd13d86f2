"""The parts of a model as a tree, from a configuration alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import transformers
from transformers import LlamaConfig, T5Config, WhisperConfig

import hfplug
from hfplug.cli.main import main
from hfplug.models.anatomy_page import WIDTH, render_tree
from hfplug.models.anatomy_tree import anatomy_tree, tree_of
from hfplug.models.base import read_task_type
from hfplug.testing.tiny_models import TASKS, tiny_config


def folder_with_only_a_configuration(folder, config, architecture):
    config.architectures = [architecture]
    config.save_pretrained(folder)
    return folder


@pytest.fixture
def llama(tmp_path):
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2
    )  # fmt: skip
    return folder_with_only_a_configuration(tmp_path, config, "LlamaForCausalLM")


def test_every_parameter_is_in_one_part_and_blocks_that_are_alike_are_one_line(llama):
    tree = anatomy_tree(llama)
    attention, feed_forward = 3 * 4 * 16 * 16, 3 * 3 * 16 * 32
    norms = (3 * 2 + 1) * 16
    expected = {"embedding": 800, "head": 800, "attention": attention, "feed-forward": feed_forward, "norm": norms}
    assert tree.parts == expected
    assert tree.parameters == sum(expected.values())
    lines = [line.strip() for line in render_tree(tree).splitlines()]
    assert any(line.startswith("layers.0-2 x3") and "LlamaDecoderLayer" in line for line in lines)


def test_what_lora_would_train_is_what_it_trains(llama):
    from transformers import AutoConfig, AutoModelForCausalLM

    tree = anatomy_tree(llama)
    model = hfplug.apply_method(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(llama)), "lora")
    assert tree.lora_trainable == sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert tree.lora_share == pytest.approx(tree.parts["attention"] / tree.matrices)


def test_a_shared_weight_is_counted_once(tmp_path):
    config = T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
    tree = anatomy_tree(folder_with_only_a_configuration(tmp_path, config, "T5ForConditionalGeneration"))
    assert tree.parts["embedding"] == 50 * 16 and "head" not in tree.parts
    assert sum(tree.parts.values()) == tree.parameters


def test_the_command_prints_the_tree_and_json(llama, capsys):
    assert main(["anatomy", str(llama)]) == 0
    assert "lora trains" in capsys.readouterr().out
    assert main(["anatomy", str(llama), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model_type"] == "llama"


def branches(branch):
    yield branch
    for child in branch.children:
        yield from branches(child)


def roles(tree) -> dict[str, set[str]]:
    """What the lines of each name say that they are."""
    found: dict[str, set[str]] = {}
    for one in branches(tree.root):
        found.setdefault(one.name, set()).add(one.role or one.part)
    return found


# Of each what a person looks for: a name of the tree, and what it has to say of it.
LOOKED_FOR = {
    "gpt2-causal": {"c_attn": "query + key + value", "c_fc": "feed-forward in", "wpe": "embedding"},
    "falcon-causal": {"query_key_value": "query + key + value", "dense": "attention output"},
    "t5-seq2seq": {"encoder": "encoder", "decoder": "decoder", "q": "query", "relative_attention_bias": "attention"},
    "bert-classification": {"key": "key", "pooler": "", "classifier": "new head", "token_type_embeddings": "embedding"},
    "mixtral-causal": {"gate_up_proj": "experts", "gate": "router", "v_proj": "value"},
    "gpt_oss-causal": {"down_proj_bias": "experts", "sinks": "attention", "router": "router"},
    "deepseek_v3-causal": {"kv_b_proj": "key + value", "q_a_proj": "attention"},
    "mamba2-causal": {"in_proj": "mixer in", "conv1d": "mixer", "A_log": "mixer", "out_proj": "mixer"},
    "jamba-causal": {"in_proj": "mixer in", "q_proj": "query", "router": "router", "down_proj": "experts"},
    "dbrx-causal": {"w1": "experts", "Wqkv": "query + key + value"},
    "qwen3_next-causal": {"in_proj_qkvz": "mixer in", "shared_expert_gate": "router", "o_proj": "attention output"},
    "modernvbert-classification": {"vision_model": "", "Wqkv": "query + key + value", "dense": "new head"},
}


@pytest.mark.parametrize("pair", LOOKED_FOR)
def test_each_part_is_said_and_what_is_below_a_line_adds_up_to_it(pair):
    model_type, task = pair.split("-")
    with torch.device("meta"):
        model = getattr(transformers, TASKS[task][0]).from_config(tiny_config(model_type, task))
    tree = tree_of(model, read_task_type(model.config, task))
    for name, role in LOOKED_FOR[pair].items():
        assert role in roles(tree)[name], name
    for one in branches(tree.root):
        below = sum(child.times * child.parameters for child in one.children)
        assert not one.children or one.parameters == below, one.name
    assert tree.root.parameters == tree.parameters == sum(tree.parts.values())
    assert max(map(len, render_tree(tree).splitlines())) <= WIDTH


def test_what_no_text_goes_through_is_one_line():
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(tiny_config("gemma3", "causal"))
    tree = tree_of(model, "CAUSAL_LM")
    page = render_tree(tree)
    vision = sum(one.numel() for name, one in model.named_parameters() if "vision" in name or "multi_modal" in name)
    assert tree.parts["does not run on text"] == vision
    assert "vision_tower" in page and "patch_embedding" not in page


def test_blocks_that_are_alike_are_one_line_also_where_others_lie_between():
    config = tiny_config("qwen3_next", "causal")
    config.layer_types, config.num_hidden_layers = ["linear_attention", "linear_attention", "full_attention"] * 2, 6
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    found = [(one.name, one.times) for one in branches(tree_of(model, "CAUSAL_LM").root) if one.times > 1]
    assert found == [("0-1,3-4", 4), ("2,5", 2)]


def test_a_model_that_text_does_not_run_through_is_judged_by_names_and_says_so(tmp_path):
    sizes = {f"{part}_{what}": number for part in ("encoder", "decoder") for what, number in
             (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))}  # fmt: skip
    config = WhisperConfig(vocab_size=50, d_model=16, num_mel_bins=8, pad_token_id=0, **sizes)
    tree = anatomy_tree(folder_with_only_a_configuration(tmp_path, config, "WhisperForConditionalGeneration"))
    assert {"query"} == roles(tree)["q_proj"] and tree.read_by != "run"
    assert "judged by names" in render_tree(tree)


def test_layers_that_the_configuration_says_are_in_few_bits_say_so(tmp_path):
    config = tiny_config("llama", "causal")
    config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    tree = anatomy_tree(folder_with_only_a_configuration(tmp_path, config, "LlamaForCausalLM"))
    held = {one.name for one in branches(tree.root) if one.held_in == "4 bits"}
    assert held == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "BertForMultipleChoice", "BertModel", None])
def test_a_model_for_anything_is_read_and_one_that_does_not_say_by_its_backbone(tmp_path, architecture):
    config = tiny_config("bert", "classification")
    config.architectures = [architecture] if architecture else None
    config.save_pretrained(tmp_path)
    tree = anatomy_tree(tmp_path)
    assert tree.root.kind == architecture or (architecture is None and tree.root.kind == "BertModel")
    told = {"BertForMaskedLM": "MASKED_LM", "BertForMultipleChoice": "MULTIPLE_CHOICE"}
    assert tree.read_by == "run" and tree.task_type == told.get(architecture, "FEATURE_EXTRACTION")


def test_a_configuration_that_no_model_can_be_made_from_is_one_sentence(tmp_path, capsys):
    config = LlamaConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, pad_token_id=99)
    assert main(["anatomy", str(folder_with_only_a_configuration(tmp_path, config, "LlamaForCausalLM"))]) == 2
    assert "No model can be made" in capsys.readouterr().err


def test_a_base_that_is_not_there_is_one_sentence(capsys):
    assert main(["anatomy", "./nowhere"]) == 2
    assert "there is no such folder" in capsys.readouterr().err


@pytest.mark.slow
def test_seventy_billion_parameters_need_no_memory(tmp_path):
    config = LlamaConfig(
        vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8,
    )  # fmt: skip
    folder_with_only_a_configuration(tmp_path, config, "LlamaForCausalLM")
    code = (
        "import resource, sys; import torch, peft, transformers; from hfplug.models.anatomy_tree import anatomy_tree\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "import time; before, start = peak(), time.process_time(); tree = anatomy_tree(sys.argv[1])\n"
        "print(tree.parameters, peak() - before, time.process_time() - start)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    parameters, megabytes, seconds = map(float, out.split())
    assert parameters == 70_553_706_496 and megabytes < 500
    assert seconds < 2  # of processor time, which a busy machine does not stretch
