"""The probe that an export leaves is that of the weights that were exported, and never costs the export."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import hfplug
from hfplug.adapters.adapter_dir import AdapterDir


@pytest.fixture
def base(tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def train(model, out, **arguments):
    ids = torch.randint(3, 64, (8, 9), generator=torch.Generator().manual_seed(2)).tolist()
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids})
    values = {"max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 0.05, "save_steps": 2, **arguments}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(out), report_to="none", disable_tqdm=True, **values),
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=hfplug.adapter_callbacks(),
    )
    trainer.train()
    return AdapterDir.open(out / "adapter")


@pytest.mark.parametrize("name", ["default", "mine"])
def test_it_is_that_of_the_best_checkpoint(base, tmp_path, name):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base), config, adapter_name=name)
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}
    adapter = train(model, tmp_path / "run", eval_strategy="steps", eval_steps=2, **best)
    assert adapter.record.best_checkpoint == "checkpoint-2"  # the highest loss counts as best, so it is the first
    assert hfplug.verify_adapter(adapter.path).verdict == "same"
    last = tmp_path / "run" / "checkpoint-6" / ("" if name == "default" else name)
    AdapterDir.write(tmp_path / "last", source=last, lock=adapter.lock)
    assert hfplug.verify_adapter(tmp_path / "last").verdict == "different"


def test_mixed_precision_leaves_the_probe_of_a_plain_load(base, tmp_path):
    adapter = train(hfplug.build_model(base, "lora"), tmp_path / "run", bf16=True, use_cpu=True)
    result = hfplug.verify_adapter(adapter.path)
    assert (result.verdict, result.basis) == ("same", "float32")


def test_a_model_that_cannot_be_asked_is_exported_with_a_note(base, tmp_path, caplog):
    model = hfplug.build_model(base, "lora")

    def refuse(module, inputs):
        if not module.training:
            raise RuntimeError("this model only trains")

    model.get_base_model().lm_head.register_forward_pre_hook(refuse)
    adapter = train(model, tmp_path / "run", save_strategy="no")
    assert adapter.lock.probe is None and adapter.lock.weights_sha256
    assert "There is no probe of its answers: this model only trains" in adapter.record.notes
    assert "exported without a probe" in caplog.text
    assert len({module.training for module in model.modules()}) == 1
