"""The memory plan: what it predicts against what real steps take, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, LlamaConfig, MixtralConfig, T5Config
from transformers.optimization import Adafactor

import hfplug
from hfplug.errors import BaseModelError, MethodError, SettingError
from hfplug.methods import get_method, method_names
from hfplug.models.base import auto_class, resolve_base
from hfplug.models.memory import optimizer_bytes, weight_bytes
from hfplug.models.memory_devices import GPUS, find_device
from hfplug.models.memory_method import MethodMemory, Planned, StepSettings, corrected, largest_batch
from hfplug.models.memory_optimizers import OPTIMIZERS, find_optimizer, state_bytes
from hfplug.models.memory_plan import plan_memory
from hfplug.models.memory_plot import draw_plan
from hfplug.models.memory_probe import measure_steps, probe_peak
from hfplug.models.memory_shapes import missing_parameters, shape_model

CAUSAL, SEQ2SEQ, CLASSES = "CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS"
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = {
    "llama": (LlamaConfig(vocab_size=600, num_key_value_heads=2, max_position_embeddings=128, **SMALL), CAUSAL),
    "t5": (
        T5Config(vocab_size=600, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0),
        SEQ2SEQ,
    ),
    "bert": (BertConfig(vocab_size=600, max_position_embeddings=128, **SMALL), CLASSES),
    "mixtral": (MixtralConfig(vocab_size=600, num_key_value_heads=2, num_local_experts=4, **SMALL), CAUSAL),
}
SETTINGS = StepSettings(batch=3, length=40, target_length=16)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of random models, by the name of their shape."""
    root = tmp_path_factory.mktemp("bases")
    for name, (config, kind) in CONFIGS.items():
        auto_class(kind).from_config(config).save_pretrained(root / name)
    return {name: root / name for name in CONFIGS}


@pytest.fixture
def config_alone(tmp_path):
    """A folder that holds a Llama's configuration and no weights."""
    config = copy.deepcopy(CONFIGS["llama"][0])
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path)
    return tmp_path


def planned(folder, kind, method, settings=SETTINGS):
    return Planned(resolve_base(folder), kind, method, settings).memory()


@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("shape", ["llama", "t5"])
def test_the_planned_peak_is_that_of_a_real_run(bases, shape, method):
    kind = CONFIGS[shape][1]
    try:
        memory = planned(bases[shape], kind, get_method(method)())
    except MethodError:
        with pytest.raises(MethodError):
            hfplug.build_model(bases[shape], method)
        return
    model = hfplug.build_model(bases[shape], method)
    assert memory.weights == weight_bytes(model)
    assert memory.peak == pytest.approx(measure_steps(model, SETTINGS, kind), rel=0.02)


@pytest.mark.parametrize("shape", ["bert", "mixtral"])
@pytest.mark.parametrize("change", [{}, {"checkpointing": "on"}, {"accumulation": 2}, {"dtype": "bfloat16"}])
def test_checkpointing_accumulation_and_16_bits_are_planned_as_they_run(bases, shape, change):
    settings = dataclasses.replace(SETTINGS, **change)
    kind = CONFIGS[shape][1]
    memory = planned(bases[shape], kind, get_method("lora")(), settings)
    model = hfplug.build_model(bases[shape], "lora", dtype=settings.dtype)
    assert memory.peak == pytest.approx(measure_steps(model, settings, kind), rel=0.05)


def test_checkpointing_takes_less_and_a_longer_input_more(bases):
    method = get_method("lora")()
    plain = planned(bases["llama"], CAUSAL, method).peak
    assert planned(bases["llama"], CAUSAL, method, dataclasses.replace(SETTINGS, checkpointing="on")).peak < plain
    assert planned(bases["llama"], CAUSAL, method, dataclasses.replace(SETTINGS, length=80)).peak > plain


def test_a_configuration_alone_gives_the_plan_of_the_weights(bases, config_alone):
    here, there = (planned(folder, CAUSAL, get_method("lora")()) for folder in (config_alone, bases["llama"]))
    assert here == there


def test_no_weight_is_read(bases, tmp_path):
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((bases["llama"] / file).read_bytes())
    whole = (tmp_path / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    (tmp_path / "model.safetensors").write_bytes(whole[:header])  # the file ends where the weights would begin
    assert planned(tmp_path, CAUSAL, get_method("lora")()) == planned(bases["llama"], CAUSAL, get_method("lora")())


def test_what_a_checkpoint_lacks_is_known_from_its_header(bases, tmp_path):
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((bases["bert"] / file).read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    lost = [name for name in tensors if "pooler" in name]
    save_file({name: one for name, one in tensors.items() if name not in lost}, tmp_path / "model.safetensors")
    model = shape_model(resolve_base(tmp_path), CLASSES, get_method("full")())
    assert sorted(missing_parameters(model, resolve_base(tmp_path))) == sorted(lost)


@pytest.mark.parametrize("method", [name for name in method_names() if name != "full"])
def test_the_bytes_of_an_adapter_are_those_of_its_file(bases, tmp_path, method):
    try:
        memory = planned(bases["llama"], CAUSAL, get_method(method)())
    except MethodError:
        return
    hfplug.build_model(bases["llama"], method).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert memory.adapter_bytes == sum(one.numel() * one.element_size() for one in stored.values())


@pytest.mark.parametrize("name", [name for name, one in OPTIMIZERS.items() if one.make is not None])
def test_an_optimisers_states_are_what_it_makes(bases, name):
    ready = Planned(resolve_base(bases["llama"]), CAUSAL, get_method("lora")(), StepSettings(optimizer=name))
    model = hfplug.build_model(bases["llama"], "lora")
    optimizer = OPTIMIZERS[name].make([one for one in model.parameters() if one.requires_grad])
    for one in model.parameters():
        one.grad = torch.zeros_like(one) if one.requires_grad else None
    optimizer.step()
    assert ready.optimizer.states == optimizer_bytes(optimizer)
    assert isinstance(optimizer, Adafactor) == (name == "adafactor")


def test_eight_bit_states_are_a_quarter_and_pages_leave_the_device():
    model = nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.Embedding(100, 64), nn.LayerNorm(64))
    big, table, small = 1024 * 1024, 100 * 64, 2 * 64
    eight = state_bytes(find_optimizer("adamw_8bit"), model)
    assert eight.states == 2 * big + 2 * 4 * big // 256 + 8 * (table + small) + 2 * 256 * 4
    assert eight.paged == 0
    paged = state_bytes(find_optimizer("paged_adamw_32bit"), model)
    assert (paged.states, paged.paged) == (8 * (table + small), 8 * big)


def test_full_tuning_takes_sixteen_bytes_a_parameter_and_its_activations(config_alone):
    memory = planned(config_alone, CAUSAL, get_method("full")())
    each = [value / memory.parameters for value in (memory.weights, memory.gradients, memory.optimizer_states)]
    assert each == pytest.approx([4, 4, 8], rel=0.01)
    assert memory.peak / memory.parameters > 16


def test_four_bit_weights_hold_their_constants_and_what_is_not_quantised(bases):
    memory = planned(bases["llama"], CAUSAL, get_method("qlora")())
    model = hfplug.build_model(bases["llama"], "qlora")
    assert memory.weights == weight_bytes(model)
    single = planned(bases["llama"], CAUSAL, get_method("qlora")(double_quant="off"))
    assert single.weights == weight_bytes(hfplug.build_model(bases["llama"], "qlora", double_quant="off"))
    assert single.weights != memory.weights


def test_the_largest_batch_fits_and_one_more_does_not(config_alone):
    device = find_device("20MB")
    plan = plan_memory(config_alone, ["lora"], settings=StepSettings(batch=2, length=32), device=device)
    most = plan.methods[0].largest_batch
    ready = Planned(resolve_base(config_alone), CAUSAL, get_method("lora")(), plan.settings)
    assert ready.memory(batch=most).peak <= device.usable < ready.memory(batch=most + 1).peak


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("method", ["full", "lora", "prefix_tuning"])
def test_the_peak_of_any_batch_follows_from_two(bases, name, method):
    kind = CONFIGS[name][1]
    settings = StepSettings(batch=2, length=16, target_length=8)
    ready = Planned(resolve_base(bases[name]), kind, get_method(method)(), settings)
    peak = ready.peak_by_rows()
    for rows in (3, 64):
        memory = ready.memory(batch=rows)
        assert peak(rows) == memory.peak - memory.weights - memory.optimizer_states


@pytest.mark.parametrize(("room", "rows"), [(99, 0), (110, 1), (119, 1), (120, 2), (1100, 100), (10**9, 1_000_000)])
def test_the_largest_batch_is_found_on_a_line(room, rows):
    assert largest_batch(lambda batch: 100 + 10 * batch, 8, room) == rows


def test_adapters_of_many_tasks_share_one_base(config_alone):
    plan = plan_memory(config_alone, ["full", "lora"], settings=SETTINGS)
    whole = plan.for_tasks(10)
    assert set(whole) == {"lora"}
    assert whole["lora"]["full_copies"] == 10 * plan.full_copy_bytes
    assert whole["lora"]["base_and_adapters"] == plan.full_copy_bytes + 10 * plan.methods[1].adapter_bytes


def test_a_method_that_does_not_fit_is_named_with_its_reason(config_alone):
    plan = plan_memory(config_alone, ["bitfit", "norms"], settings=SETTINGS)
    assert [one.method for one in plan.methods] == ["norms"]
    assert "no bias" in plan.refused["bitfit"]


def test_a_probe_corrects_what_is_not_known_exactly():
    parts = {"weights": 100, "gradients": 10, "optimizer_states": 20, "activations": 60, "temporary": 20}
    rest = {"paged_states": 0, "parameters": 1, "trainable_parameters": 1, "adapter_bytes": 1}
    put_right, factor = corrected(MethodMemory(method="x", **parts, **rest), 170)
    assert (put_right.peak, put_right.predicted_peak, put_right.measured_peak, factor) == (170, 210, 170, 0.5)
    assert (put_right.weights, put_right.activations, put_right.temporary) == (100, 30, 10)


@pytest.mark.slow
def test_a_probe_in_a_child_process_agrees_with_the_plan(bases):
    settings = dataclasses.replace(SETTINGS, optimizer="adafactor")
    measured = probe_peak(bases["llama"], settings)(get_method("lora")(r=4))
    assert planned(bases["llama"], CAUSAL, get_method("lora")(r=4), settings).peak == pytest.approx(measured, rel=0.02)


def test_a_picture_is_written_in_both_formats(config_alone, tmp_path):
    plan = plan_memory(config_alone, ["full", "lora"], settings=SETTINGS, device=find_device("20MB"))
    for name, begins in (("plan.png", b"\x89PNG"), ("plan.svg", b"<?xml")):
        draw_plan(plan, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begins)
    assert "optimiser states" in (tmp_path / "plan.svg").read_text()


def test_devices_are_sizes_and_names():
    assert find_device("24GB").bytes == 24 * 10**9
    assert find_device("1.5 GiB").bytes == 3 * 2**29
    assert find_device("nvidia a100 80gb").bytes == 80 * 10**9
    assert all(page.startswith("https://") for _, page in GPUS.values())


@pytest.mark.parametrize("text", ["24GBs", "24", "-3GB", "0GB", "lots", "A1000", ""])
def test_a_memory_that_is_none_is_refused(text):
    with pytest.raises(SettingError, match="24GB"):
        find_device(text)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"length": -1}, {"target_length": 0}, {"accumulation": 0}])
def test_numbers_below_one_are_refused(wrong):
    with pytest.raises(SettingError, match="must be 1 or more"):
        StepSettings(**wrong)


def test_an_optimiser_that_is_not_known_is_refused_with_a_guess():
    with pytest.raises(SettingError, match="Did you mean 'adafactor'"):
        StepSettings(optimizer="adafctor")


def test_an_input_beyond_the_positions_is_refused(config_alone):
    with pytest.raises(SettingError, match="has 128 positions"):
        plan_memory(config_alone, ["lora"], settings=StepSettings(length=129))
    plan = plan_memory(config_alone, ["lora", "prompt_tuning"], settings=StepSettings(batch=1, length=128))
    assert "has 128 positions" in plan.refused["prompt_tuning"]


def test_a_configuration_that_no_model_can_be_made_of_is_one_sentence(config_alone):
    values = json.loads((config_alone / "config.json").read_text())
    (config_alone / "config.json").write_text(json.dumps(values | {"hidden_act": "no such thing"}))
    with pytest.raises(BaseModelError, match="can be made from the configuration"):
        plan_memory(config_alone, ["lora"], settings=SETTINGS)


def test_a_broken_header_is_one_sentence(config_alone):
    (config_alone / "model.safetensors").write_bytes((100).to_bytes(8, "little") + b"{not json")
    with pytest.raises(BaseModelError, match="header"):
        plan_memory(config_alone, ["lora"], settings=SETTINGS)


def test_a_model_that_raises_anything_is_one_sentence(config_alone):
    ready = Planned(resolve_base(config_alone), CAUSAL, get_method("lora")(), SETTINGS)
    with pytest.raises(MethodError, match="lora cannot be planned on this base: "):
        ready.memory({"input_ids": (2, 8, 3, 5)})


def test_a_method_that_does_not_run_with_checkpointing_is_refused_without_a_stack_trace(bases, capfd):
    settings = dataclasses.replace(SETTINGS, checkpointing="on")
    plan = plan_memory(bases["t5"], ["prefix_tuning"], settings=settings)
    assert plan.refused["prefix_tuning"].startswith("prefix_tuning cannot be planned with gradient checkpointing")
    assert "Traceback" not in capfd.readouterr().err
