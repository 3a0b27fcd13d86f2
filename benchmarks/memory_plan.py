"""How far the memory plan is from what training takes: five shapes, every method, two batches, on a CPU.

Each model is a few million random parameters of a T5, BART, Llama, GPT-2 or BERT. The plan reads its configuration and
nothing else; then the same model is trained by ``Trainer`` for two steps, with hfplug's own meter in it, and the peak
that the plan predicted stands beside the one that the meter saw. Ends with status 1 if a peak is off by more than 10 %,
or if two methods whose measured peaks differ by more than 1 % are in another order in the plan.

    python benchmarks/memory_plan.py [--shapes t5,bart,llama,gpt2,bert] [--batches 2x48,8x96]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    BartConfig,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PrinterCallback,
    T5Config,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

import hfplug
from hfplug.methods import get_method, method_names
from hfplug.models.base import auto_class, resolve_base
from hfplug.models.memory_method import Planned, StepSettings
from hfplug.models.memory_probe import random_batch
from hfplug.training.meter import MeterCallback

TOLERANCE = 0.10
SAME = 0.01
VOCABULARY = 4000
SHAPES: dict[str, tuple[Any, str]] = {
    "t5": (
        T5Config(
            vocab_size=VOCABULARY, d_model=256, d_kv=64, d_ff=512, num_layers=3, num_heads=4, decoder_start_token_id=0
        ),
        "SEQ_2_SEQ_LM",
    ),
    "bart": (
        BartConfig(
            vocab_size=VOCABULARY,
            d_model=256,
            encoder_layers=3,
            decoder_layers=3,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=512,
            decoder_ffn_dim=512,
            max_position_embeddings=256,
        ),
        "SEQ_2_SEQ_LM",
    ),
    "llama": (
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=640,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
        ),
        "CAUSAL_LM",
    ),
    "gpt2": (
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=256, n_layer=4, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=0
        ),
        "CAUSAL_LM",
    ),
    "bert": (
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=640,
            max_position_embeddings=256,
        ),
        "SEQ_CLS",
    ),
}


def measure(folder: Path, kind: str, name: str, settings: StepSettings) -> int:
    """The peak of two steps of a real ``Trainer``, by the meter."""
    model = hfplug.build_model(folder, name, task_type=kind)
    batch = {key: value.cpu() for key, value in random_batch(model, settings, kind).items()}
    rows = [{key: value[at] for key, value in batch.items()} for at in range(settings.batch)]
    figures = hfplug.RunFigures()
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=out,
                max_steps=2,
                per_device_train_batch_size=settings.batch,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=rows * 2,
            callbacks=[MeterCallback(figures)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    assert figures.peak_training_bytes is not None
    return figures.peak_training_bytes


def swapped(rows: list[tuple[str, int, int]]) -> list[str]:
    """Pairs of methods that the plan has in another order than the measurement."""
    return [
        f"{first} and {second}"
        for at, (first, planned, measured) in enumerate(rows)
        for second, other_planned, other_measured in rows[at + 1 :]
        if abs(measured - other_measured) > SAME * max(measured, other_measured)
        and (planned - other_planned) * (measured - other_measured) <= 0
    ]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--batches", default="2x48,8x96", help="rows x tokens")
    parsed = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers_logging.set_verbosity_error()
    torch.manual_seed(0)
    worst, wrong = 0.0, []
    print(f"{'shape':6} {'batch':>6}  {'method':16} {'planned':>12} {'measured':>12}  {'off':>7}")
    for shape in parsed.shapes.split(","):
        config, kind = SHAPES[shape]
        with tempfile.TemporaryDirectory() as folder:
            auto_class(kind).from_config(AutoConfig.for_model(**config.to_dict())).save_pretrained(folder)
            base = resolve_base(folder)
            for words in parsed.batches.split(","):
                batch, length = (int(word) for word in words.split("x"))
                settings = StepSettings(batch=batch, length=length, target_length=length // 2)
                rows = []
                for name in method_names():
                    try:
                        planned = Planned(base, kind, get_method(name)(), settings).memory().peak
                    except hfplug.MethodError as error:
                        print(f"{shape:6} {words:>6}  {name:16} {str(error).splitlines()[0][:70]}")
                        continue
                    measured = measure(Path(folder), kind, name, settings)
                    off = planned / measured - 1
                    worst = max(worst, abs(off))
                    rows.append((name, planned, measured))
                    print(f"{shape:6} {words:>6}  {name:16} {planned:12,} {measured:12,}  {off:+7.2%}", flush=True)
                wrong += [f"{shape} {words}: {pair}" for pair in swapped(rows)]
    print(
        f"largest error {worst:.2%} (at most {TOLERANCE:.0%}); methods in another order: {', '.join(wrong) or 'none'}"
    )
    return 1 if worst > TOLERANCE or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
