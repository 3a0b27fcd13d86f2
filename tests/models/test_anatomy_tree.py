"""The parts of a model as a tree, from a configuration alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from transformers import LlamaConfig, T5Config

import hfplug
from hfplug.cli.main import main
from hfplug.models.anatomy_tree import anatomy_tree, render_tree


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
    assert any(line.startswith("0-2 x3  LlamaDecoderLayer") for line in lines)


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
        "before = peak(); tree = anatomy_tree(sys.argv[1]); print(tree.parameters, peak() - before)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    parameters, megabytes = map(int, out.split())
    assert parameters == 70_553_706_496 and megabytes < 500
