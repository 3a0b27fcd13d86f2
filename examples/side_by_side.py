"""One base in memory, several adapters on it, all asked the same thing at once, their answers read as they are written.

    python examples/side_by_side.py
    python examples/side_by_side.py --base google/flan-t5-base --dialogue chat.txt \\
        --variants lora=out/adapters/lora full=out/adapters/full

Without --variants two adapters of the built-in base are trained first, by LoRA and by IA3, so that there is something
to ask. `ask_side_by_side` is what you copy for adapters of your own, of any method.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset
from transformers import AutoTokenizer, HfArgumentParser, Trainer, TrainingArguments, set_seed

import hfplug
from hfplug.demo.base import base_path
from hfplug.demo.tasks import TASKS, load_demo_data
from hfplug.training.dataset import examples_from


@dataclass
class ScriptArguments:
    base: str = field(default=str(base_path()), metadata={"help": "repo id or folder of the base"})
    variants: list[str] = field(default_factory=list, metadata={"help": "NAME=FOLDER of adapters or full models"})
    dialogue: str | None = field(default=None, metadata={"help": "a text file; one of the built-in ones if left out"})
    output_dir: str = field(default="hfplug-examples/side-by-side", metadata={"help": "for what is trained here"})
    steps: int = field(default=150, metadata={"help": "training steps of each method, where no variants are given"})


def ask_side_by_side(service: hfplug.Service, dialogue: str) -> None:
    """Ask the base and every variant, and print the answers, the first that is whole first."""
    infos = {info.name: info for info in service.variants()}
    asked = service.ask_all(list(infos), dialogue, decoding=hfplug.Decoding(max_new_tokens=48, seed=0))
    for name, question in asked.items():  # all are being written meanwhile; iterate over one for its text as it grows
        answer = question.result()
        info = infos[name]
        size = (
            f"{info.trainable_parameters:,} trained, {info.held_bytes:,} bytes" if info.method else "as it was loaded"
        )
        print(f"{name} ({size}): {answer.text!r}, {answer.tokens} tokens, {answer.ended}")
        if info.banner:
            print(f"  not what it says: {info.banner}")


def train(method: str, script: ScriptArguments, rate: float) -> Path:
    """Train a small adapter of the built-in base; returns its folder."""
    set_seed(42)
    task = TASKS["summary"]
    tokenizer = AutoTokenizer.from_pretrained(base_path())
    rows = examples_from(Dataset.from_list(load_demo_data()["train"]), task)
    trainer = Trainer(
        model=hfplug.build_model(base_path(), method),
        args=TrainingArguments(
            output_dir=f"{script.output_dir}/{method}",
            max_steps=script.steps,
            per_device_train_batch_size=8,
            learning_rate=rate,
            save_steps=script.steps,
            logging_steps=script.steps,
            report_to="none",
            disable_tqdm=True,
            log_level="warning",
        ),
        train_dataset=hfplug.Preprocessor(task, tokenizer, encoder_decoder=True).encode_dataset(rows).dataset,
        data_collator=hfplug.make_collator(tokenizer),
        processing_class=tokenizer,
        callbacks=hfplug.adapter_callbacks(task=task),
    )
    trainer.train()
    return Path(script.output_dir) / method / "adapter"


def main() -> None:
    (script,) = HfArgumentParser(ScriptArguments).parse_args_into_dataclasses()
    variants = dict(item.split("=", 1) for item in script.variants)
    if not variants:
        variants = {"lora": train("lora", script, 1e-2), "ia3": train("ia3", script, 3e-2)}
    dialogue = Path(script.dialogue).read_text() if script.dialogue else load_demo_data()["test"][0]["dialogue"]
    print(f"{dialogue}\n")
    with hfplug.Service(script.base) as service:
        for name, folder in variants.items():
            service.load(name, folder)
        print(service.base_proof)
        ask_side_by_side(service, dialogue)
        memory = service.memory()
        print(f"{memory.total_bytes:,} bytes of weights: base {memory.base_bytes:,}, variants {memory.variants}")


if __name__ == "__main__":
    main()
