"""What hfplug writes opens elsewhere, what others write opens here, and both travel through a Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from made_adapters import make_llama, make_tokenizer
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, pipeline

import hfplug
from hfplug.adapters.files import file_sha256

IDS = torch.tensor([[3, 4, 5, 3, 4]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny Llama with a tokenizer."""
    make_llama().save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def full(base: Path, tmp_path: Path) -> Path:
    """The same, every weight moved."""
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "full")
    make_tokenizer().save_pretrained(tmp_path / "full")
    return tmp_path / "full"


@pytest.fixture
def adapter(base: Path, full: Path, tmp_path: Path) -> Path:
    """A LoRA that hfplug wrote."""
    return hfplug.extract_adapter(full, tmp_path / "adapter", base=base, rank=4).adapter.path


def test_our_adapter_and_our_merged_model_open_in_peft_pipeline_and_trl(base, adapter, tmp_path):
    expected = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter))
    assert not torch.allclose(expected, logits(AutoModelForCausalLM.from_pretrained(base)), atol=1e-3)
    # TRL's scripts load a tuned folder with PEFT's automatic class, and transformers loads the base by itself.
    assert torch.allclose(logits(AutoPeftModelForCausalLM.from_pretrained(adapter)), expected, atol=1e-6)
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(adapter)), expected, atol=1e-6)
    hfplug.merge_adapter(adapter, tmp_path / "merged")
    for folder in (adapter, tmp_path / "merged"):
        piped = pipeline("text-generation", model=str(folder), tokenizer=str(folder))
        assert torch.allclose(logits(piped.model), expected, atol=1e-5)
        assert piped("the cat", max_new_tokens=3, do_sample=False)[0]["generated_text"].startswith("the cat")


def test_our_adapter_has_what_vllms_loader_asks_for(base, adapter, tmp_path):
    """Its documented requirements: type, rank up to 16 by default, no DoRA, bias or saved modules, and tensor names."""
    exported = hfplug.export_adapter(adapter, "vllm", tmp_path / "vllm", base=base)
    config = json.loads((exported.folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["r"] <= 16
    assert (config["bias"], config["use_dora"], config["modules_to_save"]) == ("none", False, None)
    assert isinstance(config["target_modules"], list) and config["lora_alpha"]
    modules = {name for name, _ in AutoModelForCausalLM.from_pretrained(base).named_modules()}
    with safe_open(exported.folder / "adapter_model.safetensors", "pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - it is no dict
            module, _, rest = name.removeprefix("base_model.model.").partition(".lora_")
            assert name.startswith("base_model.model.") and module in modules and rest in ("A.weight", "B.weight")
            assert min(opened.get_slice(name).get_shape()) <= config["r"]
    assert "vllm serve" in exported.command and "--enable-lora" in exported.command


def test_an_adapter_that_trl_trained_opens_merges_and_gives_the_same(base, tmp_path):
    trl = pytest.importorskip("trl")
    args = trl.SFTConfig(
        str(tmp_path / "run"), max_steps=1, report_to="none", learning_rate=1e-1, use_cpu=True, bf16=False
    )
    trainer = trl.SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base),
        args=args,
        train_dataset=Dataset.from_dict({"text": ["the cat sat"] * 2}),
        processing_class=make_tokenizer(),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"]),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "trl"))
    expected = logits(trainer.model.float())
    assert torch.allclose(logits(hfplug.load_adapter(tmp_path / "trl")), expected, atol=1e-5)
    assert hfplug.merge_adapter(tmp_path / "trl", tmp_path / "merged").difference.verdict == "same"
    # And TRL goes on from a merged model of ours as from any base.
    again = trl.SFTTrainer(
        model=str(tmp_path / "merged"), args=args, train_dataset=Dataset.from_dict({"text": ["the cat sat"] * 2})
    )
    assert torch.allclose(logits(again.model.float()), expected, atol=1e-4)


def adapterhub(folder: Path, weights: str) -> Path:
    """The folder of a LoRA as the library ``adapters`` writes it."""
    folder.mkdir()
    settings = {"architecture": "lora", "alpha": 8, "r": 8, "attn_matrices": ["q", "v"], "selfattn_lora": True}
    about = {"model_type": "llama", "model_class": "LlamaAdapterModel", "model_name": "base", "name": "mine"}
    (folder / "adapter_config.json").write_text(json.dumps({"config": settings, "hidden_size": 16, **about}))
    if weights.endswith(".bin"):
        (folder / weights).write_bytes(b"\x80never read")
    else:
        save_file({"model.layers.0.self_attn.q_proj.loras.mine.lora_A": torch.zeros(8, 16)}, folder / weights)
    return folder


@pytest.mark.parametrize("weights", ["pytorch_adapter.bin", "adapter.safetensors"])
def test_a_lora_of_adapterhub_is_refused_with_what_it_lacks_and_a_way_in(make_hub, tmp_path, weights):
    folder = adapterhub(tmp_path / "theirs", weights)
    hub = make_hub()
    hub.api.create_repo("alice/theirs")
    hub.api.upload_folder(repo_id="alice/theirs", folder_path=folder)
    with pytest.raises(hfplug.AdapterError, match=r"AdapterHub.*peft_type.*hfplug extract") as here:
        hfplug.AdapterDir.open(folder)
    with pytest.raises(hfplug.AdapterError, match=r"AdapterHub.*peft_type.*hfplug extract") as there:
        hfplug.pull_adapter("alice/theirs", endpoint=hub.endpoint, token=hub.token, cache_dir=hub.cache)
    assert "alice/theirs" in str(there.value) and str(folder) in str(here.value)


def test_a_merged_and_an_extracted_one_go_to_a_hub_come_back_and_prove_themselves(make_hub, base, adapter, tmp_path):
    merged = hfplug.merge_adapter(adapter, tmp_path / "merged").adapter.path
    hub = make_hub()
    for folder, report in ((merged, "hfplug_merge.json"), (adapter, "hfplug_extract.json")):
        places = {"endpoint": hub.endpoint, "token": hub.token}
        sent = hfplug.push_adapter(folder, f"alice/{folder.name}", **places)
        pulled = hfplug.pull_adapter(sent.repo_id, revision=sent.commit, cache_dir=hub.cache, **places)
        assert pulled.commit == sent.commit and (pulled.adapter.path / report).is_file()
        assert [file_sha256(one) for one in pulled.adapter.weights] == [
            file_sha256(one) for one in hfplug.AdapterDir.open(folder).weights
        ]
        more = {"base": base} if folder == adapter else {}
        assert hfplug.verify_adapter(pulled.adapter.path, **more).verdict == "same"
        told = (pulled.adapter.path / "README.md").read_text() + (pulled.adapter.path / report).read_text()
        assert str(tmp_path) not in told and "Checked" in told
    assert load_file(merged / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
