"""The third tab: the five trade-offs of tuning, each explained with the numbers of this Space's own study.

A sentence states what was measured and no more. Where an interval or a test leaves a question open, it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfplug.comparison.drawing import series_of
from hfplug.comparison.quantities import count, memory, number, p_value, points, seconds, share
from hfplug.comparison.rouge import METRIC_LABELS, METRICS
from hfplug.space.look_inside import look_inside_html
from hfplug.space.soft_prompts import soft_prompts_html
from hfplug.space.study_tab import no_study_html
from hfplug.space.view import escaped

if TYPE_CHECKING:
    from hfplug.comparison.variants import Report, Variant
    from hfplug.space.opened import OpenSpace


@dataclass(frozen=True, kw_only=True)
class TradeOff:
    """One trade-off: what it is, what the study says, and a bar a variant.

    Attributes:
        title: E.g. ``"Parameter efficiency"``.
        what: What is traded for what, whatever the study says.
        found: Sentences made from the study's numbers; empty where nothing was measured.
        measure: What the bars show.
        value: The length of a variant's bar, or None.
        shown: The same as a person reads it.
    """

    title: str
    what: str
    found: Callable[[Report], list[str]]
    measure: str
    value: Callable[[Variant], float | None]
    shown: Callable[[Variant], str]


def tradeoffs_html(space: OpenSpace) -> str:
    """The tab: five sections, the words that soft prompts are near, and what the adapters hold."""
    report = space.report
    parts = [_section(trade_off, report) for trade_off in TRADE_OFFS]
    intro = (
        '<p class="hf-small">Figures are those of the study in the tab beside this one, on its data, base and machine. '
        "Another base or task has others.</p>"
        if report is not None
        else no_study_html(space)
    )
    return f"{intro}{''.join(parts)}{soft_prompts_html(space)}{look_inside_html(space)}"


def _section(trade_off: TradeOff, report: Report | None) -> str:
    sentences = trade_off.found(report) if report is not None else []
    bars = _bars(trade_off, report) if report is not None else ""
    return (
        f'<section class="hf-section"><h2>{trade_off.title}</h2><p>{trade_off.what}</p>'
        f"{''.join(f'<p>{escaped(sentence)}</p>' for sentence in sentences)}{bars}</section>"
    )


def _bars(trade_off: TradeOff, report: Report) -> str:
    """A bar a variant, on a common scale from 0; a number beside each, so that no length has to be judged."""
    rows = [(variant, value) for variant in report.variants if (value := trade_off.value(variant)) is not None]
    longest = max((value for _, value in rows), default=0)
    if not longest:
        return ""
    series = series_of(report)
    drawn = []
    for variant, value in rows:
        colour = f"--c: var(--series-{series[variant.name]});" if variant.name in series else ""
        drawn.append(
            f'<span>{escaped(variant.name)}</span><span aria-hidden="true"><span class="hf-bar" '
            f'style="{colour}width: {100 * value / longest:.2f}%"></span></span>'
            f"<span>{escaped(trade_off.shown(variant))}</span>"
        )
    return f'<p class="hf-small">{escaped(trade_off.measure)}</p><div class="hf-bars">{"".join(drawn)}</div>'


# ------------------------------------------------------------------------------------ what the study says


def _trained(report: Report) -> list[Variant]:
    return [variant for variant in report.variants if variant.kind in ("full", "adapter")]


def _adapters(report: Report) -> list[Variant]:
    return [variant for variant in report.variants if variant.kind == "adapter"]


def _full(report: Report) -> Variant | None:
    return next((variant for variant in report.variants if variant.kind == "full"), None)


def _parameters(report: Report) -> list[str]:
    found = []
    for variant in _adapters(report):
        if not variant.trainable_parameters or not variant.total_parameters:
            continue
        part = (
            f"{variant.name} trains {count(variant.trainable_parameters)} of {count(variant.total_parameters)} numbers"
        )
        if variant.trainable_share is not None:
            part += f" ({share(variant.trainable_share)})"
        if variant.adapter_bytes and variant.full_copy_bytes:
            times = variant.full_copy_bytes / variant.adapter_bytes
            part += (
                f"; what has to be kept is {memory(variant.adapter_bytes)} instead of a copy of "
                f"{memory(variant.full_copy_bytes)}, {number(times)} times less"
            )
        found.append(f"{part}.")
    return found


def _memory(report: Report) -> list[str]:
    full, found = _full(report), []
    for variant in _adapters(report):
        if not variant.peak_training_bytes or full is None or not full.peak_training_bytes:
            continue
        part = (
            f"{variant.name} needs {memory(variant.peak_training_bytes)} at its peak, "
            f"{share(variant.peak_training_bytes / full.peak_training_bytes)} of what full tuning needs "
            f"({memory(full.peak_training_bytes)})"
        )
        own, others = _optimizing(variant), _optimizing(full)
        if own is not None and others is not None:
            less = "less" if others > own else "more"
            part += f"; {memory(abs(others - own))} {less} for gradients and optimiser states"
        if variant.training_memory and variant.training_memory.rest:
            part += f"; {memory(variant.training_memory.rest)} are mostly activations, which no adapter saves"
        found.append(f"{part}.")
    return found


def _optimizing(variant: Variant) -> int | None:
    """Bytes of gradients and optimiser states."""
    parts = variant.training_memory
    if parts is None or parts.gradients is None or parts.optimizer_states is None:
        return None
    return parts.gradients + parts.optimizer_states


def _quality(report: Report) -> list[str]:
    metric = next((name for name in METRICS if any(name in v.metrics for v in report.variants)), None)
    if metric is None:
        return []
    label, found = METRIC_LABELS[metric], []
    for variant in _trained(report):
        if metric not in variant.metrics:
            continue
        score = variant.metrics[metric]
        part = f"{variant.name}: {label} {100 * score.value:.1f} ({100 * score.low:.1f}–{100 * score.high:.1f})"
        for other, words in (("base", "the base"), ("full", "full tuning")):
            test = variant.tests.get(other, {}).get(metric)
            if test is None:
                continue
            low, high = points(100 * test.low), points(100 * test.high)
            part += f"; {points(100 * test.difference)} points against {words} ({low} to {high}, p {_p(test.p_value)})"
            if test.low <= 0 <= test.high:
                part += ", which this many dialogues cannot tell from no difference"
        found.append(f"{part}.")
    return found


def _inference(report: Report) -> list[str]:
    base = next((variant for variant in report.variants if variant.kind == "base"), None)
    found = []
    for variant in _trained(report):
        if not variant.generated_tokens_per_second:
            continue
        part = f"{variant.name} answers with {number(variant.generated_tokens_per_second)} tokens a second"
        if variant.first_token_seconds:
            part += f", the first after {seconds(variant.first_token_seconds, unit=True)}"
        if base is not None and base.first_token_seconds and variant.first_token_seconds:
            part += f" (the base: {seconds(base.first_token_seconds, unit=True)})"
        found.append(f"{part}.")
    lengths = [variant.mean_generated_tokens for variant in report.variants if variant.mean_generated_tokens]
    if len(lengths) > 1 and max(lengths) > 1.3 * min(lengths):
        found.append(
            f"Answers differ in length (on average {number(min(lengths))} to {number(max(lengths))} tokens), and a "
            "batch lasts as long as its longest answer: compare tokens a second between variants of like length only."
        )
    return found


def _speed(report: Report) -> list[str]:
    full, found = _full(report), []
    for variant in _adapters(report):
        if not variant.seconds_per_step or full is None or not full.seconds_per_step:
            continue
        own, others = seconds(variant.seconds_per_step, unit=True), seconds(full.seconds_per_step, unit=True)
        ratio = number(variant.seconds_per_step / full.seconds_per_step)
        part = f"A step of {variant.name} takes {own}, {ratio} times what one of full tuning takes ({others})"
        if variant.training_seconds and variant.steps:
            part += f"; {variant.steps} steps took {seconds(variant.training_seconds, unit=True)}"
        found.append(f"{part}.")
    return found


def _p(value: float) -> str:
    return p_value(value, sign=True)


def _first_score(variant: Variant) -> float | None:
    metric = next((name for name in METRICS if name in variant.metrics), None)
    return variant.metrics[metric].value if metric else None


TRADE_OFFS: Sequence[TradeOff] = (
    TradeOff(
        title="Parameter efficiency",
        what="How few numbers training may change, and so how little has to be kept for each task: one base and many "
        "small adapters, instead of a copy of the whole model each.",
        found=_parameters,
        measure="Bytes to keep for one task",
        value=lambda variant: variant.adapter_bytes,
        shown=lambda variant: memory(variant.adapter_bytes),
    ),
    TradeOff(
        title="Memory efficiency",
        what="What training holds in memory at its peak: weights, gradients, optimiser states, and activations. Fewer "
        "trained numbers make gradients and optimiser states small; 4-bit weights make the weights small; activations "
        "stay, because the error still runs back through the whole model.",
        found=_memory,
        measure="Peak memory while training",
        value=lambda variant: variant.peak_training_bytes,
        shown=lambda variant: memory(variant.peak_training_bytes),
    ),
    TradeOff(
        title="Model performance",
        what="How good the answers are, on dialogues that nobody trained on. Beside each score stands its 95 % "
        "interval, and beside each difference a paired test on the same dialogues.",
        found=_quality,
        measure="ROUGE-1 x 100",
        value=_first_score,
        shown=lambda variant: number(100 * (_first_score(variant) or 0)),
    ),
    TradeOff(
        title="Inference cost",
        what="What an answer costs. An adapter beside the weights is work at every token, unless it is merged into "
        "them; a soft prompt makes every input longer; 4-bit weights are unpacked at every use.",
        found=_inference,
        measure="Time to the first token",
        value=lambda variant: variant.first_token_seconds,
        shown=lambda variant: seconds(variant.first_token_seconds, unit=True),
    ),
    TradeOff(
        title="Training speed",
        what="How long a step takes. Fewer trained numbers save the arithmetic of their gradients and the optimiser's "
        "step, not the way there and back through the model.",
        found=_speed,
        measure="Seconds for one step",
        value=lambda variant: variant.seconds_per_step,
        shown=lambda variant: seconds(variant.seconds_per_step, unit=True),
    ),
)
