"""Teach a classifier what a dialogue is about: an ordinary Trainer script with hfplug's two lines in it.

    python examples/sequence_classifier.py
    python examples/sequence_classifier.py --base distilbert/distilbert-base-uncased --learning_rate 1e-3
    python examples/sequence_classifier.py --base FacebookAI/roberta-base --data ag_news --text_column text \
        --label_column label --eval_split 'test[:500]'

Without flags it puts a new head on hfplug's small built-in T5 and learns the topic of the built-in dialogues: no
network, no token, no GPU. The head starts at random, so it is trained and saved with the adapter.
"""

from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)

import hfplug
from hfplug.demo.base import base_path
from hfplug.demo.tasks import load_demo_data
from hfplug.training.dataset import pick_split


@dataclass
class ScriptArguments:
    base: str = field(default=str(base_path()), metadata={"help": "repo id or folder of a pretrained model"})
    data: str = field(default="", metadata={"help": "Hub id, file or folder; the built-in dialogues if not given"})
    text_column: str = field(default="dialogue", metadata={"help": "column with the text"})
    label_column: str = field(default="domain", metadata={"help": "column with the class, as text or number"})
    train_split: str = field(default="train", metadata={"help": "what to train on, e.g. train[:400]"})
    eval_split: str = field(default="validation", metadata={"help": "what to score on, e.g. train[400:500]"})
    method: str = field(default="lora", metadata={"help": "lora, prompt_tuning or full"})


@dataclass
class TrainingDefaults(TrainingArguments):
    """The usual flags, with defaults that suit the built-in base."""

    output_dir: str = "hfplug-examples/classifier"
    learning_rate: float = 5e-3  # LoRA on a very small model; 1e-3 suits one of 100 million parameters
    num_train_epochs: float = 2
    per_device_train_batch_size: int = 16
    per_device_eval_batch_size: int = 32
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    load_best_model_at_end: bool = True
    logging_steps: float = 20
    log_level: str = "warning"


def main() -> None:
    script, args = HfArgumentParser((ScriptArguments, TrainingDefaults)).parse_args_into_dataclasses()
    set_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(script.base)

    if script.data:
        data = hfplug.load_data(script.data)
    else:
        data = {name: Dataset.from_list(rows) for name, rows in load_demo_data().items()}
    train, evaluation = pick_split(data, script.train_split), pick_split(data, script.eval_split)
    labels = sorted({*train[script.label_column], *evaluation[script.label_column]})
    numbers = {label: number for number, label in enumerate(labels)}

    def encode(row: dict) -> dict:
        return {**tokenizer(row[script.text_column], truncation=True), "labels": numbers[row[script.label_column]]}

    train, evaluation = (rows.map(encode, remove_columns=rows.column_names) for rows in (train, evaluation))

    model = AutoModelForSequenceClassification.from_pretrained(
        script.base,
        num_labels=len(labels),
        id2label={number: str(label) for label, number in numbers.items()},
        label2id={str(label): number for label, number in numbers.items()},
    )
    model = hfplug.apply_method(model, script.method)  # hfplug: first line
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=tokenizer,  # Trainer pads with it
        # A T5 also returns its encoder's states; the logits are all that is scored.
        preprocess_logits_for_metrics=lambda outputs, _: outputs[0] if isinstance(outputs, tuple) else outputs,
        compute_metrics=lambda came: {"accuracy": float(np.mean(came.predictions.argmax(-1) == came.label_ids))},
        callbacks=hfplug.adapter_callbacks(),  # hfplug: second line
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()

    adapter = hfplug.AdapterDir.open(f"{args.output_dir}/adapter")
    size = adapter.record.parameter_efficiency
    print(f"classes: {len(labels)} ({', '.join(map(str, labels[:4]))}, ...)")
    for name, scores in (("before", before), ("after", after)):
        print(f"{name}: eval_loss {scores['eval_loss']:.3f}, accuracy {scores['eval_accuracy']:.1%}")
    print(f"trained: {size['trainable_parameters']:,} of {size['total_parameters']:,} parameters ({size['share']:.2%})")
    print(f"adapter: {adapter.path} ({adapter.weight_bytes:,} bytes of weights, the new head among them)")


if __name__ == "__main__":
    main()
