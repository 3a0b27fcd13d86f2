"""How far the logits of one model move between number formats, and how far those of another model are away.

The tolerances of hfplug/adapters/probe.py stand between the two. Each line is the largest difference of a probe, as a
share of the root mean square of the logits.

    python benchmarks/probe_tolerances.py [BASE ...]        # default: the built-in base
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import torch
from transformers import AutoTokenizer, BitsAndBytesConfig
from transformers.utils.logging import disable_progress_bar

from hfplug.adapters.probe import compare_probe, make_probe
from hfplug.demo.base import base_path
from hfplug.models.base import auto_class, read_task_type, resolve_base


def main() -> None:
    """Print one table a base."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", nargs="*", default=[str(base_path())])
    disable_progress_bar()
    for base in parser.parse_args().bases:
        measure(base)


def measure(base: str) -> None:
    """Print what happens to the probe of one base."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = load(base, dtype=torch.float32)
    begun = time.perf_counter()
    probe = make_probe(model, tokenizer)
    print(f"{base}\n  the probe took {time.perf_counter() - begun:.2f} s")
    show("float32, again", probe, model)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    show("float32, one thread", probe, model)
    torch.set_num_threads(threads)
    for name in ("eager", "sdpa"):
        show(f"float32, attention {name}", probe, load(base, dtype=torch.float32, attn_implementation=name))
    for dtype in (torch.bfloat16, torch.float16):
        show(f"{dtype} against float32", probe, load(base, dtype=dtype))
    half = load(base, dtype=torch.bfloat16)
    in_half = make_probe(half, tokenizer)
    show("bfloat16, attention eager", in_half, load(base, dtype=torch.bfloat16, attn_implementation="eager"))
    quantised = {name: four_bits(base, name) for name in ("float32", "bfloat16")}
    in_four = make_probe(quantised["float32"], tokenizer)
    show("4 bits, computed in bfloat16 against float32", in_four, quantised["bfloat16"])
    show("4 bits against float32", probe, quantised["float32"])
    for share in (1e-4, 1e-3, 1e-2, 1e-1):
        show(f"weights with {share:g} of their spread as noise", probe, noisy(load(base, dtype=torch.float32), share))
        show("  the same in bfloat16", in_half, noisy(load(base, dtype=torch.float32), share).to(torch.bfloat16))
    one = noisy(load(base, dtype=torch.float32), 0.05, only=1)
    show("one matrix with 0.05", probe, one)


def load(base: str, **kwargs: Any) -> Any:
    """The base in eval mode."""
    found = resolve_base(base)
    return auto_class(read_task_type(found.config)).from_pretrained(base, **kwargs).eval()  # type: ignore[attr-defined]


def four_bits(base: str, compute: str) -> Any:
    """The base in four bits."""
    from hfplug.models.quantize import settle_four_bit_layers

    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, compute)
    )
    model = load(base, quantization_config=settings, dtype=torch.float32)
    settle_four_bit_layers(model)
    return model


def noisy(model: Any, share: float, only: int | None = None) -> Any:
    """The model with noise on its matrices, as a share of the spread of each."""
    generator = torch.Generator().manual_seed(0)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    with torch.no_grad():
        for matrix in matrices if only is None else matrices[len(matrices) // 2 :][:only]:
            matrix.add_(torch.randn(matrix.shape, generator=generator) * matrix.std() * share)
    return model


def show(what: str, probe: dict[str, Any], model: Any) -> None:
    """One line."""
    result = compare_probe(probe, model)
    largest = "not finite" if math.isinf(result.largest) else f"{result.largest:.1e}"
    print(f"  {what:48} {largest:>10}   {result.verdict} ({result.basis}: {result.tolerance:g})")


if __name__ == "__main__":
    main()
