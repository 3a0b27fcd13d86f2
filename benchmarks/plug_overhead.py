"""What hfplug's plug costs a training step, against the same model with PEFT put on by hand.

    python benchmarks/plug_overhead.py

A Llama of 3 million random weights is trained with LoRA and with prompt tuning, by hand (`get_peft_model`) and plugged
(`hfplug.plug` on the model), on the same rows, in turns, so that whatever else the machine does falls on both. Printed
are the median seconds of the processor a step and the ratio of the medians of each pair of turns: what one thread
computes, which a busy machine lengthens much less than the time on the wall.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time

import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import hfplug

TURNS, STEPS, WARM_UP = 5, 14, 4


class Clock(TrainerCallback):
    """Notes the processor's seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args, **kwargs) -> None:
        self._started = time.process_time()

    def on_step_end(self, *args, **kwargs) -> None:
        self.seconds.append(time.process_time() - self._started)


def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000, hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6
    )
    return LlamaForCausalLM(config)


def median_step(model, folder: str, data: Dataset) -> float:
    clock = Clock()
    arguments = TrainingArguments(
        folder,
        max_steps=STEPS,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    Trainer(model, arguments, train_dataset=data, callbacks=[clock]).train()
    return statistics.median(clock.seconds[WARM_UP:])


def main() -> None:
    torch.set_num_threads(1)
    ids = torch.randint(3, 2000, (TURNS * STEPS, 64)).tolist()
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * 64] * len(ids), "labels": ids})
    for method in ("lora", "prompt_tuning"):
        config = hfplug.apply_method(base(), method).active_peft_config
        pairs = []
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(TURNS):
                by_hand = median_step(get_peft_model(base(), copy.deepcopy(config)), folder, data)
                pairs.append((by_hand, median_step(hfplug.plug(base(), method), folder, data)))
        ratios = [plugged / by_hand for by_hand, plugged in pairs]
        by_hand, plugged = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"{method}: by hand {by_hand * 1e3:.1f} ms a step, plugged {plugged * 1e3:.1f} ms; ratio of medians "
            f"{statistics.median(ratios):.3f} (turns: {', '.join(f'{one:.3f}' for one in ratios)})"
        )


if __name__ == "__main__":
    main()
