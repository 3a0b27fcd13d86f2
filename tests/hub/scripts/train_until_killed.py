"""Train and push in a child that is killed at a random moment, again and again: ``… FOLDER KILLS SEED``.

The children are forked from a process that has everything imported, so that a kill costs no start of torch. Child
N pushes to ``alice/kill-N`` and writes ``FOLDER/N.log``: the sum of each checkpoint's weights before it is put into
the outbox, and ``in`` after.
"""

import hashlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import hfplug
from hfplug.hub.deliver import Pace


class Log(TrainerCallback):
    """One before the push and one after it."""

    def __init__(self, file, when):
        self.file, self.when = file, when

    def on_save(self, args, state, control, **kwargs):
        weights = Path(args.output_dir) / f"checkpoint-{state.global_step}" / "adapter_model.safetensors"
        line = hashlib.sha256(weights.read_bytes()).hexdigest() if self.when == "before" else "in"
        os.write(self.file, f"{line}\n".encode())


def train(folder: Path, number: int) -> None:
    torch.manual_seed(number)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = hfplug.apply_method(LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)), "lora", r=2)
    ids = torch.randint(3, 32, (64, 6)).tolist()
    file = os.open(folder / f"{number}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / f"run-{number}"),
            max_steps=10_000,
            per_device_train_batch_size=2,
            save_steps=1,
            save_total_limit=1,
            save_only_model=True,
            learning_rate=1e-2,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * 6] * 64, "labels": ids}),
        callbacks=[
            Log(file, "before"),
            *hfplug.adapter_callbacks(push_to=f"alice/kill-{number}", pace=Pace(first_wait=0.01)),
            Log(file, "after"),
        ],
    ).train()


def main() -> None:
    folder, kills, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    for number in range(kills):
        child = os.fork()
        if child == 0:
            try:
                train(folder, number)
            finally:
                os._exit(1)
        deadline = time.monotonic() + 60
        log = folder / f"{number}.log"
        while not (log.is_file() and log.stat().st_size):
            assert time.monotonic() < deadline, "no checkpoint was saved"
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.6))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


if __name__ == "__main__":
    main()
