"""Memory of eight adapters on one base: ``python benchmarks/serving_memory.py [--base FOLDER]``.

Three processes, one after the other, each of which answers every adapter once before it is measured: the base alone;
a ``hfplug.Service`` with eight LoRA adapters; and eight PEFT models loaded the ordinary way, each with its own base.
Printed for each: bytes of its tensors, every memory counted once however many models use it, and what the process
holds (RSS) beyond a process that has only imported the same libraries. What the process holds beyond tensors is mostly
Python objects: PEFT puts ten modules in the place of each layer that it tunes. They are counted for one more adapter,
as Python's own allocator counts them. The adapters are made on the spot, with random weights: what they say does not
matter here.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# More threads than that only add buffers of their own to what is measured.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
NEW_TOKENS = 8
TEXT = "Anna: Is the report ready? Ben: Almost, I need 20 more minutes."
KINDS = ("base alone", "hfplug.Service", "PEFT, one by one")


def main() -> None:
    """Make adapters, measure each way in a process of its own, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="folder of a base (default: the built-in T5)")
    parser.add_argument("--adapters", type=int, default=8, help="(default: 8)")
    parser.add_argument("--rank", type=int, default=16, help="(default: 16)")
    parser.add_argument("--run", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    base = parsed.base or built_in_base()
    if parsed.run:
        print(json.dumps(measure(parsed.run, base, sorted(parsed.folder.iterdir()))))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_adapters(base, Path(folder), parsed.adapters, parsed.rank)
        disk = sum(file.stat().st_size for file in Path(folder).glob("*/adapter_model.safetensors"))
        found = {}
        for kind in KINDS:
            command = [sys.executable, __file__, "--base", base, "--folder", folder, "--run", kind]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[kind] = json.loads(printed.splitlines()[-1])
    report(found, parsed.adapters, disk)


def built_in_base() -> str:
    """The T5 that comes with hfplug."""
    from hfplug.demo.base import base_path

    return str(base_path())


def make_adapters(base: str, folder: Path, count: int, rank: int) -> None:
    """LoRA adapters with random weights."""
    import torch

    import hfplug

    quiet()
    for number in range(count):
        torch.manual_seed(number)
        model: Any = hfplug.build_model(base, "lora", r=rank)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.02 * torch.randn_like(parameter))
        model.save_pretrained(folder / f"adapter-{number}")


def measure(kind: str, base: str, adapters: list[Path]) -> dict[str, int]:
    """Bytes of tensors and of the process, after every adapter has answered once."""
    import hfplug
    from hfplug.models.base import read_task_type, resolve_base

    quiet()
    found = resolve_base(base)
    # What is imported on first use is no memory of models.
    import peft
    import torch  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    seq2seq = read_task_type(found.config) == "SEQ_2_SEQ_LM"
    before = resident_bytes()
    if kind == "PEFT, one by one":
        auto: Any = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
        kept: Any = [peft.PeftModel.from_pretrained(auto.from_pretrained(base), adapter).eval() for adapter in adapters]
        inputs = tokenizer(TEXT, return_tensors="pt")
        for model in kept:
            model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        return {"tensors": tensor_bytes(kept), "process": resident_bytes() - before}
    task = hfplug.Task(name="chat", prompt="{dialogue}", decoding={"max_new_tokens": NEW_TOKENS, "do_sample": False})
    with hfplug.Service(base, task=task) as service:
        names = ["base"]
        for adapter in adapters if kind == "hfplug.Service" else ():
            names.append(service.load(adapter.name, adapter).name)
        for name in names:
            service.ask(name, TEXT).result()
        # The service's own sum is compared with a count over the tensors of all its models.
        resident = service._resident
        counted = tensor_bytes([resident.model, *(variant.model for variant in resident.attached.values())])
        said = service.memory().total_bytes
        found = {"tensors": counted, "said": said, "process": resident_bytes() - before}
        if kind == "hfplug.Service":
            found["objects"] = object_bytes(service, adapters)
        return found


def object_bytes(service: Any, adapters: list[Path]) -> int:
    """Bytes of the Python objects of one more variant, tensors not counted."""
    import tracemalloc

    tracemalloc.start()
    try:
        # With the first, the router is made anew and counted for the first time.
        service.load("one more", adapters[0])
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        service.load("and another", adapters[-1])
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def tensor_bytes(models: list[Any]) -> int:
    """Bytes of all parameters and buffers, each memory once."""
    storages = {}
    for model in models:
        for tensor in (*model.parameters(), *model.buffers()):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def resident_bytes() -> int:
    """Memory of this process, after what was freed has been given back."""
    import ctypes

    from hfplug.serving.info import process_bytes

    gc.collect()
    if sys.platform.startswith("linux"):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return process_bytes()


def report(found: dict[str, dict[str, int]], count: int, disk: int) -> None:
    """Print what was measured."""
    base, service, peft = (found[kind] for kind in KINDS)
    print(f"{count} LoRA adapters, {disk / count / 1e6:.2f} MB each on disk\n")
    print(f"{'':<18}{'tensors':>12}{'process':>12}")
    for kind, values in found.items():
        print(f"{kind:<18}{values['tensors'] / 1e6:>9.1f} MB{values['process'] / 1e6:>9.1f} MB")
    due = base["tensors"] + disk
    print(f"\nbase and adapters by their files' bytes  {due / 1e6:.1f} MB")
    print(f"tensors of the service                   {service['tensors'] / due - 1:+.2%} of that")
    print(f"what service.memory() says               {service['said'] / due - 1:+.2%} of that")
    more = service["process"] - base["process"]
    share = service["process"] / (base["process"] + disk) - 1
    print(f"the process grows by                     {more / 1e6:.1f} MB for {disk / 1e6:.1f} MB of adapters")
    print(f"the process                              {share:+.2%} of that with the base alone, and the adapters")
    print(f"Python objects of one adapter            {service['objects'] / 1e6:.1f} MB, {count} times")
    print(f"PEFT models one by one: tensors          {peft['tensors'] / service['tensors']:.2f} times the service's")
    print(f"PEFT models one by one: process          {peft['process'] / service['process']:.2f} times the service's")


def quiet() -> None:
    """Only what is measured is printed."""
    import warnings

    from hfplug.cli.main import quieten_transformers

    warnings.filterwarnings("ignore")
    for name in ("hfplug", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    quieten_transformers()


if __name__ == "__main__":
    main()
