"""Teach a seq2seq model to summarise dialogues: an ordinary Seq2SeqTrainer script with hfplug's two lines in it.

    python examples/seq2seq_trainer.py
    python examples/seq2seq_trainer.py --method prompt_tuning --learning_rate 0.3
    python examples/seq2seq_trainer.py --base google/flan-t5-base --data knkarthick/dialogsum --learning_rate 1e-3

Without flags it trains hfplug's small built-in T5 on built-in dialogues: no network, no token, no GPU. Every flag of
``Seq2SeqTrainingArguments`` works, and ``--data`` takes a Hub id, a file or a folder with the columns ``dialogue``
and ``summary``.
"""

from dataclasses import dataclass, field

from datasets import Dataset
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    HfArgumentParser,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)

import hfplug
from hfplug.comparison.rouge import score_rows
from hfplug.demo.base import base_path
from hfplug.demo.tasks import load_demo_data
from hfplug.training.dataset import pick_split

PROMPT = "Summarize the following conversation.\n\n{dialogue}\n\nSummary:"


@dataclass
class ScriptArguments:
    base: str = field(default=str(base_path()), metadata={"help": "repo id or folder of a seq2seq model"})
    data: str = field(default="", metadata={"help": "Hub id, file or folder; the built-in dialogues if not given"})
    train_split: str = field(default="train", metadata={"help": "what to train on, e.g. train[:400]"})
    eval_split: str = field(default="validation", metadata={"help": "what to score on, e.g. train[400:500]"})
    method: str = field(default="lora", metadata={"help": "lora, prompt_tuning or full"})
    max_input_tokens: int = field(default=512, metadata={"help": "longer prompts are cut"})
    max_target_tokens: int = field(default=80, metadata={"help": "longer summaries are cut"})


@dataclass
class TrainingDefaults(Seq2SeqTrainingArguments):
    """The usual flags, with defaults that suit the built-in base."""

    output_dir: str = "hfplug-examples/seq2seq"
    learning_rate: float = 1e-2  # LoRA on a very small model; 1e-3 suits FLAN-T5-base
    num_train_epochs: float = 2
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 32
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    load_best_model_at_end: bool = True
    predict_with_generate: bool = True
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

    def encode(row: dict) -> dict:
        prompt = PROMPT.replace("{dialogue}", row["dialogue"])
        inputs = tokenizer(prompt, max_length=script.max_input_tokens, truncation=True)
        labels = tokenizer(text_target=row["summary"], max_length=script.max_target_tokens, truncation=True)
        return {**inputs, "labels": labels["input_ids"]}

    train, evaluation = pick_split(data, script.train_split), pick_split(data, script.eval_split)
    train, evaluation = (rows.map(encode, remove_columns=rows.column_names) for rows in (train, evaluation))

    def rouge(prediction) -> dict[str, float]:
        # -100 stands where there is no token; the tokenizer cannot read it.
        texts, references = (
            tokenizer.batch_decode([[token for token in row if token >= 0] for row in ids], skip_special_tokens=True)
            for ids in (prediction.predictions, prediction.label_ids)
        )
        scores = score_rows(texts, [[reference] for reference in references])
        return {metric: 100 * float(values.mean()) for metric, values in scores.mean.items()}

    model = AutoModelForSeq2SeqLM.from_pretrained(script.base)
    model.generation_config.max_new_tokens = script.max_target_tokens  # for the evaluations, which generate
    model = hfplug.apply_method(model, script.method)  # hfplug: first line
    trainer = Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=evaluation,
        # Pads to the longest row of the batch, and labels with -100: padding is not to be learnt.
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
        compute_metrics=rouge,
        callbacks=hfplug.adapter_callbacks(),  # hfplug: second line
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()

    adapter = hfplug.AdapterDir.open(f"{args.output_dir}/adapter")
    size = adapter.record.parameter_efficiency
    for name, scores in (("before", before), ("after", after)):
        rouges = ", ".join(f"{metric} {scores[f'eval_{metric}']:.1f}" for metric in ("rouge1", "rouge2", "rougeL"))
        print(f"{name}: eval_loss {scores['eval_loss']:.3f}, {rouges}")
    print(f"trained: {size['trainable_parameters']:,} of {size['total_parameters']:,} parameters ({size['share']:.2%})")
    print(f"adapter: {adapter.path} ({adapter.weight_bytes:,} bytes of weights)")


if __name__ == "__main__":
    main()
