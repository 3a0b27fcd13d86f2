"""One base, one small adapter for each task: three tasks over the same dialogues, trained in a loop, then side by side.

    python examples/per_task_adapters.py
    python examples/per_task_adapters.py --base google/flan-t5-small --learning_rate 1e-3 --steps 400

Trains a summary, a title and an action-items adapter on hfplug's built-in dialogues, then loads the base once, puts
all three adapters beside it and lets each answer the same dialogue. No network, no token, no GPU.
"""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset
from peft import PeftModel
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    HfArgumentParser,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

import hfplug
from hfplug.demo.base import base_path
from hfplug.demo.tasks import TASKS, load_demo_data
from hfplug.training.dataset import examples_from


@dataclass
class ScriptArguments:
    base: str = field(default=str(base_path()), metadata={"help": "repo id or folder of a seq2seq model"})
    output_dir: str = field(default="hfplug-examples/per-task", metadata={"help": "a folder for each task goes here"})
    rank: int = field(default=8, metadata={"help": "rank of each adapter"})
    steps: int = field(default=150, metadata={"help": "training steps for each task"})
    learning_rate: float = field(default=1e-2, metadata={"help": "1e-2 suits the built-in base, 1e-3 larger ones"})


def train(task: hfplug.Task, script: ScriptArguments, tokenizer: PreTrainedTokenizerBase) -> hfplug.AdapterDir:
    """Teach one task and print how its loss moved."""
    set_seed(42)  # for the start of the adapter
    # Knows how the task's prompt is written and cut; the same object encodes what is asked later.
    preprocessor = hfplug.Preprocessor(task, tokenizer, encoder_decoder=True)
    data = load_demo_data()
    rows = {
        split: preprocessor.encode_dataset(examples_from(Dataset.from_list(data[split]), task)).dataset
        for split in ("train", "validation")
    }
    trainer = Trainer(
        model=hfplug.build_model(script.base, "lora", r=script.rank),  # a fresh base each time
        args=TrainingArguments(
            output_dir=f"{script.output_dir}/{task.name}",
            max_steps=script.steps,
            per_device_train_batch_size=8,
            per_device_eval_batch_size=32,
            learning_rate=script.learning_rate,
            save_steps=script.steps,
            logging_steps=40,
            prediction_loss_only=True,
            log_level="warning",
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        data_collator=hfplug.make_collator(tokenizer),
        processing_class=tokenizer,
        callbacks=hfplug.adapter_callbacks(task=task),  # the task is stored with the adapter
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    adapter = hfplug.AdapterDir.open(f"{script.output_dir}/{task.name}/adapter")
    print(f"{task.name}: eval_loss {before:.3f} -> {after:.3f}, {adapter.weight_bytes:,} bytes, {adapter.path}")
    return adapter


def answer(model, tokenizer: PreTrainedTokenizerBase, task: hfplug.Task, dialogue: str) -> str:
    preprocessor = hfplug.Preprocessor(task, tokenizer, encoder_decoder=True)
    prompts = [preprocessor.prompt(dialogue).input_ids]
    return hfplug.generate_texts(model, tokenizer, prompts, decoding=task.decoding).texts[0]


def main() -> None:
    (script,) = HfArgumentParser(ScriptArguments).parse_args_into_dataclasses()
    tokenizer = AutoTokenizer.from_pretrained(script.base)
    adapters = {name: train(task, script, tokenizer) for name, task in TASKS.items()}

    # They are plain PEFT adapters, so PEFT holds all of them over one base in memory and switches between them.
    base = AutoModelForSeq2SeqLM.from_pretrained(script.base)
    first, *others = adapters
    model = PeftModel.from_pretrained(base, adapters[first].path, adapter_name=first)
    for name in others:
        model.load_adapter(adapters[name].path, adapter_name=name)

    dialogue = load_demo_data()["test"][0]["dialogue"]
    print(f"\n{dialogue}\n")
    for name, adapter in adapters.items():
        model.set_adapter(name)
        with model.disable_adapter():
            print(f"{name}, base: {answer(model, tokenizer, adapter.task, dialogue)!r}")
        print(f"{name}, adapter: {answer(model, tokenizer, adapter.task, dialogue)!r}")

    full_copy = sum(file.stat().st_size for file in Path(script.base).glob("*.safetensors"))
    total = sum(adapter.weight_bytes for adapter in adapters.values())
    copies = f" (three full copies would be {3 * full_copy:,})" if full_copy else ""
    print(f"\n{len(adapters)} adapters: {total:,} bytes{copies}")


if __name__ == "__main__":
    main()
