"""hfplug plan: what training takes with each method on a base, before a weight is loaded."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from hfplug.cli.method_flags import add_method_flags, method_words, methods_from
from hfplug.cli.parser import add_flag
from hfplug.methods import method_names

DESCRIPTION = """\
Plan the memory of training: weights, gradients, optimiser states, activations and temporary buffers of every method,
and the largest batch that fits. Of the base its configuration is read and the headers of its weights, so a base that
is far too large for this machine can be planned here. Tensors are counted: what a GPU's driver and the gaps of its
allocator take comes on top, and a tenth of the device is left for it.

  hfplug plan google/flan-t5-base --batch 8 --length 512 --target-length 128 --memory 24GB
  hfplug plan ./llama-70b --methods lora,qlora --memory A100-80GB --gradient-checkpointing --plot plan.png
  hfplug plan ./my-base --optimizer adafactor --tasks 50 --json
  hfplug plan ./my-base --methods lora --probe           two real steps, and how far off the plan was"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the words and flags of this command."""
    parser.add_argument("base", metavar="BASE", help="repo id, or a folder; its config.json is enough")
    add_flag(parser, "methods", metavar="NAMES", help="with commas between them (default: all)")
    add_flag(parser, "batch", type=int, default=8, help="rows a forward pass (default: 8)")
    add_flag(parser, "length", type=int, default=512, help="tokens of an input (default: 512)")
    add_flag(
        parser, "target_length", type=int, default=128, help="tokens of an encoder-decoder's target (default: 128)"
    )
    add_flag(parser, "dtype", default="auto", help="of the weights: auto, float32, bfloat16 or float16")
    add_flag(
        parser, "optimizer", default="adamw_torch_fused", help="as TrainingArguments' optim (default: its default)"
    )
    add_flag(parser, "gradient_checkpointing", action="store_true", help="compute activations again instead of keeping")
    add_flag(parser, "accumulation", type=int, default=1, help="batches an optimiser step (default: 1)")
    add_flag(
        parser, "memory", metavar="SIZE|GPU", help="24GB, 24GiB, or a name: A100-80GB (default: what is free here)"
    )
    add_flag(parser, "tasks", type=int, default=10, help="for how many tasks the whole is given (default: 10)")
    add_flag(parser, "task_type", help="seq2seq, causal or classification (default: what the configuration says)")
    add_flag(parser, "revision", help="branch, tag or commit of the base")
    add_flag(
        parser, "probe", action="store_true", help="run two real steps of each method and correct the plan by them"
    )
    add_flag(parser, "json", action="store_true", help="print JSON")
    add_flag(parser, "plot", metavar="FILE", type=Path, help="draw stacked bars into FILE.png or FILE.svg")
    add_method_flags(parser)


def run(parsed: argparse.Namespace) -> int:
    """Plan, and print it."""
    from hfplug.models.memory_devices import find_device
    from hfplug.models.memory_method import StepSettings
    from hfplug.models.memory_plan import check_tasks, plan_memory
    from hfplug.models.memory_plot import check_plot_file, draw_plan
    from hfplug.models.memory_probe import probe_peak
    from hfplug.models.memory_table import plan_json, render_plan

    settings = StepSettings(
        batch=parsed.batch,
        length=parsed.length,
        target_length=parsed.target_length,
        dtype=parsed.dtype,
        optimizer=parsed.optimizer,
        checkpointing="on" if parsed.gradient_checkpointing else "off",
        accumulation=parsed.accumulation,
    )
    check_tasks(parsed.tasks)
    if parsed.plot is not None:
        check_plot_file(parsed.plot)
    names = method_words(parsed.methods, default=method_names())
    plan = plan_memory(
        parsed.base,
        methods_from(names, parsed),
        settings=settings,
        device=find_device(parsed.memory),
        task_type=parsed.task_type,
        revision=parsed.revision,
        probe=probe_peak(parsed.base, settings, task_type=parsed.task_type, revision=parsed.revision)
        if parsed.probe
        else None,
        say=lambda name: print(f"hfplug: {name} …", file=sys.stderr) if sys.stderr.isatty() else None,
    )
    if parsed.plot is not None:
        draw_plan(plan, parsed.plot)
    print(json.dumps(plan_json(plan, parsed.tasks), indent=1) if parsed.json else render_plan(plan, parsed.tasks))
    return 0
