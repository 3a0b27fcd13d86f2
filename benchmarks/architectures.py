"""Every method on every text architecture of the installed transformers, as tiny models with random weights.

    python benchmarks/architectures.py --json sweep.jsonl --markdown docs/architectures.md
    python benchmarks/architectures.py --methods lora,ia3 --only t5,mamba-causal
    python benchmarks/architectures.py --json sweep.jsonl --tasks further --methods lora,norms
    python benchmarks/architectures.py --json sweep.jsonl --markdown docs/architectures.md --from-json

The tasks are causal language models, sequence to sequence and sequence classification, which bring every backbone;
--tasks further asks for other heads on them (token classification, question answering, masked words, multiple choice).
For each pair of model type and task a child process makes the model (hfplug.testing.tiny_models), and asks of each
method (hfplug.testing.architectures): does it train, with a gradient on each trainable tensor and on no other; is it
the same after saving and loading, and no larger than what was trained; does it write; is it the same merged; and is it
the base when switched off. A line of JSON for each pair and method says how that ended: "works", "refused" (hfplug says
why not), "wrong", "crash", or "base" (it does not train by itself either, on text alone or at all). With --json the
lines go to a file, and pairs that are in it already are not run again. The children are forked after torch and the rest
are imported, so this runs on Linux only.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import peft
import torch
import transformers

import hfplug
from hfplug.testing.architectures import as_line, check_base, check_method, save_base
from hfplug.testing.tiny_models import FURTHER_TASKS, TASKS, Pair, all_pairs

SECONDS, BYTES = 90, 8 << 30
ENDS = ("works", "refused", "wrong", "crash", "base")
# What --tasks takes: the three tasks that bring every backbone, further heads on the same backbones, or both.
SELECTIONS = {"first": TASKS, "further": FURTHER_TASKS, "all": {**TASKS, **FURTHER_TASKS}}
HEADER = "| method | pairs | works | refused | wrong | crash | base | matrices adapted | in 4 bits |"


class TooLong(Exception):
    """A method took longer than it may."""


def run_pair(pair: Pair, methods: list[str], say: Any) -> None:
    """Ask every method of one architecture; ``say`` takes each line."""
    signal.signal(signal.SIGALRM, _too_long)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        signal.alarm(SECONDS)
        try:
            save_base(pair.model_type, pair.task, base)
            by_itself = check_base(base, pair.task)
        except Exception as error:  # the finding
            by_itself = f"cannot be made: {type(error).__name__}: {error}"
        for method in methods:
            signal.alarm(SECONDS)
            started = time.perf_counter()
            line = ask(base, pair, method, Path(folder) / method, by_itself)
            line |= {"seconds": round(time.perf_counter() - started, 2)}
            say(line)
        signal.alarm(0)


def ask(base: Path, pair: Pair, method: str, scratch: Path, by_itself: str) -> dict[str, Any]:
    """One line: how a method ended on a base; ``by_itself`` says why the base does not train without one."""
    line: dict[str, Any] = {"pair": pair.name, "model_type": pair.model_type, "task": pair.task, "method": method}
    if by_itself:
        return line | {"end": "base", "said": by_itself}
    try:
        found = check_method(base, pair.task, method, scratch)
    except hfplug.HfplugError as error:  # what hfplug made itself and then does not load is a fault
        end = "refused" if isinstance(error, hfplug.MethodError) else "wrong"
        return line | {"end": end, "said": " ".join(str(error).split())}
    except Exception as error:  # whatever it raises is the finding
        frames = traceback.extract_tb(error.__traceback__)
        where = next((one for one in reversed(frames) if "/torch/" not in one.filename), frames[-1])
        said = (
            f"{type(error).__name__}: {' '.join(str(error).split())[:400]} ({Path(where.filename).name}:{where.lineno})"
        )
        return line | {"end": "crash", "said": said}
    return line | {"end": "wrong" if found.wrong else "works", "said": "; ".join(found.wrong)} | as_line(found)


def in_a_child(pair: Pair, methods: list[str]) -> Iterator[dict[str, Any]]:
    """The lines of one architecture, from a process of its own; a method that kills it is a crash."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        with os.fdopen(writing, "w") as out, open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
            run_pair(pair, methods, lambda line: print(json.dumps(line), file=out, flush=True))
        os._exit(0)
    os.close(writing)
    left = list(methods)
    with os.fdopen(reading) as lines:
        for text in lines:
            line = json.loads(text)
            left.remove(line["method"])
            yield line
    _, status = os.waitpid(child, 0)
    for method in left:
        line = {"pair": pair.name, "model_type": pair.model_type, "task": pair.task, "method": method}
        yield line | {"end": "crash", "said": f"the process ended with status {status}", "seconds": 0}


def markdown(everything: list[dict[str, Any]]) -> str:
    """The page of the results."""
    lines = [line for line in everything if line["task"] in TASKS]
    pairs = {line["pair"] for line in lines}
    text = [
        "# Methods on architectures",
        "",
        f"Every method on {len(pairs)} pairs of model type and task (causal language model, sequence to sequence,"
        f" sequence classification) of transformers {transformers.__version__} with PEFT {peft.__version__},"
        " as tiny models with random weights. Written by"
        " `python benchmarks/architectures.py --markdown docs/architectures.md`, whose first lines say what is asked.",
        "",
        "*pairs*: on how many of them a method was asked.",
        "",
        "*refused*: hfplug says in a sentence why it does not work. *wrong* and *crash* are faults that are not mended"
        " yet. *base*: the tiny base does not train without a method either, on text alone or at all. The two shares"
        " are of the numbers in all matrices but embeddings, the mean over the pairs that work.",
        "",
        HEADER,
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    text += counted(lines, ("method",))
    text += ["", "## What does not work, and why", "", "| method | how it ends | why | pairs |", "|---|---|---|---|"]
    text += reasons(lines, ("method",), "pair")
    further = [line for line in everything if line["task"] in FURTHER_TASKS]
    if further:
        text += _further_heads(further)
    text += ["", "## Pairs of which no model is made", "", "| pair | why |", "|---|---|"]
    text += [f"| {pair.name} | {pair.left_out} |" for pair in all_pairs() if pair.left_out]
    return "\n".join(text) + "\n"


def _further_heads(lines: list[dict[str, Any]]) -> list[str]:
    """The section of the tasks whose heads stand on the same backbones."""
    pairs = {line["pair"] for line in lines}
    return [
        "",
        "## Further heads",
        "",
        f"The same of {len(pairs)} pairs of model type and further task, on the same backbones. Of a task whose head is"
        " new the base is saved without it, so that it starts at random, and has to be trained, saved, and the same"
        " after loading; logits of tokens and of answers have to be as many as the text has tokens, under soft prompts"
        " too. Nothing is generated.",
        "",
        f"| task {HEADER}",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        *counted(lines, ("task", "method")),
        "",
        "| task | method | how it ends | why | model types |",
        "|---|---|---|---|---|",
        *reasons(lines, ("task", "method"), "model_type"),
    ]


def counted(lines: list[dict[str, Any]], by: tuple[str, ...]) -> list[str]:
    """Rows of a table: how the lines ended, for each value of the columns ``by``."""
    rows = []
    for key in dict.fromkeys(tuple(line[name] for name in by) for line in lines):
        own = [line for line in lines if tuple(line[name] for name in by) == key]
        ends = Counter(line["end"] for line in own)
        works = [line["figures"] for line in own if line["end"] == "works"]
        means = [sum(one[name] for one in works) / max(len(works), 1) for name in ("adapted", "four_bit")]
        counts = " | ".join(str(ends[end]) for end in ENDS)
        rows.append(f"| {_named(key)} | {len(own)} | {counts} | {means[0]:.0%} | {means[1]:.0%} |")
    return rows


def reasons(lines: list[dict[str, Any]], by: tuple[str, ...], names: str) -> list[str]:
    """Rows of a table: why what does not work does not, those of one reason in one row."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for line in lines:
        if line["end"] != "works":
            said = line["said"].replace(line["model_type"], "…") if line["end"] == "refused" else line["said"]
            key = tuple(line[name] for name in by)
            found.setdefault((key, line["end"], _short(said)), []).append(line[names])
    return [f"| {_named(key)} | {end} | {why} | {', '.join(told)} |" for (key, end, why), told in found.items()]


def _named(key: tuple[str, ...]) -> str:
    """The first cells of a row: a task in words, and a method as it is typed."""
    return " | ".join([*(one.replace("_", " ") for one in key[:-1]), f"`{key[-1]}`"])


def _short(said: str) -> str:
    """One cell of a table, without the folder that the base happened to lie in."""
    return re.sub(r"/\S*/base\b", "the base", " ".join(said.split())).replace("|", "/")[:200]


def _too_long(signum: int, frame: Any) -> None:
    raise TooLong(f"took more than {SECONDS} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(hfplug.method_names()))
    parser.add_argument("--tasks", choices=SELECTIONS, default="first", help="which tasks to run (default: first)")
    parser.add_argument("--only", help="model types or pairs (bert-causal), comma-separated")
    parser.add_argument("--json", type=Path, help="write a line for each pair and method to this file")
    parser.add_argument("--markdown", type=Path, help="write the page of the results to this file")
    parser.add_argument("--from-json", action="store_true", help="run nothing; make the page of what is in --json")
    words = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    lines = [json.loads(text) for text in words.json.read_text().splitlines()] if _there(words.json) else []
    done = {(line["pair"], line["method"]) for line in lines}
    only = set(words.only.split(",")) if words.only else None
    for pair in () if words.from_json else all_pairs(SELECTIONS[words.tasks]):
        if pair.left_out or (only is not None and not only & {pair.name, pair.model_type}):
            continue
        methods = [name for name in words.methods.split(",") if (pair.name, name) not in done]
        for line in in_a_child(pair, methods) if methods else ():
            lines.append(line)
            if line["end"] != "works":
                print(f"{line['pair']} {line['method']}: {line['end']}: {line['said'][:200]}", flush=True)
            if words.json is not None:
                with words.json.open("a") as out:
                    out.write(json.dumps(line) + "\n")
    ends = Counter((line["method"], line["end"]) for line in lines)
    for method in dict.fromkeys(line["method"] for line in lines):
        print(f"{method}: " + ", ".join(f"{ends[method, end]} {end}" for end in ENDS))
    if words.markdown is not None:
        words.markdown.parent.mkdir(exist_ok=True)
        words.markdown.write_text(markdown(lines))


def _there(path: Path | None) -> bool:
    return path is not None and path.is_file()


if __name__ == "__main__":
    sys.exit(main())
