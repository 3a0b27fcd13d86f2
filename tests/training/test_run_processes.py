"""``hfplug run`` under torchrun (two processes on the CPU, one writer) and under ``accelerate launch``."""

from __future__ import annotations

import pytest
import torch
from plug_samples import SCRIPTS, dialogues, launch, make_base, python, training_flags
from safetensors.torch import load_file

import hfplug

pytestmark = pytest.mark.slow

STARTERS = {
    "torchrun": ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"),
    # On a CPU it starts one process; several take MPI.
    "accelerate": ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"),
}


@pytest.mark.parametrize("starter", STARTERS)
@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_what_starts_the_processes_makes_no_difference_to_the_adapter(tmp_path, starter, method):
    base = make_base("llama", tmp_path / "base")
    train, evaluation = dialogues(tmp_path)
    data = ["--model_name_or_path", base, "--train_file", train, "--validation_file", evaluation]
    alone, together = tmp_path / "alone", tmp_path / "together"
    words = ["--method", method, SCRIPTS / "language_model.py", *data]
    # Plain steps over rows in their order: with Adam the sign of a gradient near zero would count.
    plain = {"optim": "sgd", "learning_rate": 1.0, "train_sampling_strategy": "sequential"}
    launch("run", *words, *training_flags(alone, **plain))
    extra = ("--rdzv-endpoint", "localhost:0") if starter == "torchrun" else ("--main_process_port", "0")
    flags = training_flags(together, per_device_train_batch_size=2 if starter == "torchrun" else 4, **plain)
    done = python(*STARTERS[starter], *extra, "-m", "hfplug", "run", *words, *flags)
    assert done.stderr.count(f"hfplug: {method} is on the script's") == 1
    # The same rows a step, shared between two processes.
    ours, theirs = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (together, alone))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in ours)
    assert any(one.abs().sum() > 0 for one in ours.values())
    assert hfplug.AdapterDir.open(together / "adapter").record.batch_size == 4
    assert hfplug.verify_adapter(together / "adapter", base=base).verdict == "same"
