"""What pushing costs a training run: ``python benchmarks/push_overhead.py``.

One run of the built-in base with LoRA against a Hub on loopback in a process of its own. A checkpoint is saved
every few steps; every other one is pushed, the ones between are not, so that whatever else the machine does falls
on both alike. A block is what lies between two checkpoints: saving, putting into the outbox if it is a pushed one,
and the steps that follow while the thread delivers. Printed: seconds of a block of either kind, the ratio of each
pushed block to the unpushed one beside it (median and quartiles), and what the put alone takes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TOKEN = "hf_" + "benchmark" * 4
SERVE = (
    "import sys, time; from pathlib import Path; from hfplug.hub.server import running_hub\n"
    "with running_hub(Path(sys.argv[1]), tokens={sys.argv[2]: 'alice'}) as hub:\n"
    "    print(hub.endpoint, flush=True)\n"
    "    sys.stdin.read()"
)


def main() -> None:
    """Start a Hub, train, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20, help="pairs of blocks (default: 20)")
    parser.add_argument("--steps", type=int, default=10, help="steps from one checkpoint to the next (default: 10)")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HFPLUG_OUTBOX": f"{folder}/outbox", "HF_TOKEN": TOKEN, "HF_HOME": f"{folder}/home"}
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        command = [sys.executable, "-c", SERVE, f"{folder}/hub", TOKEN]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hub:
            assert hub.stdout is not None and hub.stdin is not None
            os.environ["HF_ENDPOINT"] = hub.stdout.readline().strip()
            try:
                blocks, puts, arrived = train(Path(folder), parsed.pairs, parsed.steps)
            finally:
                hub.stdin.close()
    report(blocks, puts, arrived, parsed.steps)


def train(folder: Path, pairs: int, steps: int) -> tuple[list[float], list[float], int]:
    """Seconds of each block (pushed ones first in each pair), of each put, and how many pushes arrived."""
    from datasets import Dataset
    from transformers import (
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        TrainerCallback,
    )

    import hfplug
    from hfplug.demo.base import base_path
    from hfplug.demo.world import generate
    from hfplug.hub.outbox import Outbox
    from hfplug.training.push import HubPushCallback

    ends: list[float] = []
    puts: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % steps == 0:
                ends.append(time.perf_counter())

    callbacks = hfplug.adapter_callbacks(push_to="alice/overhead")
    push = callbacks[-1]
    assert isinstance(push, HubPushCallback)
    whole = push.on_save

    def every_other(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step // steps % 2 == 0:
            return
        began = time.perf_counter()
        whole(args, state, control, **kwargs)
        puts.append(time.perf_counter() - began)

    push.on_save = every_other  # type: ignore[method-assign]
    tokenizer = AutoTokenizer.from_pretrained(base_path())
    rows = [
        {**tokenizer(row["dialogue"]), "labels": tokenizer(row["summary"]).input_ids} for row in generate("train", 400)
    ]
    Seq2SeqTrainer(
        model=hfplug.build_model(base_path(), "lora"),
        args=Seq2SeqTrainingArguments(
            output_dir=str(folder / "run"),
            max_steps=(2 * pairs + 3) * steps,
            per_device_train_batch_size=8,
            save_steps=steps,
            save_total_limit=2,
            learning_rate=1e-3,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
        callbacks=[Clock(), *callbacks],
    ).train()
    blocks = [later - earlier for earlier, later in zip(ends, ends[1:], strict=False)]
    arrived = sum(line["outcome"] == "delivered" for queue in Outbox().queues() for line in queue.history())
    # The first pair warms up.
    return blocks[2 : 2 + 2 * pairs], puts[1:], arrived


def report(blocks: list[float], puts: list[float], arrived: int, steps: int) -> None:
    """Print what was measured."""
    pushed, unpushed = blocks[::2], blocks[1::2]
    ratios = [one / other for one, other in zip(pushed, unpushed, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{len(ratios)} pairs of blocks of {steps} steps and a checkpoint; {arrived} pushes arrived")
    print(f"seconds a step, unpushed  {statistics.median(unpushed) / steps:.4f}")
    print(f"seconds a step, pushed    {statistics.median(pushed) / steps:.4f}")
    print(f"ratio, median             {middle:.3f}   (quartiles {low:.3f} to {high:.3f})")
    print(f"putting into the outbox   {statistics.median(puts) * 1000:.0f} ms   (longest {max(puts) * 1000:.0f} ms)")


if __name__ == "__main__":
    main()
