"""Somebody's token classification script: metrics that need logits and labels of one shape."""

import sys
from dataclasses import dataclass, field

import numpy as np
from datasets import load_dataset
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
)


@dataclass
class Arguments:
    model_name_or_path: str = field(metadata={"help": "model"})
    train_file: str = field(metadata={"help": "rows with tokens and tags"})


def main():
    parser = HfArgumentParser((Arguments, TrainingArguments))
    arguments, training_args = parser.parse_args_into_dataclasses()
    raw = load_dataset("json", data_files={"train": arguments.train_file})["train"].train_test_split(4, seed=0)
    config = AutoConfig.from_pretrained(arguments.model_name_or_path, num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    model = AutoModelForTokenClassification.from_pretrained(arguments.model_name_or_path, config=config)

    def tokenize(rows):
        result = tokenizer(rows["tokens"], is_split_into_words=True, truncation=True, max_length=40)
        result["labels"] = []
        for at, tags in enumerate(rows["tags"]):
            words, previous, labels = result.word_ids(batch_index=at), None, []
            for word in words:
                labels.append(-100 if word is None or word == previous else tags[word])
                previous = word
            result["labels"].append(labels)
        return result

    data = raw.map(tokenize, batched=True, remove_columns=["tokens", "tags"])

    def compute_metrics(p):
        predictions, labels = p
        predictions = np.argmax(predictions, axis=2)
        pairs = [
            (one, wanted)
            for row, wanted_row in zip(predictions, labels, strict=True)
            for one, wanted in zip(row, wanted_row, strict=True)
            if wanted != -100
        ]
        return {"accuracy": sum(one == wanted for one, wanted in pairs) / len(pairs)}

    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=data["train"],
        eval_dataset=data["test"],
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=8),
        compute_metrics=compute_metrics,
    )
    trainer.train()
    trainer.save_model()
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    predictions, labels, _ = trainer.predict(data["test"])
    assert predictions.shape[:2] == labels.shape
    print(len(sys.argv), "done")


if __name__ == "__main__":
    main()
