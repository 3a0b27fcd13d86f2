"""A mixed batch against one adapter after the other: ``python benchmarks/mixed_batch.py [--base FOLDER]``.

For 2, 4 and 8 LoRA adapters, and for a short and a long prompt, the same rows (one for each adapter) are answered

* mixed: in one call of ``generate``, each row by its own adapter (``hfplug.serving.resident.Resident``);
* by PEFT: one model that holds all adapters, ``set_adapter`` and ``generate`` for one row after the other.

The two take turns, so that whatever else the machine does falls on both; printed is the median of the ratios of
neighbours, with its quartiles, above 1 where the mixed batch is faster; the same ratio of processor time, which says
more on a busy machine (set OMP_NUM_THREADS=1); and in how many rows the two gave the same tokens. At the end: what
a ``hfplug.Service`` with all the adapters decides by itself. The adapters have random weights.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
COUNTS = (2, 4, 8)
Answers = list[list[int]]


def main() -> None:
    """Make adapters, load both ways, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="folder of a base (default: the built-in T5)")
    parser.add_argument("--short", type=int, default=24, help="tokens of the short prompt (default: 24)")
    parser.add_argument("--long", type=int, default=384, help="tokens of the long prompt (default: 384)")
    parser.add_argument("--new", type=int, default=24, help="tokens of an answer (default: 24)")
    parser.add_argument("--rounds", type=int, default=7, help="pairs for each line (default: 7)")
    parser.add_argument("--rank", type=int, default=16, help="(default: 16)")
    parsed = parser.parse_args()

    from serving_memory import built_in_base, make_adapters, quiet

    quiet()
    base = parsed.base or built_in_base()
    with tempfile.TemporaryDirectory() as folder:
        make_adapters(base, Path(folder), max(COUNTS), parsed.rank)
        adapters = sorted(Path(folder).iterdir())
        mixed, apart = load_mixed(base, adapters, parsed.new), load_peft(base, adapters, parsed.new)
        print(f"{Path(base).name}, LoRA of rank {parsed.rank}, {parsed.new} new tokens, {parsed.rounds} pairs a line\n")
        print("adapters  prompt    mixed   by PEFT   ratio  (quartiles)      processor   same rows")
        for length in (parsed.short, parsed.long):
            for count in COUNTS:
                prompts = make_prompts(base, count, length)
                compare(mixed, apart, prompts, length, parsed.rounds)
        decide(base, adapters)


def make_prompts(base: str, count: int, length: int) -> Answers:
    """Different texts of the same length."""
    from transformers import AutoTokenizer

    from hfplug.demo.world import generate

    tokenizer = AutoTokenizer.from_pretrained(base)
    text = "\n".join(row["dialogue"] for row in generate("test", 60))
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return [ids[start * length : (start + 1) * length] for start in range(count)]


def load_mixed(base: str, adapters: list[Path], new: int) -> Callable[[Answers], Answers]:
    """Answers of rows in one pass."""
    import torch
    from transformers import GenerationConfig

    from hfplug.serving.resident import Resident

    resident = Resident.load(base, dtype="float32")
    for adapter in adapters:
        attached = resident.attach(adapter.name, adapter, verify="lock")
        assert attached.batching == "mixed", attached.batching_reason
    names = [adapter.name for adapter in adapters]

    def answer(prompts: Answers) -> Answers:
        with torch.inference_mode(), resident.ready(names[: len(prompts)], prompts) as ready:
            model: Any = ready.model
            config = GenerationConfig.from_dict({**model.generation_config.to_dict(), **greedy(new)})
            output = model.generate(**ready.inputs, generation_config=config)
        return output[:, -new:].tolist()

    return answer


def load_peft(base: str, adapters: list[Path], new: int) -> Callable[[Answers], Answers]:
    """Answers of the same rows, one adapter after the other, with PEFT alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

    from hfplug.models.base import read_task_type, resolve_base

    seq2seq = read_task_type(resolve_base(base).config) == "SEQ_2_SEQ_LM"
    auto: Any = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    plain = auto.from_pretrained(base, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(plain, adapters[0], adapter_name=adapters[0].name).eval()
    for adapter in adapters[1:]:
        model.load_adapter(adapter, adapter_name=adapter.name)
    config = GenerationConfig.from_dict({**model.generation_config.to_dict(), **greedy(new)})

    def answer(prompts: Answers) -> Answers:
        found = []
        for adapter, prompt in zip(adapters, prompts, strict=False):
            model.set_adapter(adapter.name)
            ids = torch.tensor([prompt])
            with torch.inference_mode():
                output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
            found.append(output[0, -new:].tolist())
        return found

    return answer


def greedy(new: int) -> dict[str, Any]:
    """Settings that make every answer as long as the others."""
    return {"max_new_tokens": new, "min_new_tokens": new, "max_length": None, "do_sample": False, "num_beams": 1}


def compare(
    mixed: Callable[[Answers], Answers],
    apart: Callable[[Answers], Answers],
    prompts: Answers,
    length: int,
    rounds: int,
) -> None:
    """Take turns and print a line."""
    times: dict[str, list[float]] = {"mixed": [], "apart": []}
    busy = {"mixed": 0.0, "apart": 0.0}
    # The first turn warms up, and is the one whose tokens are compared.
    same = sum(one == other for one, other in zip(mixed(prompts), apart(prompts), strict=True))
    for turn in range(rounds):
        order = (("mixed", mixed), ("apart", apart))
        for name, answer in order if turn % 2 == 0 else order[::-1]:
            began, used = time.perf_counter(), time.process_time()
            answer(prompts)
            times[name].append(time.perf_counter() - began)
            busy[name] += time.process_time() - used
    ratios = [slow / fast for fast, slow in zip(times["mixed"], times["apart"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    used_less = busy["apart"] / busy["mixed"]
    one, other = (statistics.median(times[name]) for name in ("mixed", "apart"))
    print(
        f"{len(prompts):>8}  {length:>6}  {one:>6.2f} s {other:>7.2f} s"
        f"  {middle:>5.2f}   ({low:.2f} to {high:.2f})   {used_less:>9.2f}   {same} of {len(prompts)}",
        flush=True,
    )


def decide(base: str, adapters: list[Path]) -> None:
    """What a service takes when it is left to itself."""
    import hfplug

    with hfplug.Service(base, dtype="float32") as service:
        for adapter in adapters:
            service.load(adapter.name, adapter)
        decision = service.batching_decision
    print(f"\nA service takes {decision.mode}: {decision.reason}")


if __name__ == "__main__":
    main()
