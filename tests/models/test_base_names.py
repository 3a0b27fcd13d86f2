"""What an adapter writes down about a base that is a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import hfplug
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.demo.chat_base import write_chat_base


def applied(base: str) -> torch.nn.Module:
    return hfplug.apply_method(AutoModelForCausalLM.from_pretrained(base), "lora")


@pytest.mark.parametrize("make", [hfplug.build_model, applied], ids=["build_model", "apply_method"])
def test_an_adapter_of_a_base_in_a_relative_folder_loads_from_any_folder(make, tmp_path, monkeypatch):
    """``out/base`` would read like a repo id: of a stranger's model, as soon as the folder is out of sight."""
    monkeypatch.chdir(tmp_path)
    write_chat_base("out/base")
    rows = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}] * 4
    arguments = TrainingArguments(output_dir="out", max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True)
    trainer = Trainer(make("out/base"), arguments, train_dataset=rows, callbacks=hfplug.adapter_callbacks())
    trainer.train()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    adapter = AdapterDir.open(tmp_path / "out" / "adapter")
    names = {adapter.base_name, adapter.record.base, adapter.config["base_model_name_or_path"]}
    assert names == {str(tmp_path / "out" / "base")}
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(hfplug.load_adapter(adapter.path)(ids).logits, trainer.model.eval()(ids).logits)
    assert "out/base" not in json.dumps(dict(front_matter(adapter.path / "README.md")))


def front_matter(card: Path) -> dict:
    import yaml

    return yaml.safe_load(card.read_text(encoding="utf-8").split("---")[1])
