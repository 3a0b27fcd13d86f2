"""How the learning rates of the demo were chosen: ``python benchmarks/demo_rates.py --method lora 2e-3 5e-3 1e-2``.

Trains one method of the demo at each rate and scores it on the validation dialogues, which the demo itself neither
trains on nor scores. Prints ROUGE-1, -2 and -L and the seconds of training.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import hfplug
from hfplug.cli.main import quieten_transformers
from hfplug.demo.run import demo_settings


def main() -> None:
    """Try every rate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="lora")
    parser.add_argument("--task", default="summary")
    parser.add_argument("--epochs", type=float, help="instead of the demo's")
    parser.add_argument("rates", nargs="+", type=float)
    flags = parser.parse_args()
    quieten_transformers()
    for rate in flags.rates:
        with tempfile.TemporaryDirectory() as folder:
            settings = demo_settings(Path(folder), methods=[flags.method], task=flags.task)
            changes = {"epochs": flags.epochs} if flags.epochs else {}
            settings = dataclasses.replace(
                settings, eval_split="validation", learning_rates={flags.method: rate}, **changes
            )
            report = hfplug.run_study(settings)
            tuned, base = report.variant(flags.method), report.variant("base")
        scores = "  ".join(
            f"{name} {100 * tuned.metrics[name].value:5.1f} (base {100 * base.metrics[name].value:4.1f})"
            for name in ("rouge1", "rouge2", "rougeL")
        )
        print(f"{flags.method} {rate:g}: {scores}  {tuned.training_seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
