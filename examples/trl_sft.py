"""Teach a chat model with TRL's SFTTrainer: an ordinary SFT script with hfplug's two lines in it.

    pip install 'hfplug[trl]'
    python examples/trl_sft.py
    python examples/trl_sft.py --base HuggingFaceTB/SmolLM2-135M-Instruct --learning_rate 1e-3
    python examples/trl_sft.py --base HuggingFaceTB/SmolLM2-135M-Instruct --method qlora --lora_r 8

Without flags it makes a tiny random chat model and trains that on built-in dialogues: no network, no token, no GPU.
The numbers then show that everything works; for summaries worth reading, name a real base. The flags of every method
and of ``SFTConfig`` work.
"""

from dataclasses import dataclass, field

import torch
from datasets import Dataset
from transformers import AutoTokenizer, HfArgumentParser, set_seed
from trl import SFTConfig, SFTTrainer

import hfplug
from hfplug.demo.chat_base import write_chat_base
from hfplug.demo.tasks import load_demo_data
from hfplug.training.dataset import pick_split

PROMPT = "Summarize the following conversation.\n\n{dialogue}\n\nSummary:"


@dataclass
class ScriptArguments:
    base: str = field(default="", metadata={"help": "repo id or folder of a causal model; a tiny one if not given"})
    data: str = field(default="", metadata={"help": "Hub id, file or folder; the built-in dialogues if not given"})
    train_split: str = field(default="train", metadata={"help": "what to train on, e.g. train[:400]"})
    eval_split: str = field(default="validation", metadata={"help": "what to score on, e.g. train[400:500]"})


@dataclass
class TrainingDefaults(SFTConfig):
    """The usual flags, with defaults that suit the tiny base."""

    output_dir: str = "hfplug-examples/trl-sft"
    learning_rate: float = 1e-2  # LoRA on a very small model; 1e-3 suits one of 135 million parameters
    num_train_epochs: float = 2
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 16
    max_length: int = 512
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    load_best_model_at_end: bool = True
    gradient_checkpointing: bool = False  # saves memory and costs time; a small model has no need of it
    bf16: bool = torch.cuda.is_available()  # on by default in TRL; slow on a CPU without units for it
    logging_steps: float = 20
    log_level: str = "warning"


def as_conversation(row: dict) -> dict:
    """The prompt and the answer as messages, which makes SFTTrainer train on the answer alone."""
    return {
        "prompt": [{"role": "user", "content": PROMPT.replace("{dialogue}", row["dialogue"])}],
        "completion": [{"role": "assistant", "content": row["summary"]}],
    }


def main() -> None:
    parser = HfArgumentParser((ScriptArguments, hfplug.MethodArguments, TrainingDefaults))
    script, method, args = parser.parse_args_into_dataclasses()
    set_seed(args.seed)
    base = script.base or str(write_chat_base(f"{args.output_dir}/base"))

    if script.data:
        data = hfplug.load_data(script.data)
    else:
        data = {name: Dataset.from_list(rows) for name, rows in load_demo_data().items()}
    train, evaluation = pick_split(data, script.train_split), pick_split(data, script.eval_split)
    train, evaluation = (rows.map(as_conversation, remove_columns=rows.column_names) for rows in (train, evaluation))

    model = hfplug.build_model(base, method.to_method())  # hfplug: first line; instead of SFTTrainer's peft_config
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=AutoTokenizer.from_pretrained(base),
        callbacks=hfplug.adapter_callbacks(),  # hfplug: second line
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()

    adapter = hfplug.AdapterDir.open(f"{args.output_dir}/adapter")
    size = adapter.record.parameter_efficiency
    for name, scores in (("before", before), ("after", after)):
        print(f"{name}: eval_loss {scores['eval_loss']:.3f}")
    print(f"trained: {size['trainable_parameters']:,} of {size['total_parameters']:,} parameters ({size['share']:.2%})")
    print(f"adapter: {adapter.path} ({adapter.weight_bytes:,} bytes of weights)")


if __name__ == "__main__":
    main()
