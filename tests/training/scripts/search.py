"""Somebody's script with ``model_init``: Trainer makes the model itself, and again when it trains."""

import json
import sys
from functools import partial

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

base, out, style = sys.argv[1:4]
made = []


def make(source, trial=None):
    model = AutoModelForCausalLM.from_pretrained(source)
    made.append(model)
    return model


rows = torch.randint(3, 200, (16, 12), generator=torch.Generator().manual_seed(1)).tolist()
data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * 12] * 16, "labels": rows})
model_init = {"lambda": lambda: make(base), "trial": lambda trial: make(base, trial), "partial": partial(make, base)}[
    style
]
trainer = Trainer(
    model_init=model_init,
    args=TrainingArguments(
        output_dir=out,
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=5e-2,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    ),
    train_dataset=data,
    eval_dataset=data,
)
before = trainer.evaluate()["eval_loss"]
trainer.train()
after = trainer.evaluate()["eval_loss"]
with open(f"{out}/losses.json", "w") as file:
    json.dump([before, after, len(made)], file)
