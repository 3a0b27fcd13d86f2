"""A Trainer that hfplug is put into: the same numbers as by hand, and the right weights in the optimiser."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from datasets import Dataset
from huggingface_hub import HfApi
from peft import PeftModel, get_peft_model
from plug_samples import make_base, run_here
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import hfplug
from hfplug.errors import MismatchError, TrainingError
from hfplug.hub.server import running_hub
from hfplug.training.plug_trainer import PluggedTrainer

SECRET = "hf_" + "a1B2c3D4e5F6g7H8i9J0" * 2
KINDS = {"llama": AutoModelForCausalLM, "t5": AutoModelForSeq2SeqLM}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Name of a model type to a folder with a random model of it."""
    folder = tmp_path_factory.mktemp("bases")
    return {kind: make_base(kind, folder / kind) for kind in ("t5", "llama")}


def data(rows=16, length=12):
    ids = torch.randint(3, 200, (rows, length), generator=torch.Generator().manual_seed(1)).tolist()
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * length] * rows, "labels": ids})


def arguments(folder, **more):
    values = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return TrainingArguments(**{**values, **more})


def losses(trainer):
    """Everything that was logged but costs."""
    skip = ("runtime", "per_second", "bytes", "share", "epoch", "flos")
    return [
        {key: value for key, value in entry.items() if not any(word in key for word in skip)} for entry in log(trainer)
    ]


def log(trainer):
    return [{key: value for key, value in entry.items()} for entry in trainer.state.log_history]


@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "ia3"])
@pytest.mark.parametrize("kind", KINDS)
def test_metrics_are_those_of_a_script_edited_by_hand_step_for_step(bases, tmp_path, kind, method):
    chosen = hfplug.get_method(method)()
    by_hand = KINDS[kind].from_pretrained(bases[kind])
    plugged = KINDS[kind].from_pretrained(bases[kind])
    torch.manual_seed(5)
    reference = hfplug.apply_method(copy.deepcopy(by_hand), chosen)
    torch.manual_seed(5)
    by_hand = get_peft_model(by_hand, copy.deepcopy(reference.active_peft_config))
    torch.manual_seed(5)
    hfplug.plug(plugged, chosen)
    one = Trainer(by_hand, arguments(tmp_path / "hand"), train_dataset=data(), eval_dataset=data(8))
    one.train()
    other = Trainer(plugged, arguments(tmp_path / "plug"), train_dataset=data(), eval_dataset=data(8))
    hfplug.plug(other, chosen)
    other.train()
    kept = [{key: value for key, value in entry.items() if "step" in key or "loss" in key} for entry in losses(other)]
    wanted = [{key: value for key, value in entry.items() if "step" in key or "loss" in key} for entry in losses(one)]
    for entry in (*kept, *wanted):
        entry.pop("seconds_per_step", None)
    assert kept == wanted
    ours = other.model.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in one.model.state_dict().items())


NETWORKS = [hfplug.PTuning(num_virtual_tokens=4), hfplug.PrefixTuning(num_virtual_tokens=4, prefix_projection="on")]


@pytest.mark.parametrize("chosen", NETWORKS, ids=lambda one: one.name)
def test_a_prompt_that_a_network_computes_is_trained_on_from_a_checkpoint_bit_for_bit(bases, tmp_path, chosen):
    def made():
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_pretrained(bases["llama"])
        return hfplug.plug(
            Trainer(model, arguments(tmp_path / "out"), train_dataset=data(), eval_dataset=data(8)), chosen
        )

    whole = made()
    whole.train()
    again = made()
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    wanted = whole.model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in again.model.state_dict().items())
    assert again.evaluate()["eval_loss"] == whole.evaluate()["eval_loss"]
    assert not list((tmp_path / "out" / "adapter").glob("prompt_network*"))
    (tmp_path / "out" / "checkpoint-2" / "prompt_network.safetensors").unlink()
    with pytest.raises(MismatchError, match=r"without prompt_network\.safetensors"):
        made().train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))


def test_the_optimizer_holds_the_adapter_and_nothing_else(bases, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(bases["llama"])
    trainer = hfplug.plug(Trainer(model, arguments(tmp_path), train_dataset=data(), eval_dataset=data(8)), "lora", r=2)
    trainer.train()
    held = sum(one.numel() for group in trainer.optimizer.param_groups for one in group["params"])
    assert held == sum(one.numel() for name, one in model.named_parameters() if "lora_" in name) == 2 * 4 * (64 * 2)


def test_an_optimizer_that_was_built_before_is_refilled_and_keeps_its_groups_and_schedule(bases, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(bases["llama"])
    thick = [one for one in model.parameters() if one.dim() > 1]
    thin = [one for one in model.parameters() if one.dim() <= 1]
    groups = [{"params": thick, "weight_decay": 0.1}, {"params": thin, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.5, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    trainer = Trainer(
        model,
        arguments(tmp_path),
        train_dataset=data(),
        eval_dataset=data(8),
        optimizers=(optimizer, schedule),
    )
    hfplug.plug(trainer, "lora")
    trained = {id(one) for one in model.parameters() if one.requires_grad}
    assert [{id(one) for one in group["params"]} for group in optimizer.param_groups] == [trained, set()]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    trainer.train()
    assert schedule.get_last_lr() == [0.5**5] * 2
    base = model.get_base_model().state_dict()
    assert all(
        torch.equal(base[name.replace(".weight", ".base_layer.weight")], before[name])
        for name in before
        if "q_proj" in name
    )
    assert any(one.abs().sum() > 0 for name, one in model.named_parameters() if "lora_B" in name)


def test_an_optimizer_that_has_made_steps_is_refused(bases, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(bases["llama"])
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.ones(1, 4).long(), labels=torch.ones(1, 4).long()).loss.backward()
    optimizer.step()
    trainer = Trainer(
        model, arguments(tmp_path), train_dataset=data(), eval_dataset=data(8), optimizers=(optimizer, None)
    )
    with pytest.raises(TrainingError, match="has made steps already"):
        hfplug.plug(trainer, "lora")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_smoothed_loss_of_an_untrained_adapter_is_the_bases(bases, tmp_path, kind, method):
    smooth = {"label_smoothing_factor": 0.3, "eval_strategy": "no"}
    found = []
    for chosen in (None, method):
        model = KINDS[kind].from_pretrained(bases[kind])
        trainer = Trainer(
            model,
            arguments(tmp_path, **smooth),
            DataCollatorForSeq2Seq(hfplug_tokenizer(bases[kind]), model=model),
            data(),
            data(8),
        )
        if chosen:
            hfplug.plug(trainer, chosen)
        found.append(trainer.evaluate()["eval_loss"])
    assert found[0] == found[1]


def hfplug_tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_smoothed_loss_under_a_trained_soft_prompt_is_shifted_by_one_place(bases, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(bases["llama"])
    smooth = {"label_smoothing_factor": 1e-9, "eval_strategy": "no"}
    trainer = Trainer(model, arguments(tmp_path / "a", **smooth), train_dataset=data(), eval_dataset=data(8))
    hfplug.plug(trainer, "prompt_tuning")
    trainer.train()
    rows = torch.tensor(data(8)["input_ids"])
    with torch.no_grad():
        logits = model(input_ids=rows).logits
    wanted = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(wanted.item(), abs=1e-5)


def test_a_generation_config_in_the_arguments_counts(bases, tmp_path):
    from transformers import GenerationConfig

    model = AutoModelForSeq2SeqLM.from_pretrained(bases["t5"])
    config = GenerationConfig(max_new_tokens=3, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
    args = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path), predict_with_generate=True, generation_config=config, use_cpu=True, report_to="none"
    )
    tokenizer = hfplug_tokenizer(bases["t5"])
    made = hfplug.plug(model, "lora")
    trainer = Seq2SeqTrainer(
        made, args, DataCollatorForSeq2Seq(tokenizer, model=made), eval_dataset=data(4), processing_class=tokenizer
    )
    tokens = trainer.predict(data(4)).predictions
    assert (tokens[:, 4:] == 0).all() and (tokens[:, 1:4] != 0).any()


def test_the_advised_rate_replaces_the_scripts_when_asked(bases, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(bases["llama"])
    trainer = Trainer(model, arguments(tmp_path, learning_rate=5e-5), train_dataset=data(), eval_dataset=data(8))
    hfplug.plug(trainer, "prompt_tuning", learning_rate="auto")
    trainer.train()
    assert trainer.state.log_history[0]["learning_rate"] == 0.3


def test_a_subclass_comes_first_and_reaches_us_by_super(bases, tmp_path):
    calls = []

    class Mine(Trainer):
        def __init__(self, *args, mine=None, **kwargs):
            super().__init__(*args, **kwargs)
            self.mine = mine

        def compute_loss(self, *args, **kwargs):
            calls.append("loss")
            return super().compute_loss(*args, **kwargs)

    model = AutoModelForCausalLM.from_pretrained(bases["llama"])
    trainer = Mine(model, arguments(tmp_path), train_dataset=data(), eval_dataset=data(8), mine=3)
    hfplug.plug(trainer, "lora")
    assert type(trainer).__name__ == "Mine" and isinstance(trainer, Mine) and trainer.mine == 3
    order = [one.__name__ for one in type(trainer).__mro__]
    assert order.index("PluggedTrainer") == order.index("Trainer", 2) - 1
    assert [one for one in type(trainer).__mro__ if one is PluggedTrainer]
    trainer.train()
    assert calls


def test_callbacks_of_ours_are_added_once(bases, tmp_path):
    class Counter(TrainerCallback):
        pass

    model = AutoModelForCausalLM.from_pretrained(bases["llama"])
    trainer = Trainer(
        model,
        arguments(tmp_path),
        train_dataset=data(),
        eval_dataset=data(8),
        callbacks=[Counter(), *hfplug.adapter_callbacks(tmp_path / "mine")],
    )
    hfplug.plug(trainer, "lora")
    trainer.train()
    assert (tmp_path / "mine" / "adapter_config.json").is_file() and not (tmp_path / "adapter").exists()


SCRIPT = """
import sys
from datasets import Dataset
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
base, out, *flags = sys.argv[1:]
flags = dict(flag.split("=") for flag in flags)
ids = torch.randint(3, 200, (16, 12), generator=torch.Generator().manual_seed(1)).tolist()
data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * 12] * 16, "labels": ids})
model = AutoModelForCausalLM.from_pretrained(base)
"""
ARGUMENTS = """
args = TrainingArguments(
    output_dir=out, max_steps=2, save_steps=1, use_cpu=True, report_to="none", disable_tqdm=True,
    push_to_hub="hub" in flags, hub_model_id=flags.get("hub"), hub_token=flags.get("token"),
)
"""


def write(tmp_path, code):
    path = tmp_path / "theirs.py"
    path.write_text(SCRIPT + ARGUMENTS + code, encoding="utf-8")
    return path


def test_a_scripts_own_push_becomes_ours_to_the_same_repo_without_a_pickle(monkeypatch, bases, tmp_path, caplog):
    caplog.set_level("INFO", "hfplug")
    monkeypatch.setenv("HFPLUG_OUTBOX", str(tmp_path / "outbox"))
    code = "trainer = Trainer(model, args, train_dataset=data)\ntrainer.train()\ntrainer.push_to_hub()\n"
    with running_hub(tmp_path / "hub", tokens={SECRET: "ann"}) as hub:
        status, _ = run_here(
            monkeypatch,
            write(tmp_path, code),
            [bases["llama"], tmp_path / "out", "hub=ann/tuned", f"token={SECRET}"],
            "lora",
            callbacks={"endpoint": hub.endpoint, "flush_seconds": 60},
        )
        files = HfApi(endpoint=hub.endpoint, token=SECRET).list_repo_files("ann/tuned")
    assert {"adapter_model.safetensors", "README.md", "hfplug_lock.json"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt"))]
    assert status == 0 and "is done by hfplug, to ann/tuned" in caplog.text
    assert "is left out: hfplug pushes to ann/tuned" in caplog.text


def test_a_peft_config_of_the_scripts_own_is_refused_with_the_reason(monkeypatch, bases, tmp_path):
    code = (
        "class Theirs(Trainer):\n"
        "    def __init__(self, *a, peft_config=None, **k):\n"
        "        super().__init__(*a, **k)\n"
        "from peft import LoraConfig\nTheirs(model, args, train_dataset=data, peft_config=LoraConfig())\n"
    )
    with pytest.raises(TrainingError, match="passes a peft_config of its own"):
        run_here(monkeypatch, write(tmp_path, code), [bases["llama"], tmp_path / "out"], "prompt_tuning")


def test_a_script_with_peft_of_its_own_keeps_its_own(monkeypatch, bases, tmp_path, caplog):
    code = (
        "from peft import LoraConfig, get_peft_model\n"
        "model = get_peft_model(model, LoraConfig(task_type='CAUSAL_LM', r=3))\n"
        "trainer = Trainer(model, args, train_dataset=data)\ntrainer.train()\ntrainer.save_model()\n"
    )
    run_here(monkeypatch, write(tmp_path, code), [bases["llama"], tmp_path / "out"], "lora")
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 3
    assert caplog.text.count("it is kept, and lora is not put on it") == 1


def test_a_model_that_is_only_evaluated_is_left_alone(monkeypatch, bases, tmp_path):
    code = (
        "judge = Trainer(model, args, eval_dataset=data)\nbefore = judge.evaluate()\n"
        "other = AutoModelForCausalLM.from_pretrained(base)\n"
        "trainer = Trainer(other, args, train_dataset=data)\ntrainer.train()\nafter = judge.evaluate()\n"
    )
    _, names = run_here(monkeypatch, write(tmp_path, code), [bases["llama"], tmp_path / "out"], "qlora")
    assert not isinstance(names["model"], PeftModel) and isinstance(names["other"], PeftModel)
    assert names["before"]["eval_loss"] == names["after"]["eval_loss"]
    assert {"Linear4bit"}.isdisjoint({type(one).__name__ for one in names["model"].modules()})


def test_a_trainer_made_to_evaluate_that_trains_after_all_gets_the_method(monkeypatch, bases, tmp_path):
    code = "trainer = Trainer(model, args)\ntrainer.train_dataset = data\ntrainer.train()\n"
    _, names = run_here(monkeypatch, write(tmp_path, code), [bases["llama"], tmp_path / "out"], "lora")
    assert isinstance(names["model"], PeftModel) and (tmp_path / "out" / "adapter").is_dir()
