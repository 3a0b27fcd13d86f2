"""Scripts whose model, optimiser or Trainer is their own: unknown heads, and everything in the optimiser."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from plug_samples import make_base, run_here
from transformers import AutoModelForMultipleChoice, LlamaModel, LlamaPreTrainedModel

import hfplug
from hfplug.errors import MethodError

TOP = """
import sys
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForMultipleChoice, Trainer, TrainingArguments
from transformers import LlamaModel, LlamaPreTrainedModel
base, out = sys.argv[1:3]
torch.manual_seed(0)
ids = torch.randint(3, 200, (16, 12), generator=torch.Generator().manual_seed(1)).tolist()
mask = [[1] * 12] * 16
args = TrainingArguments(
    output_dir=out, max_steps=3, save_steps=3, per_device_train_batch_size=4, learning_rate=1e-2, use_cpu=True,
    report_to="none", disable_tqdm=True,
)
"""
CHOICE = """
rows = {"input_ids": [[ids[at], ids[at - 1]] for at in range(16)], "attention_mask": [[[1] * 12] * 2] * 16}
data = Dataset.from_dict({**rows, "labels": [at % 2 for at in range(16)]})
model = AutoModelForMultipleChoice.from_pretrained(base)
metrics = lambda p: {"accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())}
trainer = Trainer(model, args, train_dataset=data, eval_dataset=data, compute_metrics=metrics)
trainer.train()
trainer.save_model()
shape = trainer.predict(data).predictions.shape
loss = trainer.evaluate()["eval_loss"]
"""
REGRESSOR = """
class Regressor(LlamaPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.value = torch.nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        value = self.value(self.model(input_ids=input_ids, attention_mask=attention_mask)[0][:, -1])[:, 0]
        return {"loss": ((value - labels) ** 2).mean(), "logits": value}

data = Dataset.from_dict({"input_ids": ids, "attention_mask": mask, "labels": [at / 16 for at in range(16)]})
model = Regressor.from_pretrained(base)
trainer = Trainer(model, args, train_dataset=data, eval_dataset=data)
before = trainer.evaluate()["eval_loss"]
trainer.train()
trainer.save_model()
loss = trainer.evaluate()["eval_loss"]
"""
ALL_IN_ONE = """
class Everything(Trainer):
    def create_optimizer(self, *more):
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        return self.optimizer

data = Dataset.from_dict({"input_ids": ids, "attention_mask": mask, "labels": ids})
model = AutoModelForCausalLM.from_pretrained(base)
trainer = Everything(model, args, train_dataset=data)
trainer.train(resume_from_checkpoint=len(sys.argv) > 3)
"""
COMPILED = """
data = Dataset.from_dict({"input_ids": ids, "attention_mask": mask, "labels": ids})
model = torch.compile(AutoModelForCausalLM.from_pretrained(base), backend="eager")
Trainer(model, args, train_dataset=data).train()
"""


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Name of a model type to a folder with a random model of it."""
    folder = tmp_path_factory.mktemp("bases")
    return {kind: make_base(kind, folder / kind) for kind in ("bert", "llama")}


def run(monkeypatch, folder, base, code, method, *more):
    script = folder / "theirs.py"
    script.write_text(TOP + code, encoding="utf-8")
    return run_here(monkeypatch, script, [base, folder / "out", *more], method)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_multiple_choice_trains_its_new_head_and_reloads_to_the_same_loss(monkeypatch, bases, tmp_path, method):
    status, names = run(monkeypatch, tmp_path, bases["bert"], CHOICE, method)
    assert status == 0 and names["shape"] == (16, 2)
    assert {"classifier" in name for name, one in names["model"].named_parameters() if "classifier" in name} == {True}
    torch.manual_seed(99)
    again = AutoModelForMultipleChoice.from_pretrained(bases["bert"])
    again = hfplug.plug(again, method)
    again.load_adapter(str(tmp_path / "out"), "default")
    row = {"input_ids": torch.tensor([names["rows"]["input_ids"][0]]), "labels": torch.tensor([0])}
    with torch.no_grad():
        assert torch.allclose(again.eval()(**row).logits, names["model"].cpu().eval()(**row).logits, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "bottleneck"])
def test_a_head_of_the_scripts_own_class_is_trained_and_saved_with_the_adapter(monkeypatch, bases, tmp_path, method):
    status, names = run(monkeypatch, tmp_path, bases["llama"], REGRESSOR, method)
    assert status == 0 and names["loss"] < names["before"]
    model = names["model"]
    assert isinstance(model, PeftModel) and isinstance(model, LlamaPreTrainedModel)
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert any("value" in name for name in trained) and not any("embed" in name for name in trained)
    assert isinstance(model.get_base_model().model, LlamaModel)
    torch.manual_seed(99)
    again = hfplug.plug(names["Regressor"].from_pretrained(bases["llama"]), method).eval()
    again.load_adapter(str(tmp_path / "out"), "default")
    row = {"input_ids": torch.tensor(names["ids"][:2]), "labels": torch.zeros(2)}
    with torch.no_grad():
        assert torch.allclose(again(**row)["logits"], model.eval()(**row)["logits"], atol=1e-5)


@pytest.mark.parametrize("code", [CHOICE, REGRESSOR])
def test_a_soft_prompt_before_a_head_that_nobody_knows_is_refused_in_one_line(monkeypatch, bases, tmp_path, code):
    with pytest.raises(MethodError, match="puts vectors before the input") as caught:
        run(monkeypatch, tmp_path, bases["bert" if code is CHOICE else "llama"], code, "prompt_tuning")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_an_optimizer_of_the_trainers_own_that_takes_everything_holds_the_adapter_only(monkeypatch, bases, tmp_path):
    _, names = run(monkeypatch, tmp_path, bases["llama"], ALL_IN_ONE, "lora")
    held = [one for group in names["trainer"].optimizer.param_groups for one in group["params"]]
    wanted = [one for one in names["model"].parameters() if one.requires_grad]
    assert {id(one) for one in held} == {id(one) for one in wanted} and held
    status, _ = run(monkeypatch, tmp_path, bases["llama"], ALL_IN_ONE, "lora", "resume")
    assert status == 0


def test_a_model_that_the_script_compiled_is_refused_with_what_to_type(monkeypatch, bases, tmp_path):
    with pytest.raises(MethodError, match="compiles its LlamaForCausalLM") as caught:
        run(monkeypatch, tmp_path, bases["llama"], COMPILED, "lora")
    assert "--torch_compile" in str(caught.value.fix)
