"""The preflight: what would waste a night is looked for in the seconds before the first step.

It runs where everything is real: inside ``trainer.train()``, with the script's model, rows and collator. Nothing is
left changed: weights, random numbers, gradients and modes are put back.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from hfplug.errors import HfplugError, TrainingError
from hfplug.training import preflight_data, preflight_model, preflight_saving, preflight_setup
from hfplug.training.preflight_sample import Sample, take_sample
from hfplug.training.preflight_trace import nothing_changed

logger = logging.getLogger(__name__)

VERDICTS = ("ok", "skipped", "note", "warning", "error")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check came to.

    Attributes:
        check: The check's name.
        verdict: One of :data:`VERDICTS`.
        saw: What it saw, with numbers.
        fix: What to do, or empty.
        seconds: What it cost.
    """

    check: str
    verdict: str
    saw: str
    fix: str
    seconds: float


class Examined(SystemExit):
    """Leaves the script after the preflight, where nothing is to be trained."""


class Preflight:
    """Runs every check on a Trainer that is about to train.

    Args:
        mode: ``"warn"`` says what is wrong and stops only for what cannot work; ``"only"`` says everything and
            leaves the script instead of training.
        as_json: ``"on"`` prints the findings as JSON.
        out: Where to print them; the standard output if None.
    """

    def __init__(self, *, mode: str = "warn", as_json: str = "off", out: TextIO | None = None) -> None:
        self.mode = mode
        self.as_json = as_json
        self.out = out
        self._examined: weakref.WeakSet[Any] = weakref.WeakSet()

    def __call__(self, trainer: Any) -> None:
        if trainer in self._examined and self.mode != "only":  # it trains again, say in a search
            return
        self._examined.add(trainer)
        started = time.perf_counter()
        findings = examine(trainer)
        seconds = time.perf_counter() - started
        first = trainer.is_world_process_zero()
        if self.mode == "only":
            if first:
                out = self.out if self.out is not None else sys.stdout
                print(report(findings, as_json=self.as_json), file=out, flush=True)
            raise Examined(1 if any(one.verdict == "error" for one in findings) else 0)
        for one in findings:
            if one.verdict == "warning" and first:
                logger.warning("preflight, %s: %s", one.check, f"{one.saw} {one.fix}".strip())
        errors = [one for one in findings if one.verdict == "error"]
        if errors:
            rest = f" ({len(errors) - 1} more: {', '.join(one.check for one in errors[1:])})" if len(errors) > 1 else ""
            raise TrainingError(f"preflight, {errors[0].check}: {errors[0].saw}{rest}", fix=errors[0].fix or None)
        if first:
            logger.info("preflight: %d checks in %.1f s.", len(findings), seconds)


def examine(trainer: Any) -> list[Finding]:
    """Run every check.

    Args:
        trainer: A Trainer whose model has a method on it.

    Returns:
        What each came to, in the order in which they ran.
    """
    findings = []
    with nothing_changed(trainer):
        sample = take_sample(trainer)
        for check in CHECKS:
            findings.append(_timed(check, trainer, sample))
    return findings


def report(findings: list[Finding], *, as_json: str = "off") -> str:
    """The findings as a table for people, or as JSON.

    Args:
        findings: From :func:`examine`.
        as_json: ``"on"`` or ``"off"``.
    """
    if as_json == "on":
        return json.dumps([asdict(one) for one in findings], indent=1)
    width = max((len(one.check) for one in findings), default=0)
    lines = []
    for one in findings:
        lines.append(f"{one.verdict:<8}{one.check:<{width}}  {one.saw}  ({one.seconds:.2f} s)")
        if one.fix:
            lines.append(f"{'':<8}{'':<{width}}  -> {one.fix}")
    return "\n".join(lines)


Check = Callable[[Any, Sample], tuple[str, str, str]]

# In this order: what is cheap first, and what needs a pass through the model last.
CHECKS: tuple[Check, ...] = (
    preflight_setup.learning_rate,
    preflight_setup.half_precision,
    preflight_setup.four_bit_arithmetic,
    preflight_setup.sharding,
    preflight_setup.checkpoints,
    preflight_data.input_positions,
    preflight_data.truncated_inputs,
    preflight_data.unmasked_labels,
    preflight_model.trains_what_is_saved,
    preflight_model.saved_head,
    preflight_model.saved_embedding,
    preflight_model.adapter_size,
    preflight_model.gradients,
    preflight_model.output_lengths,
    preflight_model.loss_counting,
    preflight_model.peak_memory,
    preflight_saving.survives_saving,
)


def _timed(check: Check, trainer: Any, sample: Sample) -> Finding:
    name = check.__name__.replace("_", " ")
    started = time.perf_counter()
    try:
        verdict, saw, fix = check(trainer, sample)
    except HfplugError as error:
        verdict, saw, fix = "error", error.message, error.fix or ""
    except Exception as error:  # a check must not stop a run that might well work
        reason = (str(error).strip().splitlines() or [""])[0]
        verdict, saw, fix = "skipped", f"{type(error).__name__}: {reason}"[:300], ""
        logger.debug("preflight check %s failed", name, exc_info=sys.exc_info())
    return Finding(check=name, verdict=verdict, saw=saw, fix=fix, seconds=time.perf_counter() - started)
