"""Somebody's causal language modelling script: grouped texts, accuracy from logits that it reduces first."""

import json
import os
import sys
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from datasets import load_dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)


@dataclass
class Arguments:
    model_name_or_path: str = field(metadata={"help": "model"})
    train_file: str = field(metadata={"help": "rows"})
    validation_file: str = field(metadata={"help": "rows"})
    block_size: int = field(default=32, metadata={"help": "tokens"})


def main():
    parser = HfArgumentParser((Arguments, TrainingArguments))
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        arguments, training_args = parser.parse_json_file(os.path.abspath(sys.argv[1]))
    else:
        arguments, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    model = AutoModelForCausalLM.from_pretrained(arguments.model_name_or_path)
    raw = load_dataset("json", data_files={"train": arguments.train_file, "validation": arguments.validation_file})
    tokenized = raw.map(
        lambda rows: tokenizer(rows["dialogue"]), batched=True, remove_columns=raw["train"].column_names
    )

    def group(examples):
        joined = {key: list(chain(*examples[key])) for key in examples}
        total = len(joined["input_ids"]) // arguments.block_size * arguments.block_size
        result = {
            key: [values[at : at + arguments.block_size] for at in range(0, total, arguments.block_size)]
            for key, values in joined.items()
        }
        result["labels"] = result["input_ids"].copy()
        return result

    grouped = tokenized.map(group, batched=True)

    def preprocess_logits_for_metrics(logits, labels):
        if isinstance(logits, tuple):
            logits = logits[0]
        return logits.argmax(dim=-1)

    def compute_metrics(eval_preds):
        preds, labels = eval_preds
        labels = labels[:, 1:].reshape(-1)
        preds = preds[:, :-1].reshape(-1)
        return {"accuracy": float(np.mean(preds == labels))}

    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=grouped["train"],
        eval_dataset=grouped["validation"],
        processing_class=tokenizer,
        data_collator=default_data_collator,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=preprocess_logits_for_metrics,
    )
    before = trainer.evaluate()
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()
    after = trainer.evaluate()
    with open(os.path.join(training_args.output_dir, "before_and_after.json"), "w") as writer:
        json.dump([before, after], writer)


if __name__ == "__main__":
    main()
