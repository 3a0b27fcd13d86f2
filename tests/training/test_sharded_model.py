"""A model that FSDP2 has sharded is still the tuned model, and its adapter is saved whole or not at all."""

from __future__ import annotations

import json

import pytest
import torch
from plug_samples import make_base
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainingArguments

import hfplug
from hfplug.errors import AdapterError, TrainingError
from hfplug.models.memory import weight_bytes
from hfplug.models.sharded import sharding_of, whole_adapter
from hfplug.training.exporter import ExporterCallback, save_gathered
from hfplug.training.guard import refuse_sharded_prompt
from hfplug.training.meter import RunFigures
from hfplug.training.plug_exchange import is_plugged
from hfplug.training.run_record import _memory, _speed


@pytest.fixture
def alone():
    """A process group of one process."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def sharded(base, method="lora"):
    """A tuned model in one shard, as accelerate prepares it for FSDP2."""
    torch.manual_seed(0)
    model = hfplug.plug(AutoModelForCausalLM.from_pretrained(base), method)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    whole = {name: one.clone() for name, one in whole_adapter(model).items()}
    for layer in model.get_base_model().model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model, whole


def test_a_sharded_model_is_still_the_tuned_model(alone, tmp_path):
    model, _ = sharded(make_base("llama", tmp_path / "base"))
    assert is_plugged(model) and isinstance(model, PreTrainedModel) and isinstance(model, FSDPModule)
    assert (sharding_of(model), weight_bytes(model) > 0) == ("FSDP2", True)
    ids = torch.arange(3, 11)[None]
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    trained = [one for one in model.parameters() if one.requires_grad]
    assert trained and all(one.grad is not None for one in trained)


def test_its_adapter_is_gathered_whole_and_loads_in_plain_peft(alone, tmp_path):
    from peft import PeftModel

    base = make_base("llama", tmp_path / "base")
    model, whole = sharded(base)
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_gathered(model, whole_adapter(model), folder)
    saved = load_file(folder / "adapter_model.safetensors")
    assert saved.keys() == whole.keys() and all(torch.equal(saved[name], whole[name]) for name in whole)
    ids = torch.arange(3, 11)[None]
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    assert torch.allclose(loaded(input_ids=ids).logits, model.eval()(input_ids=ids).logits, atol=1e-5)


def test_a_part_is_never_saved_for_the_whole(alone, tmp_path):
    model, _ = sharded(make_base("llama", tmp_path / "base"))
    with pytest.raises(AdapterError, match=r"(?s)holds a part.*trainer.save_model"):
        model.save_pretrained(tmp_path / "part")
    nothing = {name: torch.zeros(0) for name in model.state_dict()}
    with pytest.raises(AdapterError, match=r"(?s)16 of 16 tensors are empty.*zero3_save_16bit_model"):
        model.save_pretrained(tmp_path / "part", state_dict=nothing)
    with pytest.raises(AdapterError, match="no tensor at all"):
        model.save_pretrained(tmp_path / "part", state_dict={})
    assert not (tmp_path / "part").exists()


def test_a_soft_prompt_under_fsdp_is_refused_before_the_first_step(tmp_path):
    base = make_base("llama", tmp_path / "base")
    prompt = hfplug.plug(AutoModelForCausalLM.from_pretrained(base), "prompt_tuning")
    with pytest.raises(TrainingError, match="cannot be saved under FSDP2"):
        refuse_sharded_prompt(prompt, "FSDP2")
    refuse_sharded_prompt(prompt, "ZeRO-3")
    refuse_sharded_prompt(hfplug.plug(AutoModelForCausalLM.from_pretrained(base), "lora"), "FSDP2")


@pytest.fixture
def emptied(tmp_path):
    """A saved adapter of which one tensor is empty, as processes write that did not gather."""
    model = hfplug.plug(AutoModelForCausalLM.from_pretrained(make_base("llama", tmp_path / "base")), "lora")
    model.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    first = next(iter(tensors))
    save_file({**tensors, first: torch.zeros(0, 16)}, file)
    return tmp_path / "adapter"


def test_an_empty_tensor_is_an_error_at_export_push_and_load(emptied, tmp_path):
    from hfplug.hub.parcel import pack

    said = r"1 of 16 tensors in .* are empty, e.g. .* of shape \(0, 16\)"
    with pytest.raises(AdapterError, match=said):
        hfplug.AdapterDir.write(tmp_path / "export", source=emptied)
    assert not (tmp_path / "export").exists()
    with pytest.raises(AdapterError, match=said):
        pack(emptied, tmp_path / "parcel", repo_id="me/x")
    with pytest.raises(AdapterError, match=said):
        hfplug.load_adapter(emptied)


def test_an_empty_checkpoint_stops_the_run_at_the_first_save(emptied, tmp_path):
    checkpoint = emptied.rename(tmp_path / "checkpoint-7")
    args = TrainingArguments(output_dir=str(checkpoint.parent), use_cpu=True, report_to="none")
    state = type("State", (), {"is_world_process_zero": True, "global_step": 7})()
    with pytest.raises(AdapterError, match="are empty"):
        ExporterCallback().on_save(args, state, None)


def figures(seconds, tokens, peak):
    return RunFigures(weights=10, peak_training_bytes=peak, step_seconds=seconds, real_tokens=tokens, padding_tokens=2)


def test_the_record_has_each_process_and_all_together():
    import dataclasses

    one, other = figures([1.0, 3.0], 60, 100), figures([2.0, 4.0], 40, 300)
    both = [dataclasses.asdict(each) for each in (one, other)]
    ours = dataclasses.replace(one, processes=json.loads(json.dumps(both)))
    speed = _speed(ours, type("State", (), {"log_history": []})())
    assert (speed["seconds_per_step"], speed["real_tokens_per_second"]) == (3.0, 100 / 6.0)
    assert speed["padding_share"] == 4 / 104
    assert [each["real_tokens_per_second"] for each in speed["processes"]] == [15.0, 40 / 6]
    memory = _memory(ours)
    assert (memory["peak_training_bytes"], memory["rest"], memory["total_peak_training_bytes"]) == (300, 290, 400)
    assert [each["peak_training_bytes"] for each in memory["processes"]] == [100, 300]
    assert "processes" not in _speed(one, type("State", (), {"log_history": []})()) and "processes" not in _memory(one)
