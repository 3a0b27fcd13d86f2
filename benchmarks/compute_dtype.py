"""Which dtype a 4-bit layer should multiply in on this machine: ``python benchmarks/compute_dtype.py``.

Times forward and backward of a LoRA training step on a small Llama-shaped model, unquantised and over NF4 with each
compute dtype, in turn within one run, and prints the ratios to the unquantised step. No model is downloaded.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import hfplug
from hfplug.models import hardware

SHAPE = {"vocab_size": 8192, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 6}
HEADS = {"num_attention_heads": 9, "num_key_value_heads": 3}


def step(model: torch.nn.Module, ids: torch.Tensor) -> float:
    """Seconds of one forward and backward pass."""
    began = time.perf_counter()
    model(input_ids=ids, labels=ids).loss.backward()
    model.zero_grad()
    return time.perf_counter() - began


def main() -> None:
    """Time every dtype."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(LlamaConfig(**SHAPE, **HEADS)).save_pretrained(folder)
        models = {"unquantised": hfplug.build_model(folder, "lora", target_modules="all-linear")}
        for dtype in ("float32", "bfloat16"):
            models[f"nf4, {dtype}"] = hfplug.build_model(
                folder, "qlora", target_modules="all-linear", compute_dtype=dtype
            )
    ids = torch.randint(0, SHAPE["vocab_size"], (flags.rows, flags.length))
    times: dict[str, list[float]] = {name: [] for name in models}
    for round_number in range(flags.rounds + 1):
        for name, model in models.items():
            elapsed = step(model, ids)
            if round_number:  # the first round warms up
                times[name].append(elapsed)
    plain = times["unquantised"]
    print(f"threads: {torch.get_num_threads()}, fast bfloat16: {hardware.has_fast_bfloat16()}")
    print(f"hfplug chooses {hardware.compute_dtype('llama')} here")
    for name, values in times.items():
        ratio = statistics.median(value / base for value, base in zip(values, plain, strict=True))
        print(f"{name:<16}{statistics.median(values):8.3f} s{ratio:8.2f} x")


if __name__ == "__main__":
    main()
