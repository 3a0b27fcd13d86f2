"""Somebody's notebook, exported: all at module level, a teacher, two Trainers, a model that is used afterwards."""

import sys

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

base, out = sys.argv[1:3]
torch.manual_seed(0)
teacher = AutoModelForCausalLM.from_pretrained(base).eval()
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base)
alias = [model]
rows = torch.randint(3, 200, (16, 12), generator=torch.Generator().manual_seed(1)).tolist()
data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * 12] * 16, "labels": rows})
prompt = torch.tensor([rows[0][:4]])
answer_before = model.generate(prompt, max_new_tokens=6, do_sample=False)


def arguments(name):
    return TrainingArguments(
        output_dir=f"{out}/{name}",
        max_steps=6,
        per_device_train_batch_size=4,
        learning_rate=5e-2,
        save_steps=3,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )


trainer = Trainer(model=model, args=arguments("first"), train_dataset=data, eval_dataset=data)
first_before = trainer.evaluate()["eval_loss"]
trainer.train()
first_after = trainer.evaluate()["eval_loss"]

second = Trainer(model=model, args=arguments("second"), train_dataset=data, eval_dataset=data)
second_before = second.evaluate()["eval_loss"]
second.train()
second_after = second.evaluate()["eval_loss"]

answer_after = model.generate(prompt, max_new_tokens=6, do_sample=False)
model.save_pretrained(f"{out}/saved")
tokenizer.save_pretrained(f"{out}/saved")
