"""``hfplug run`` under torchrun (two processes on the CPU, one writer) and under ``accelerate launch``."""

from __future__ import annotations

import shutil

import pytest
import torch
from plug_samples import ROOT, SCRIPTS, dialogues, launch, make_base, python, training_flags
from safetensors.torch import load_file

import hfplug

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples" / "accelerate"
ACCELERATE = ("-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file")
STARTERS = {
    "torchrun": ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d")
    + ("--rdzv-endpoint", "localhost:0"),
    "accelerate": (*ACCELERATE, EXAMPLES / "two_cpu_processes.yaml"),
}
# Plain steps over rows in their order: with Adam the sign of a gradient near zero would count.
PLAIN = {"optim": "sgd", "learning_rate": 1.0, "train_sampling_strategy": "sequential"}


@pytest.mark.parametrize(
    ("starter", "method"), [("torchrun", "lora"), ("torchrun", "prompt_tuning"), ("accelerate", "lora")]
)
def test_what_starts_the_processes_makes_no_difference_to_the_adapter(tmp_path, starter, method):
    base = make_base("llama", tmp_path / "base")
    train, evaluation = dialogues(tmp_path)
    data = ["--model_name_or_path", base, "--train_file", train, "--validation_file", evaluation]
    alone, together = tmp_path / "alone", tmp_path / "together"
    words = ["--method", method, SCRIPTS / "language_model.py", *data]
    launch("run", *words, *training_flags(alone, **PLAIN))
    flags = training_flags(together, per_device_train_batch_size=2, **PLAIN)
    done = python(*STARTERS[starter], "-m", "hfplug", "run", *words, *flags)
    assert done.stderr.count(f"hfplug: {method} is on the script's") == 1
    # The same rows a step, shared between two processes.
    ours, theirs = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (together, alone))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in ours)
    assert any(one.abs().sum() > 0 for one in ours.values())
    record = hfplug.AdapterDir.open(together / "adapter").record
    assert record.batch_size == 4
    assert len(record.memory_efficiency["processes"]) == len(record.training_speed["processes"]) == 2
    peaks = [one["peak_training_bytes"] for one in record.memory_efficiency["processes"]]
    assert record.memory_efficiency["total_peak_training_bytes"] == sum(peaks) > max(peaks)
    assert hfplug.verify_adapter(together / "adapter", base=base).verdict == "same"


def words_for(tmp_path, method):
    train, evaluation = dialogues(tmp_path)
    base = make_base("llama", tmp_path / "base")
    data = ["--model_name_or_path", base, "--train_file", train, "--validation_file", evaluation]
    return base, ["--method", method, SCRIPTS / "language_model.py", *data]


def test_a_run_of_two_processes_goes_on_bit_for_bit_where_it_stopped(tmp_path):
    _, words = words_for(tmp_path, "lora")
    once, twice = tmp_path / "once", tmp_path / "twice"
    start = (*STARTERS["torchrun"], "-m", "hfplug", "run")
    python(*start, *words, *training_flags(once, per_device_train_batch_size=2))
    shutil.copytree(once / "checkpoint-2", twice / "checkpoint-2")
    resume = training_flags(twice, per_device_train_batch_size=2, resume_from_checkpoint=twice / "checkpoint-2")
    python(*start, *words, *resume)
    ours, theirs = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (twice, once))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("saved", ["FULL_STATE_DICT", "SHARDED_STATE_DICT"])
def test_fsdp2_over_two_processes_leaves_the_whole_adapter(tmp_path, saved):
    base, words = words_for(tmp_path, "lora")
    script = tmp_path / "train_only.py"  # Trainer (5.23) cannot evaluate a model under FSDP2 before it trains
    text = (SCRIPTS / "language_model.py").read_text(encoding="utf-8")
    script.write_text(text.replace("before = trainer.evaluate()", "before = {}"), encoding="utf-8")
    words = [script if word == SCRIPTS / "language_model.py" else word for word in words]
    settings = (EXAMPLES / "lora_fsdp2.yaml").read_text(encoding="utf-8").replace("FULL_STATE_DICT", saved)
    settings = settings.replace("processes: 4", "processes: 2\nuse_cpu: true").replace(
        "precision: bf16", "precision: 'no'"
    )
    (tmp_path / "two.yaml").write_text(settings, encoding="utf-8")
    alone, together = tmp_path / "alone", tmp_path / "together"
    launch("run", *words, *training_flags(alone, **PLAIN))
    flags = training_flags(together, per_device_train_batch_size=2, **PLAIN)
    done = python(*ACCELERATE, tmp_path / "two.yaml", SCRIPTS / "cpu_fsdp.py", "run", *words, *flags)
    assert ("they hold no adapter" in done.stderr) == (saved == "SHARDED_STATE_DICT")
    ours, theirs = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (together, alone))
    assert {name: one.shape for name, one in ours.items()} == {name: one.shape for name, one in theirs.items()}
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in ours)
    assert (together / "checkpoint-4" / "adapter_model.safetensors").is_file() == (saved == "FULL_STATE_DICT")
    adapter = hfplug.AdapterDir.open(together / "adapter")
    assert "sharded (FSDP2)" in " ".join(adapter.record.notes)
    assert adapter.lock.weights_fingerprint == hfplug.AdapterDir.open(alone / "adapter").lock.weights_fingerprint
    assert hfplug.load_adapter(together / "adapter") is not None
