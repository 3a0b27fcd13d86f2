"""A run that pushes, of one process or two: ``[torchrun …] train_and_push.py OUT [FAIL_AT_STEP]``."""

import sys

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import hfplug


class Fail(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if sys.argv[2:] == [str(state.global_step)]:
            raise RuntimeError("a mistake of the user's own")


torch.manual_seed(0)
sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
ids = torch.randint(3, 32, (16, 6)).tolist()
Trainer(
    model=hfplug.apply_method(LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)), "lora", r=2),
    args=TrainingArguments(
        output_dir=sys.argv[1],
        max_steps=3,
        per_device_train_batch_size=2,
        save_steps=1,
        learning_rate=1e-2,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    ),
    train_dataset=Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * 6] * 16, "labels": ids}),
    callbacks=[*hfplug.adapter_callbacks(push_to="alice/two"), Fail()],
).train()
