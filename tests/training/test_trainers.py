"""The Trainers that hfplug says it works with, killed runs, and two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

import hfplug
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.demo.base import base_path
from hfplug.demo.world import generate

SCRIPT = Path(__file__).parent / "scripts" / "plain_trainer.py"
SECRET = "hf_" + "a1B2c3D4e5F6g7H8i9J0" * 2


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of some 80,000 parameters with the built-in tokenizer and a chat template."""
    folder = tmp_path_factory.mktemp("causal") / "base"
    tokenizer = AutoTokenizer.from_pretrained(base_path())
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


# One of each kind; all of them with -m slow.
ALWAYS = ("full", "lora", "qlora", "bottleneck", "prompt_tuning")


@pytest.mark.parametrize(
    "method",
    [
        name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow)
        for name, why in hfplug.methods_for(base_path()).items()
        if why is None
    ],
)
def test_seq2seq_trainer_evaluates_by_generating_and_exports_the_best(method, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    tokenizer = AutoTokenizer.from_pretrained(base_path())
    rows = Dataset.from_list(
        [{**tokenizer(row["dialogue"]), "labels": tokenizer(row["summary"]).input_ids} for row in generate("train", 12)]
    )
    trainer = Seq2SeqTrainer(
        model=hfplug.build_model(base_path(), method),
        args=Seq2SeqTrainingArguments(
            output_dir=str(tmp_path),
            max_steps=4,
            per_device_train_batch_size=4,
            predict_with_generate=True,
            eval_strategy="steps",
            eval_steps=2,
            save_steps=2,
            load_best_model_at_end=True,
            learning_rate=1e-3,
            hub_token=SECRET,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows,
        eval_dataset=rows.select(range(3)),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
        compute_metrics=lambda prediction: {"rows": len(prediction.predictions)},
        callbacks=hfplug.adapter_callbacks(),
    )
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    adapter = AdapterDir.open(tmp_path / "adapter")
    assert adapter.weights[0].read_bytes() == (best / adapter.weights[0].name).read_bytes()
    assert adapter.record.best_checkpoint == best.name
    step = int(best.name.rpartition("-")[2])
    logged = next(entry for entry in trainer.state.log_history if "eval_loss" in entry and entry["step"] == step)
    assert adapter.record.metrics == {"eval_loss": logged["eval_loss"], "eval_rows": 3}
    assert trainer.state.log_history[-1]["step"] == 4 and "eval_rows" in str(trainer.state.log_history)
    assert [
        file.name for file in adapter.path.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()
    ] == []


@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "full"])
def test_trls_sft_trainer(method, causal, tmp_path):
    trl = pytest.importorskip("trl")
    rows = [
        {"messages": [{"role": "user", "content": row["dialogue"]}, {"role": "assistant", "content": row["summary"]}]}
        for row in generate("train", 8)
    ]
    trainer = trl.SFTTrainer(
        model=hfplug.build_model(causal, method),
        args=trl.SFTConfig(
            output_dir=str(tmp_path),
            max_steps=3,
            per_device_train_batch_size=2,
            save_steps=3,
            logging_steps=1,
            learning_rate=1e-2,
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(causal),
        callbacks=hfplug.adapter_callbacks(),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3 and all(loss > 0 for loss in losses)
    ids = {"input_ids": torch.arange(5, 25)[None], "attention_mask": torch.ones(1, 20, dtype=torch.long)}
    loaded = hfplug.load_adapter(tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(loaded(**ids).logits, trainer.model.eval()(**ids).logits)


def test_a_trainer_killed_in_training_goes_on_to_the_same_weights(causal, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, str(SCRIPT), str(causal)]
    with subprocess.Popen([*command, str(killed), "60", "4"], env=environment(), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (killed / "checkpoint-10" / "trainer_state.json").is_file():
            assert time.monotonic() < deadline and process.poll() is None, "no checkpoint was written"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (killed / "adapter").exists()
    for out in (killed, whole):
        subprocess.run([*command, str(out), "60", "4"], env=environment(), check=True, capture_output=True, timeout=200)
    first, second = (AdapterDir.open(out / "adapter").weights[0].read_bytes() for out in (killed, whole))
    assert first == second


@pytest.mark.slow
def test_two_processes_leave_one_adapter_equal_to_that_of_one(causal, tmp_path):
    """Two processes with two rows each see, step for step, the rows of one process with four.

    They are started by torchrun: ``accelerate launch --num_processes 2 --cpu`` (accelerate 1.15) starts one process.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    runs = (
        [sys.executable, str(SCRIPT), str(causal), str(one), "5", "4"],
        [sys.executable, *torchrun, str(SCRIPT), str(causal), str(two), "5", "2"],
    )
    outputs = [
        subprocess.run(
            run,
            env={**environment(), "ACCELERATE_USE_CPU": "true"},
            check=True,
            capture_output=True,
            text=True,
            timeout=240,
        ).stdout
        for run in runs
    ]
    assert all(f"process {rank} of 2 done" in outputs[1] for rank in (0, 1))
    expected, came = (load_file(AdapterDir.open(out / "adapter").weights[0]) for out in (one, two))
    assert expected.keys() == came.keys()
    for name in expected:
        # Five steps of AdamW at 1e-2 move a weight by up to 5e-2. It divides by the size of the gradient, so that where
        # that is nearly zero the order of a sum (here, over processes) shows in the fifth decimal.
        torch.testing.assert_close(came[name], expected[name], rtol=1e-4, atol=1e-4)
    assert [path.name for path in two.glob("adapter*")] == ["adapter"]
    record = json.loads((two / "adapter" / "hfplug_record.json").read_text())
    assert record["batch_size"] == 4 and record["steps"] == 5
