"""What it costs to bring a model that a script loaded into 4 bits: ``python benchmarks/quantized_load.py``.

A Llama of some 270 million random weights in float32 (1.07 GB) is written to a temporary folder. Processes of their
own, one after the other, load it; each prints how much its memory (RSS, looked at every 2 ms) grew at the most and what
it holds in the end, beyond what it held before the load:

* the load alone, and every weight read once: the script's unquantised copy;
* ``hfplug.build_model(folder, "qlora")``: transformers loads it in 4 bits;
* ``from_pretrained`` and then ``hfplug.plug(model, "qlora")``: what ``hfplug run --method qlora script.py`` does;
* the same in bfloat16 on the disk, where the script asks for float32 (TRL's scripts do, unless they are told).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
WAYS = ("read whole", "build_model", "plug", "plug, float32 of bfloat16")


def main() -> None:
    """Write the model, measure each way in a process of its own, print."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], sys.argv[2])))
        return
    with tempfile.TemporaryDirectory() as folder:
        size = write_model(Path(folder))
        print(f"the model: {size / 1e6:,.0f} MB in float32\n{'':<28}{'peak':>10}{'in the end':>12}  peak / model")
        for way in WAYS:
            command = [sys.executable, __file__, way, folder]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found = json.loads(printed.splitlines()[-1])
            peak, end = found["peak"], found["end"]
            print(f"{way:<28}{peak / 1e6:>7,.0f} MB{end / 1e6:>9,.0f} MB{peak / size:>11.2f}")


def write_model(folder: Path) -> int:
    """Write the model in both number formats; gives its bytes in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=2000, hidden_size=1024, intermediate_size=4096, num_hidden_layers=16, num_attention_heads=8
        )
    )
    size = sum(one.nbytes for one in model.parameters())
    model.save_pretrained(folder / "float32")
    model.to(torch.bfloat16).save_pretrained(folder / "bfloat16")
    return size


def measure(way: str, folder: str) -> dict[str, Any]:
    """Bytes that this process grew by."""
    import bitsandbytes  # noqa: F401 - its own memory is not that of the model
    import torch
    from transformers import AutoModelForCausalLM

    import hfplug

    source = f"{folder}/float32"
    small = hfplug.Lora(r=1)  # imports what any method imports
    hfplug.plug(AutoModelForCausalLM.from_config(tiny()), small)
    before, seen, done = resident(), [0], threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.append(resident())
            time.sleep(0.002)

    watch = threading.Thread(target=look)
    watch.start()
    if way == "build_model":
        model = hfplug.build_model(source, "qlora")
    elif way == "plug":
        model = hfplug.plug(AutoModelForCausalLM.from_pretrained(source), "qlora")
    elif way == "read whole":
        model = AutoModelForCausalLM.from_pretrained(source)
        sum(float(one.sum()) for one in model.parameters())
    else:
        loaded = AutoModelForCausalLM.from_pretrained(f"{folder}/bfloat16", dtype=torch.float32)
        model = hfplug.plug(loaded, "qlora")
    done.set()
    watch.join()
    found = {"peak": max(seen) - before, "end": resident() - before}
    del model
    return found


def tiny() -> Any:
    """The configuration of a very small Llama."""
    from transformers import LlamaConfig

    return LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)


def resident() -> int:
    """Bytes that this process holds in memory, those of mapped files included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
