"""What reading a very large model's anatomy takes: ``python benchmarks/anatomy_70b.py``.

For three shapes of configuration (Llama 70B, Mixtral 8x22B, DeepSeek-V3), each in a process of its own that has read a
tiny model before: the seconds of `hfplug anatomy`, by the clock and of the processor (which a busy machine does not
stretch), and the MB by which the process's peak grew.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from transformers import DeepseekV3Config, LlamaConfig, MixtralConfig

from hfplug.models.anatomy_tree import anatomy_tree

_LLAMA = {"vocab_size": 128256, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}
_MIXTRAL = {"vocab_size": 32768, "hidden_size": 6144, "intermediate_size": 16384, "num_hidden_layers": 56}
_TINY = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
SHAPES = {
    "tiny": LlamaConfig(architectures=["LlamaForCausalLM"], **_TINY),
    "Llama 70B": LlamaConfig(
        architectures=["LlamaForCausalLM"], num_attention_heads=64, num_key_value_heads=8, **_LLAMA
    ),
    "Mixtral 8x22B": MixtralConfig(
        architectures=["MixtralForCausalLM"], num_attention_heads=48, num_key_value_heads=8, **_MIXTRAL
    ),
    "DeepSeek-V3": DeepseekV3Config(architectures=["DeepseekV3ForCausalLM"]),
}


def read(name: str) -> dict[str, float]:
    """Read one shape, and say how long it took."""
    with tempfile.TemporaryDirectory() as folder:
        SHAPES[name].save_pretrained(folder)
        start, used = time.perf_counter(), time.process_time()
        tree = anatomy_tree(Path(folder))
        times = {"seconds": time.perf_counter() - start, "processor": time.process_time() - used}
        return {**times, "parameters": tree.parameters}


def main() -> None:
    """Print a line a shape."""
    if len(sys.argv) > 1:
        read("tiny")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = read(sys.argv[1])
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(json.dumps({**found, "megabytes": grown}))
        return
    for name in list(SHAPES)[1:]:
        out = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True).stdout
        found = json.loads(out.splitlines()[-1])
        times = f"{found['seconds']:.2f} s ({found['processor']:.2f} s of the processor)"
        print(f"{name}: {found['parameters']:,} parameters, {times}, {found['megabytes']:.0f} MB")


if __name__ == "__main__":
    main()
