"""Somebody's extractive question answering script: a Trainer with an evaluation of its own, start and end positions."""

from dataclasses import dataclass, field

import numpy as np
from datasets import load_dataset
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    EvalPrediction,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    default_data_collator,
)


@dataclass
class Arguments:
    model_name_or_path: str = field(metadata={"help": "model"})
    train_file: str = field(metadata={"help": "rows with question, context, start, end"})
    max_seq_length: int = field(default=40, metadata={"help": "tokens"})


class QuestionAnsweringTrainer(Trainer):
    def __init__(self, *args, eval_examples=None, post_process_function=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_examples = eval_examples
        self.post_process_function = post_process_function

    def evaluate(self, eval_dataset=None, eval_examples=None, ignore_keys=None, metric_key_prefix="eval"):
        eval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        loader = self.get_eval_dataloader(eval_dataset)
        compute_metrics, self.compute_metrics = self.compute_metrics, None
        try:
            output = self.evaluation_loop(loader, description="Evaluation", ignore_keys=ignore_keys)
        finally:
            self.compute_metrics = compute_metrics
        predictions = self.post_process_function(self.eval_examples, eval_dataset, output.predictions)
        metrics = {f"{metric_key_prefix}_{key}": value for key, value in self.compute_metrics(predictions).items()}
        metrics.update(output.metrics)
        self.log(metrics)
        return metrics


def main():
    parser = HfArgumentParser((Arguments, TrainingArguments))
    arguments, training_args = parser.parse_args_into_dataclasses()
    raw = load_dataset("json", data_files={"train": arguments.train_file})["train"]
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    model = AutoModelForQuestionAnswering.from_pretrained(arguments.model_name_or_path)

    def prepare(rows):
        result = tokenizer(
            rows["question"],
            rows["context"],
            truncation="only_second",
            max_length=arguments.max_seq_length,
            padding="max_length",
        )
        result["start_positions"] = rows["start"]
        result["end_positions"] = rows["end"]
        return result

    data = raw.map(prepare, batched=True, remove_columns=raw.column_names)

    def post_process(examples, features, predictions):
        starts, ends = predictions
        assert starts.shape == (len(features), arguments.max_seq_length), starts.shape
        wanted = np.array([[row["start"], row["end"]] for row in examples])
        return EvalPrediction(predictions=np.stack([starts.argmax(1), ends.argmax(1)], axis=1), label_ids=wanted)

    trainer = QuestionAnsweringTrainer(
        model=model,
        args=training_args,
        train_dataset=data,
        eval_dataset=data.remove_columns(["start_positions", "end_positions"]),
        eval_examples=raw,
        processing_class=tokenizer,
        data_collator=default_data_collator,
        post_process_function=post_process,
        compute_metrics=lambda p: {"exact": float((p.predictions == p.label_ids).all(1).mean())},
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)


if __name__ == "__main__":
    main()
