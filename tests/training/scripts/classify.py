"""Somebody's classification script: a Trainer of their own with a weighted loss, a head that is new."""

import os
import sys
from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import load_dataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
)


@dataclass
class Arguments:
    model_name_or_path: str = field(metadata={"help": "model"})
    train_file: str = field(metadata={"help": "rows"})
    validation_file: str = field(metadata={"help": "rows"})
    max_seq_length: int = field(default=48, metadata={"help": "tokens"})
    pad_to_max_length: bool = field(default=False, metadata={"help": "pad"})


class WeightedTrainer(Trainer):
    def __init__(self, *args, class_weights=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.class_weights = class_weights

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.get("labels")
        outputs = model(**inputs)
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels, weight=self.class_weights)
        return (loss, outputs) if return_outputs else loss


def main():
    parser = HfArgumentParser((Arguments, TrainingArguments))
    arguments, training_args = parser.parse_args_into_dataclasses(args=sys.argv[1:])
    raw = load_dataset("json", data_files={"train": arguments.train_file, "validation": arguments.validation_file})
    names = sorted(set(raw["train"]["label"]))
    config = AutoConfig.from_pretrained(arguments.model_name_or_path, num_labels=len(names))
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    model = AutoModelForSequenceClassification.from_pretrained(
        arguments.model_name_or_path, config=config, ignore_mismatched_sizes=True
    )
    model.config.label2id = {name: number for number, name in enumerate(names)}
    model.config.id2label = dict(enumerate(names))
    model.config.pad_token_id = tokenizer.pad_token_id

    def preprocess(rows):
        padding = "max_length" if arguments.pad_to_max_length else False
        result = tokenizer(rows["text"], padding=padding, max_length=arguments.max_seq_length, truncation=True)
        result["label"] = [names.index(name) for name in rows["label"]]
        return result

    data = raw.map(preprocess, batched=True)

    def compute_metrics(p: EvalPrediction):
        preds = p.predictions[0] if isinstance(p.predictions, tuple) else p.predictions
        assert preds.shape == (len(data["validation"]), len(names)), preds.shape
        return {"accuracy": float((np.argmax(preds, axis=1) == p.label_ids).mean())}

    trainer = WeightedTrainer(
        model,
        training_args,
        DataCollatorWithPadding(tokenizer),
        data["train"],
        data["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
        class_weights=torch.tensor([1.0] * len(names)),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    predictions = trainer.predict(data["validation"].remove_columns("label")).predictions
    predictions = predictions[0] if isinstance(predictions, tuple) else predictions
    with open(os.path.join(training_args.output_dir, "predict_results.txt"), "w") as writer:
        for row in np.argmax(predictions, axis=1):
            writer.write(f"{model.config.id2label[int(row)]}\n")


if __name__ == "__main__":
    main()
