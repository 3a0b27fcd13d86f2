"""TRL's trainers in scripts that know nothing of hfplug: their reference, their casts and their own PEFT."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from plug_samples import make_base, run_here

trl = pytest.importorskip("trl")

PREFERENCES = """
import sys
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
base, out = sys.argv[1:3]
tokenizer = AutoTokenizer.from_pretrained(base)
data = Dataset.from_dict(
    {"prompt": [f"Ben: hello {at}" for at in range(8)], "chosen": [" yes please"] * 8, "rejected": [" no"] * 8}
)
model = AutoModelForCausalLM.from_pretrained(base)
args = DPOConfig(
    output_dir=out, max_steps=3, save_steps=3, per_device_train_batch_size=2, learning_rate=1e-2, logging_steps=1,
    report_to="none", use_cpu=True, disable_tqdm=True, bf16=False,
)
trainer = DPOTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer)
trainer.train()
trainer.save_model()
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a random Llama."""
    return make_base("llama", tmp_path_factory.mktemp("bases") / "llama")


@pytest.mark.parametrize("method", ["qlora", "prompt_tuning"])
def test_preferences_are_learnt_against_a_reference_that_stays(monkeypatch, base, tmp_path, method):
    script = tmp_path / "theirs.py"
    script.write_text(PREFERENCES, encoding="utf-8")
    status, names = run_here(monkeypatch, script, [base, tmp_path / "out"], method)
    model, losses = names["model"], [one["loss"] for one in names["trainer"].state.log_history if "loss" in one]
    assert status == 0 and isinstance(model, PeftModel) and losses[0] == pytest.approx(0.6931, abs=2e-3)
    assert losses[-1] != losses[0]
    trained = [one for one in model.parameters() if one.requires_grad]
    held = [one for group in names["trainer"].optimizer.param_groups for one in group["params"]]
    assert {id(one) for one in trained} == {id(one) for one in held}
    assert not any(one.requires_grad for name, one in model.named_parameters() if ".ref." in name)
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").is_file()


def test_loading_leaves_an_adapter_in_the_format_that_somebody_put_it_into(base, tmp_path):
    from transformers import AutoModelForCausalLM

    import hfplug

    model = hfplug.plug(AutoModelForCausalLM.from_pretrained(base), "lora")
    for one in model.parameters():
        one.data = one.data.to(torch.bfloat16) if one.requires_grad else one.data
    model.save_pretrained(tmp_path)
    model.load_adapter(str(tmp_path), "default", is_trainable=True)
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.bfloat16}
