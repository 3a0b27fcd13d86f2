"""The preflight finds what would waste a night, says what to do, and leaves nothing changed."""

from __future__ import annotations

import json

import pytest
import torch
from datasets import Dataset
from plug_samples import SCRIPTS, dialogues, launch, make_base, training_flags
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

import hfplug
from hfplug.errors import TrainingError
from hfplug.training.preflight import CHECKS, Examined, Preflight, examine

AUTO = {"llama": AutoModelForCausalLM, "gpt2": AutoModelForCausalLM, "t5": AutoModelForSeq2SeqLM}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Name of a model type to a folder with a random model of it."""
    folder = tmp_path_factory.mktemp("bases")
    return {kind: make_base(kind, folder / kind) for kind in ("t5", "llama", "gpt2", "bert")}


def rows(lengths, padded_labels=None):
    made = [{"input_ids": [5 + at % 7] * length, "attention_mask": [1] * length} for at, length in enumerate(lengths)]
    for row in made:
        row["labels"] = list(row["input_ids"]) if padded_labels is None else [5, 6] + [padded_labels] * 6
    return Dataset.from_list(made)


def trainer_for(bases, tmp_path, kind="llama", method="lora", data=None, collator=None, model=None, **args):
    model = AUTO[kind].from_pretrained(bases[kind]) if model is None else model
    tokenizer = AutoTokenizer.from_pretrained(bases[kind])
    values = {"use_cpu": True, "report_to": "none", "max_steps": 2, "disable_tqdm": True, "learning_rate": 5e-3, **args}
    trainer = Trainer(
        model,
        TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=2, **values),
        collator or DataCollatorForSeq2Seq(tokenizer, model=model),
        rows([9, 7, 8, 6, 5, 9]) if data is None else data,
        processing_class=tokenizer,
    )
    return hfplug.plug(trainer, method)


def found(trainer):
    return {one.check: one for one in examine(trainer)}


@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "qlora", "ia3", "full"])
@pytest.mark.parametrize("kind", AUTO)
def test_a_sound_run_has_no_warning_and_every_check_says_what_it_saw(bases, tmp_path, kind, method):
    trainer = trainer_for(bases, tmp_path, kind, method)
    findings = found(trainer)
    assert len(findings) == len(CHECKS)
    wrong = {name: one for name, one in findings.items() if one.verdict not in ("ok", "note")}
    assert {name for name in wrong if wrong[name].verdict != "skipped"} == set(), wrong
    assert set(wrong) <= ({"survives saving"} if method == "full" else set()), wrong
    assert all(one.saw and one.seconds >= 0 for one in findings.values())


def test_it_leaves_the_run_as_it_would_have_been_without_it(bases, tmp_path):
    results = []
    for checked in (False, True):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(bases["llama"], attention_dropout=0.3)
        trainer = trainer_for(bases, tmp_path / str(checked), "llama", "prompt_tuning", model=model)
        before = trainer.evaluate(trainer.train_dataset)["eval_loss"]
        if checked:
            examine(trainer)
        assert trainer.evaluate(trainer.train_dataset)["eval_loss"] == before
        trainer.train()
        results.append({name: one.clone() for name, one in trainer.model.state_dict().items()})
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_positions_that_overflow_are_an_error_with_the_number_to_use(bases, tmp_path):
    trainer = trainer_for(bases, tmp_path, "gpt2", "prompt_tuning", rows([9] * 40 + [60]))
    one = found(trainer)["input positions"]
    assert (one.verdict, "at 44 tokens" in one.fix, "or use 4 virtual tokens" in one.fix) == ("error", True, True)
    with pytest.raises(TrainingError, match="the longest input has 60 tokens and the method adds 20"):
        Preflight()(trainer)


def test_inputs_that_were_cut_are_counted_and_the_end_named(bases, tmp_path):
    trainer = trainer_for(bases, tmp_path, "t5", "lora", rows([12] * 10 + [4, 5, 6, 7, 8] * 2))
    one = found(trainer)["truncated inputs"]
    assert one.verdict == "warning" and one.saw == "10 of 20 inputs (50%) have exactly 12 tokens: their end was cut."
    trainer.processing_class.truncation_side = "left"
    assert "their beginning was cut" in found(trainer)["truncated inputs"].saw


def test_padding_that_the_loss_counts_is_found(bases, tmp_path):
    data = rows([9, 9, 9, 9], padded_labels=0)
    trainer = trainer_for(bases, tmp_path, "t5", "lora", data, default_data_collator)
    one = found(trainer)["unmasked labels"]
    assert one.verdict == "warning" and "labels of a batch are padding that the loss counts" in one.saw


def test_t5_in_float16_is_an_error(bases, tmp_path):
    trainer = trainer_for(bases, tmp_path, "t5")
    trainer.args.fp16 = True
    assert found(trainer)["half precision"].verdict == "error"


def test_a_compute_dtype_that_is_slow_here_is_said(bases, tmp_path):
    from hfplug.models import hardware

    slow = "float32" if hardware.has_fast_bfloat16() else "bfloat16"
    trainer = trainer_for(bases, tmp_path, "llama", hfplug.QLora(compute_dtype=slow))
    one = found(trainer)["four bit arithmetic"]
    assert one.verdict == "warning" and f"multiply in {slow}" in one.saw


def test_a_graph_that_reentrant_checkpointing_cuts_is_found(bases, tmp_path):
    broken = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    trainer = trainer_for(bases, tmp_path, "llama", "lora", **broken)
    trainer.model.get_base_model().enable_input_require_grads = lambda: None
    for module in trainer.model.get_base_model().modules():
        module._forward_hooks.clear()
    one = found(trainer)["gradients"]
    assert one.verdict == "error" and "use_reentrant" in one.fix
    fine = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    assert found(trainer_for(bases, tmp_path, "llama", "lora", **fine))["gradients"].verdict == "ok"


def test_a_tensor_that_gets_no_gradient_is_named(bases, tmp_path):
    trainer = trainer_for(bases, tmp_path)
    trainer.model.register_parameter("idle", torch.nn.Parameter(torch.zeros(2)))
    findings = found(trainer)
    assert "idle" in findings["gradients"].saw and findings["gradients"].verdict == "error"
    assert findings["trains what is saved"].verdict == "error"


def test_a_head_and_a_resized_embedding_are_reported(bases, tmp_path):
    data = rows([9, 7, 8, 6]).remove_columns("labels").add_column("labels", [0, 1, 0, 1])
    tokenizer = AutoTokenizer.from_pretrained(bases["bert"])
    model = AutoModelForSequenceClassification.from_pretrained(bases["bert"])
    from transformers import DataCollatorWithPadding

    trainer = trainer_for(bases, tmp_path, "bert", "lora", data, DataCollatorWithPadding(tokenizer), model)
    assert found(trainer)["saved head"].saw == "classifier, bert.pooler.dense is trained and saved (the head)"
    wide = AutoModelForCausalLM.from_pretrained(bases["llama"])
    wide.resize_token_embeddings(wide.config.vocab_size + 7)
    one = found(trainer_for(bases, tmp_path, "llama", "prompt_tuning", model=wide))["saved embedding"]
    assert one.verdict == "warning" and "the whole embedding" in one.saw


def test_a_rate_for_full_tuning_is_noted_with_the_one_to_use(bases, tmp_path):
    one = found(trainer_for(bases, tmp_path, "llama", "prompt_tuning", learning_rate=5e-5))["learning rate"]
    assert one.verdict == "note" and "learning_rate=0.3" in one.fix and "auto" in one.fix


def test_a_model_that_adds_up_the_losses_of_its_micro_batches_is_noted(bases, tmp_path):
    one = found(trainer_for(bases, tmp_path, "t5", gradient_accumulation_steps=4))["loss counting"]
    assert one.verdict == "note" and "4 batches added up" in one.saw
    other = found(trainer_for(bases, tmp_path / "b", "llama", gradient_accumulation_steps=4))["loss counting"]
    assert other.verdict == "ok"


def test_a_check_that_fails_does_not_stop_the_run(bases, tmp_path):
    trainer = trainer_for(bases, tmp_path, collator=lambda rows: 1 / 0)
    assert found(trainer)["gradients"].verdict == "skipped"
    Preflight()(trainer)


def test_doctor_examines_a_script_without_training(bases, tmp_path):
    train, evaluation = dialogues(tmp_path)
    flags = ["--model_name_or_path", bases["llama"], "--train_file", train, "--validation_file", evaluation]
    words = ["--method", "lora", SCRIPTS / "language_model.py", *flags, *training_flags(tmp_path / "out")]
    done = launch("doctor", "--json", *words)
    findings = json.loads(done.stdout)  # and nothing else: what the script prints goes to the error stream
    assert [one["check"] for one in findings][:2] == ["learning rate", "half precision"]
    assert {one["verdict"] for one in findings} <= {"ok", "note", "skipped"}, findings
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_doctor_stops_a_loop_without_a_trainer_before_its_first_step(tmp_path):
    done = launch("doctor", "--json", SCRIPTS / "own_loop.py", tmp_path / "a" / "out", code=2)
    assert done.stdout == "" and "without a Trainer" in done.stderr and "printed by the script" in done.stderr
    assert "\ntrained" not in done.stderr and not (tmp_path / "a").exists()


def test_doctor_without_a_script_reports_the_machine():
    found = json.loads(launch("doctor", "--json", HF_TOKEN="hf_secretsecret", HF_ENDPOINT="http://me:pw@hub:80").stdout)
    assert found["packages"]["torch"] == torch.__version__.partition("+")[0] or found["packages"]["torch"]
    assert found["devices"] and found["endpoint"] and found["offline"] == "on" and found["token"] == "found"
    assert "hf_secretsecret" not in json.dumps(found) and found["endpoint"] == "http://hub:80"
    assert found["xet"] in ("on", "off") and found["cache"] and found["cache_free_bytes"] > 0


def test_only_examining_leaves_the_script(bases, tmp_path, capsys):
    trainer, preflight = trainer_for(bases, tmp_path), Preflight(mode="only")
    for _ in range(2):  # also where a script catches the first
        with pytest.raises(Examined) as left:
            preflight(trainer)
        assert left.value.code == 0
    assert "gradients" in capsys.readouterr().out
    trainer.args.fp16 = True
    trainer.model.config.model_type = "t5"
    with pytest.raises(Examined) as left:
        preflight(trainer)
    assert left.value.code == 1
