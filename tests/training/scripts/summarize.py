"""Somebody's summarisation script: HfArgumentParser with flags or a JSON file, generation in evaluation, resume."""

import logging
import os
import sys
from dataclasses import dataclass, field

import numpy as np
from datasets import load_dataset
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    HfArgumentParser,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

logger = logging.getLogger(__name__)


@dataclass
class ModelArguments:
    model_name_or_path: str = field(metadata={"help": "model"})
    tokenizer_name: str | None = field(default=None, metadata={"help": "tokenizer"})
    add_tokens: int | None = field(default=0, metadata={"help": "tokens to add to the vocabulary"})


@dataclass
class DataArguments:
    train_file: str | None = field(default=None, metadata={"help": "rows to train on"})
    validation_file: str | None = field(default=None, metadata={"help": "rows to evaluate on"})
    max_source_length: int | None = field(default=64, metadata={"help": "tokens"})
    max_target_length: int | None = field(default=24, metadata={"help": "tokens"})
    pad_to_max_length: bool = field(default=False, metadata={"help": "pad to the maximum"})


def main():
    parser = HfArgumentParser((ModelArguments, DataArguments, Seq2SeqTrainingArguments))
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        model_args, data_args, training_args = parser.parse_json_file(json_file=os.path.abspath(sys.argv[1]))
    else:
        model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)
    last_checkpoint = None
    if os.path.isdir(training_args.output_dir) and training_args.do_train:
        last_checkpoint = get_last_checkpoint(training_args.output_dir)

    config = AutoConfig.from_pretrained(model_args.model_name_or_path)
    tokenizer = AutoTokenizer.from_pretrained(model_args.tokenizer_name or model_args.model_name_or_path)
    model = AutoModelForSeq2SeqLM.from_pretrained(model_args.model_name_or_path, config=config)
    if model_args.add_tokens:
        tokenizer.add_tokens([f"<new{number}>" for number in range(model_args.add_tokens)])
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    if model.config.decoder_start_token_id is None:
        raise ValueError("Make sure that `config.decoder_start_token_id` is correctly defined")

    files = {"train": data_args.train_file, "validation": data_args.validation_file}
    raw = load_dataset("json", data_files=files)
    padding = "max_length" if data_args.pad_to_max_length else False

    def preprocess(examples):
        inputs = ["summarize: " + text for text in examples["dialogue"]]
        model_inputs = tokenizer(inputs, max_length=data_args.max_source_length, padding=padding, truncation=True)
        labels = tokenizer(
            text_target=examples["summary"], max_length=data_args.max_target_length, padding=padding, truncation=True
        )
        if padding == "max_length":
            labels["input_ids"] = [
                [(token if token != tokenizer.pad_token_id else -100) for token in label]
                for label in labels["input_ids"]
            ]
        model_inputs["labels"] = labels["input_ids"]
        return model_inputs

    train_dataset = raw["train"].map(preprocess, batched=True, remove_columns=raw["train"].column_names)
    eval_dataset = raw["validation"].map(preprocess, batched=True, remove_columns=raw["validation"].column_names)
    collator = DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=-100)

    def compute_metrics(eval_preds):
        preds, labels = eval_preds
        if isinstance(preds, tuple):
            preds = preds[0]
        preds = np.where(preds != -100, preds, tokenizer.pad_token_id)
        decoded = tokenizer.batch_decode(preds, skip_special_tokens=True)
        labels = np.where(labels != -100, labels, tokenizer.pad_token_id)
        wanted = tokenizer.batch_decode(labels, skip_special_tokens=True)
        same = [
            len(set(a.split()) & set(b.split())) / max(len(set(b.split())), 1)
            for a, b in zip(decoded, wanted, strict=False)
        ]
        return {"overlap": float(np.mean(same)), "gen_len": float(np.mean([len(text) for text in decoded]))}

    trainer = Seq2SeqTrainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset if training_args.do_train else None,
        eval_dataset=eval_dataset if training_args.do_eval else None,
        processing_class=tokenizer,
        data_collator=collator,
        compute_metrics=compute_metrics if training_args.predict_with_generate else None,
    )
    if training_args.do_train:
        checkpoint = None
        if training_args.resume_from_checkpoint is not None:
            checkpoint = training_args.resume_from_checkpoint
        elif last_checkpoint is not None:
            checkpoint = last_checkpoint
        result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
        trainer.save_state()
    if training_args.do_eval:
        metrics = trainer.evaluate(metric_key_prefix="eval")
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if training_args.do_predict:
        results = trainer.predict(eval_dataset, metric_key_prefix="predict")
        trainer.save_metrics("predict", results.metrics)
        predictions = np.where(results.predictions != -100, results.predictions, tokenizer.pad_token_id)
        texts = tokenizer.batch_decode(predictions, skip_special_tokens=True)
        with open(os.path.join(training_args.output_dir, "generated_predictions.txt"), "w") as writer:
            writer.write("\n".join(text.strip() for text in texts))
    if training_args.push_to_hub:
        trainer.push_to_hub(tasks="summarization")
    else:
        trainer.create_model_card(tasks="summarization")
    return trainer


if __name__ == "__main__":
    main()
