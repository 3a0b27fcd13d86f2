"""Teach a causal chat model to summarise dialogues: an ordinary Trainer script with hfplug's two lines in it.

    python examples/causal_chat.py
    python examples/causal_chat.py --base HuggingFaceTB/SmolLM2-135M-Instruct --learning_rate 1e-3
    python examples/causal_chat.py --base HuggingFaceTB/SmolLM2-135M-Instruct --method qlora --lora_r 8
    python examples/causal_chat.py settings.json    # or settings.yaml

Without flags it makes a tiny random chat model and trains that on built-in dialogues: no network, no token, no GPU.
The numbers then show that everything works; for summaries worth reading, name a real base. The flags of every method
and of ``TrainingArguments`` work, on the command line or in a file.
"""

import sys
from dataclasses import dataclass, field

from datasets import Dataset
from transformers import AutoTokenizer, HfArgumentParser, Trainer, TrainingArguments, set_seed

import hfplug
from hfplug.demo.chat_base import write_chat_base
from hfplug.demo.tasks import load_demo_data
from hfplug.training.dataset import examples_from, pick_split


@dataclass
class ScriptArguments:
    base: str = field(default="", metadata={"help": "repo id or folder of a causal model; a tiny one if not given"})
    data: str = field(default="", metadata={"help": "Hub id, file or folder; the built-in dialogues if not given"})
    train_split: str = field(default="train", metadata={"help": "what to train on, e.g. train[:400]"})
    eval_split: str = field(default="validation", metadata={"help": "what to score on, e.g. train[400:500]"})


@dataclass
class TrainingDefaults(TrainingArguments):
    """The usual flags, with defaults that suit the tiny base."""

    output_dir: str = "hfplug-examples/causal-chat"
    learning_rate: float = 1e-2  # LoRA on a very small model; 1e-3 suits one of 135 million parameters
    num_train_epochs: float = 2
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 16
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    load_best_model_at_end: bool = True
    prediction_loss_only: bool = True  # an evaluation need not keep the logits of every token
    logging_steps: float = 20
    log_level: str = "warning"


def main() -> None:
    parser = HfArgumentParser((ScriptArguments, hfplug.MethodArguments, TrainingDefaults))
    if len(sys.argv) == 2 and sys.argv[1].endswith((".json", ".yaml", ".yml")):
        read_file = parser.parse_json_file if sys.argv[1].endswith(".json") else parser.parse_yaml_file
        script, method, args = read_file(sys.argv[1])
    else:
        script, method, args = parser.parse_args_into_dataclasses()
    set_seed(args.seed)
    base = script.base or str(write_chat_base(f"{args.output_dir}/base"))
    tokenizer = AutoTokenizer.from_pretrained(base)

    # The task is stored with the adapter, so that whoever loads it knows how to ask.
    task = hfplug.Task(name="summary", prompt="Summarize the following conversation.\n\n{dialogue}\n\nSummary:")
    if script.data:
        data = hfplug.load_data(script.data)
    else:
        data = {name: Dataset.from_list(rows) for name, rows in load_demo_data().items()}
    train, evaluation = (examples_from(pick_split(data, s), task) for s in (script.train_split, script.eval_split))

    # Renders the chat template, cuts a dialogue that is too long (never the instruction or the answer), and leaves
    # the loss to the answer alone.
    preprocessor = hfplug.Preprocessor(task, tokenizer, encoder_decoder=False)
    model = hfplug.build_model(base, method.to_method())  # hfplug: first line; for qlora it loads the base in 4 bits
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=preprocessor.encode_dataset(train).dataset,
        eval_dataset=preprocessor.encode_dataset(evaluation).dataset,
        data_collator=hfplug.make_collator(tokenizer),
        processing_class=tokenizer,
        callbacks=hfplug.adapter_callbacks(task=task),  # hfplug: second line
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()

    adapter = hfplug.AdapterDir.open(f"{args.output_dir}/adapter")
    size = adapter.record.parameter_efficiency
    question = evaluation[0]
    answer = hfplug.generate_texts(
        hfplug.load_adapter(adapter.path),
        tokenizer,
        [preprocessor.prompt(question.text).input_ids],
        decoding={"max_new_tokens": 48, "do_sample": False},
        stop_token_ids=preprocessor.stop_token_ids,
    ).texts[0]
    print(f"before: eval_loss {before['eval_loss']:.3f}")
    print(f"after: eval_loss {after['eval_loss']:.3f}")
    print(f"answer: {answer!r} (expected {question.references[0]!r})")
    print(f"trained: {size['trainable_parameters']:,} of {size['total_parameters']:,} parameters ({size['share']:.2%})")
    print(f"adapter: {adapter.path} ({adapter.weight_bytes:,} bytes of weights)")


if __name__ == "__main__":
    main()
