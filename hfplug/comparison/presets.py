"""Tasks and studies that have a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfplug.adapters.task import Task

# The prompt of the well-known lab on FLAN-T5 and DialogSum.
SUMMARY = Task(
    name="summary",
    prompt="Summarize the following conversation.\n\n{dialogue}\n\nSummary:",
    input_column="dialogue",
    target_column="summary",
    max_input_tokens=512,
    max_target_tokens=128,
    decoding={"max_new_tokens": 128, "do_sample": False, "num_beams": 1},
)

TASKS: Mapping[str, Task] = {SUMMARY.name: SUMMARY}

# What a study and the demo compare where nothing is said: one of each class, each of them quick.
DEFAULT_METHODS = ("full", "lora", "qlora", "prompt_tuning")

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # FLAN-T5-base (Chung et al. 2022) on DialogSum (Chen et al. 2021), with LoRA of rank 32 on query and value
    # as in the lab; each test dialogue is scored once, against its three human summaries together.
    "lab": {
        "base": "google/flan-t5-base",
        "data": "knkarthick/dialogsum",
        "train_split": "train",
        "eval_split": "test",
        "epochs": 2.0,
        "batch_size": 8,
        "flags": {"lora_r": 32, "lora_alpha": 32, "lora_dropout": 0.05, "lora_target_modules": "q,v"},
        "learning_rates": {"full": 1e-4, "lora": 1e-3, "qlora": 1e-3, "prompt_tuning": 0.3},
    },
}
