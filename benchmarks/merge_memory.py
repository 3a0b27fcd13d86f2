"""The memory that merging needs, against the size of the base and of its files.

    python benchmarks/merge_memory.py
    python benchmarks/merge_memory.py --layers 12 --width 1024

A random Llama is saved once in files of each size, a LoRA is put beside each of its linear layers, and each merge runs
in a process of its own without the comparison of answers, which needs the model in memory. "grown" is how far its
resident memory rose at most above what it was after the libraries had been imported; "of its own" leaves out the pages
of the base's files, which are mapped and which the system takes back when it needs them (Linux only).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

_MERGE = """
import re, sys, threading, time
from hfplug.adapters.merge import merge_adapter
import peft, transformers.models.llama.modeling_llama

def resident():
    status = open("/proc/self/status").read()
    return [1024 * int(re.search(rf"{key}:\\s+(\\d+)", status)[1]) for key in ("VmRSS", "RssAnon")]

before, most, done = resident(), [0, 0], threading.Event()

def watch():
    while not done.is_set():
        most[:] = map(max, most, resident())
        time.sleep(0.002)

thread = threading.Thread(target=watch)
thread.start()
started = time.perf_counter()
merged = merge_adapter(sys.argv[1], sys.argv[2], base=sys.argv[3], check="off")
seconds = time.perf_counter() - started
done.set()
thread.join()
assert merged.way == "shards", merged.why_memory
print(*(now - then for now, then in zip(most, before)), seconds)
"""


def measure(adapter: Path, base: Path, out: Path) -> tuple[float, float, float]:
    """Megabytes that a merge's resident memory grows by, those of its own, and its seconds.

    Args:
        adapter: Of the base. base: Its folder. out: The new folder.
    """
    words = [sys.executable, "-c", _MERGE, str(adapter), str(out), str(base)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    grown, own, seconds = map(float, done.stdout.split())
    return grown / 1e6, own / 1e6, seconds


def make(folder: Path, layers: int, width: int, shard_sizes: list[str]) -> tuple[Path, list[Path]]:
    """A base, saved in files of each size, and an adapter of it.

    Args:
        folder: Where to. layers: Of the base. width: Of its layers. shard_sizes: As for ``save_pretrained``.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
    )
    model = LlamaForCausalLM(config)
    bases = [folder / f"base-{size}" for size in shard_sizes]
    for base, size in zip(bases, shard_sizes, strict=True):
        model.save_pretrained(base, max_shard_size=size)
    settings = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(model, settings).save_pretrained(folder / "adapter")
    return folder / "adapter", bases


def main() -> None:
    """Print a line for each size of files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--shards", default="20MB,70MB,200MB,5GB", help="largest file, separated by commas")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adapter, bases = make(folder, parsed.layers, parsed.width, parsed.shards.split(","))
        print("  base, MB   files  largest, MB  grown, MB  of its own, MB  seconds")
        for base in bases:
            sizes = [file.stat().st_size / 1e6 for file in base.glob("*.safetensors")]
            grown, own, seconds = measure(adapter, base, folder / f"out-{base.name}")
            print(f"{sum(sizes):10.0f}{len(sizes):8d}{max(sizes):13.0f}{grown:11.0f}{own:16.0f}{seconds:9.1f}")


if __name__ == "__main__":
    main()
