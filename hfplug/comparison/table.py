"""The tables of a report: quality, tests and the five trade-offs, as text, as Markdown, or for the page.

Each table is built once, as cells of text with a sentence that explains each column (:func:`tables`); how it
is drawn is another matter. What was not measured is an en dash.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from hfplug.comparison.quantities import (
    NOT_MEASURED,
    count,
    memory,
    memory_parts,
    number,
    p_value,
    points,
    seconds,
    share,
)
from hfplug.comparison.rouge import METRIC_LABELS, METRICS
from hfplug.comparison.variants import Metric, Report, TestResult, Variant

DEFAULT_WIDTH = 120
_LONGEST_NAME = 24


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its heading (which may have a line break), what it measures and in which unit, and the side
    on which its cells stand."""

    heading: str
    note: str = ""
    side: Literal["left", "right"] = "right"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text: ``cells[row][column]``; the first column names the variant."""

    title: str
    columns: tuple[Column, ...]
    cells: tuple[tuple[str, ...], ...]
    note: str = ""


def tables(report: Report) -> tuple[Table, Table, Table]:
    """The tables of a report: quality, paired tests, trade-offs; a row for each variant, in its order."""
    return quality_table(report), paired_tests_table(report), trade_off_table(report)


def quality_table(report: Report) -> Table:
    """ROUGE with intervals, points against the base, and the p-value against full tuning."""
    metrics = _metrics_of(report)
    scores = [
        Column(
            heading=METRIC_LABELS.get(metric, metric),
            note="F1 by rouge_score with stemming, times 100: mean over the references of each dialogue, "
            "then over dialogues, and the 95 % bootstrap interval over dialogues.",
        )
        for metric in metrics
    ]
    last = [
        Column(
            heading="points against base\n" + " ".join(_short(metric) for metric in metrics),
            note="Absolute improvement over the untouched base, in points of ROUGE.",
        ),
        Column(
            heading="p against\n" + ", ".join(("full", *(_short(metric) for metric in metrics[:1]))),
            note="Two-sided paired permutation test of the first score over the same dialogues: how often "
            "chance alone gives so large a difference. Not corrected for the number of comparisons.",
        ),
    ]
    cells = tuple(
        (
            variant.name,
            *(_score(variant.metrics.get(metric)) for metric in metrics),
            _improvement(variant, metrics),
            _p_against_full(variant, metrics),
        )
        for variant in report.variants
    )
    rows = report.data.eval_rows
    return Table(
        title="Quality",
        columns=(_NAME, *scores, *last),
        cells=cells,
        note="ROUGE x 100 with its 95 % interval" + (f", {rows} dialogues" if rows else ""),
    )


def paired_tests_table(report: Report) -> Table:
    """Every paired test there is: points of difference with interval and p-value, against base and full tuning."""
    metrics = _metrics_of(report)
    said = {"base": "the untouched base", "full": "full tuning"}
    others = [other for other in said if any(other in variant.tests for variant in report.variants)]
    columns = [_NAME]
    for other in others:
        columns += [
            Column(
                heading=f"{_short(metric)} against {other}",
                note=f"Points above (+) or below (−) {said[other]} on the same dialogues, the 95 % interval of "
                "that difference, and the two-sided p-value of a paired permutation test.",
            )
            for metric in metrics
        ]
    cells = tuple(
        (
            variant.name,
            *(_difference(_test(variant, other, metric)) for other in others for metric in metrics),
        )
        for variant in report.variants
        if variant.tests
    )
    return Table(
        title="Paired tests",
        columns=tuple(columns),
        cells=cells,
        note="Points of difference [95 % interval], p-value",
    )


def trade_off_table(report: Report) -> Table:
    """The five trade-offs: parameters, memory and disk, speed of training, cost of answering."""
    cells = tuple((variant.name, *(cell(variant) for _, cell in _TRADE_OFFS)) for variant in report.variants)
    return Table(
        title="Trade-offs",
        columns=(_NAME, *(column for column, _ in _TRADE_OFFS)),
        cells=cells,
        note="MB is 1,000,000 bytes; k, M and G count thousands, millions and thousand millions" + _plan_error(report),
    )


def render_table(report: Report, *, width: int | None = None) -> str:
    """The quality and trade-off tables as text for a terminal.

    Args:
        report: The report.
        width: Characters a line may have; a table that is wider is broken into several, each with the
            variant's name. None means 120.

    Returns:
        Lines without colour codes, ending in a line break.
    """
    blocks = [
        block
        for table in (quality_table(report), trade_off_table(report))
        for block in _fit(table, width or DEFAULT_WIDTH)
    ]
    return "\n\n".join(blocks) + "\n"


def render_markdown(report: Report) -> str:
    """All tables of a report as Markdown, each followed by what its columns mean."""
    return "\n".join(_markdown(table) for table in tables(report) if table.cells)


# An underscore inside a word and a "<" before a number mean nothing in Markdown and stay readable.
_MARKUP = re.compile(r"[\\`*\[\]#|~]|<(?=[A-Za-z/!?])|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")
_NAME = Column(heading="variant", side="left")


def _parts(variant: Variant) -> str:
    parts = variant.training_memory
    if parts is None:
        return NOT_MEASURED
    return memory_parts((parts.weights, parts.gradients, parts.optimizer_states, parts.rest))


def _plan_error(report: Report) -> str:
    """How far the predicted peaks are from the measured ones, at most; empty if nothing was predicted."""
    off = [
        abs(variant.predicted_peak_bytes / variant.peak_training_bytes - 1)
        for variant in report.variants
        if variant.predicted_peak_bytes and variant.peak_training_bytes
    ]
    return f";\nthe memory plan's peaks were off by at most {share(max(off))}" if off else ""


def _trainable(variant: Variant) -> str:
    if variant.trainable_parameters is None:
        return NOT_MEASURED
    of_all = "" if variant.trainable_share is None else f" {share(variant.trainable_share)}"
    return count(variant.trainable_parameters) + of_all


def _on_disk(variant: Variant) -> str:
    if variant.adapter_bytes is None:
        return NOT_MEASURED
    full = "" if variant.full_copy_bytes is None else f" / {memory(variant.full_copy_bytes)}"
    return memory(variant.adapter_bytes) + full


_TRADE_OFFS: tuple[tuple[Column, Callable[[Variant], str]], ...] = (
    (
        Column(
            heading="trainable\nparameters",
            note="Numbers that training may change, and their share of all parameters of the model.",
        ),
        _trainable,
    ),
    (
        Column(
            heading="on disk /\na full copy",
            note="Bytes of the adapter's weights, and of a full copy of the model that it stands in for.",
        ),
        _on_disk,
    ),
    (
        Column(heading="peak\nmemory", note="Most bytes held at once while training, summed from the parts."),
        lambda variant: memory(variant.peak_training_bytes),
    ),
    (
        Column(
            heading="weights+gradients\n+optimiser+rest",
            note="The parts of the peak; the rest is mostly activations kept for the backward pass.",
        ),
        _parts,
    ),
    (
        Column(heading="s/step", note="Seconds for one optimiser step, steps of warm-up left out."),
        lambda variant: seconds(variant.seconds_per_step),
    ),
    (
        Column(
            heading="train\ntokens/s",
            note="Tokens trained on in a second, padding not counted.",
        ),
        lambda variant: number(variant.real_tokens_per_second),
    ),
    (
        Column(
            heading="answer\ntokens/s",
            note="Tokens generated in a second while answering the evaluation rows.",
        ),
        lambda variant: number(variant.generated_tokens_per_second),
    ),
    (
        Column(heading="first\ntoken", note="Time from the prompt to the first token of the answer."),
        lambda variant: seconds(variant.first_token_seconds, unit=True),
    ),
)


def _metrics_of(report: Report) -> list[str]:
    """The metrics that any variant has: ROUGE in its usual order, then others as they come."""
    there = dict.fromkeys(metric for variant in report.variants for metric in variant.metrics)
    return [metric for metric in METRICS if metric in there] + [name for name in there if name not in METRICS]


def _short(metric: str) -> str:
    return METRIC_LABELS.get(metric, metric).replace("ROUGE-", "R")


def _test(variant: Variant, other: str, metric: str) -> TestResult | None:
    return variant.tests.get(other, {}).get(metric)


def _score(metric: Metric | None) -> str:
    if metric is None:
        return NOT_MEASURED
    return f"{100 * metric.value:.1f} {100 * metric.low:.1f}–{100 * metric.high:.1f}"


def _improvement(variant: Variant, metrics: Sequence[str]) -> str:
    if not variant.improvement:
        return NOT_MEASURED
    return " ".join(points(variant.improvement.get(metric)) for metric in metrics)


def _p_against_full(variant: Variant, metrics: Sequence[str]) -> str:
    test = _test(variant, "full", metrics[0]) if metrics else None
    return p_value(test.p_value if test else None)


def _difference(test: TestResult | None) -> str:
    if test is None:
        return NOT_MEASURED
    low, high = points(100 * test.low), points(100 * test.high)
    return f"{points(100 * test.difference)} [{low}, {high}], p {p_value(test.p_value, sign=True)}"


def _fit(table: Table, width: int) -> list[str]:
    """The table as text, cut into as many blocks of columns as the width asks for."""
    wide = []
    for at, column in enumerate(table.columns):
        texts = [*column.heading.split("\n"), *(_in_text(row, at) for row in table.cells)]
        wide.append(max(map(_columns, texts)))
    groups: list[list[int]] = [[]]
    room = width - wide[0]
    for at in range(1, len(table.columns)):
        if groups[-1] and room < wide[at] + 2:
            groups.append([])
            room = width - wide[0]
        groups[-1].append(at)
        room -= wide[at] + 2
    blocks = []
    for number_of_block, group in enumerate(groups):
        title = f"{table.title} ({table.note})" if number_of_block == 0 and table.note else table.title
        title += " (continued)" if number_of_block else ""
        blocks.append("\n".join((title, *_draw(table, [0, *group], wide))))
    return blocks


def _draw(table: Table, columns: Sequence[int], wide: Sequence[int]) -> list[str]:
    """Lines of some columns of a table: headings at the bottom of their cell, a rule, the rows."""
    headings = [table.columns[at].heading.split("\n") for at in columns]
    height = max(len(heading) for heading in headings)
    lines = [[([""] * (height - len(heading)) + heading)[level] for heading in headings] for level in range(height)]
    lines.append(["─" * wide[at] for at in columns])
    lines += [[_in_text(row, at) for at in columns] for row in table.cells]

    def aligned(text: str, at: int) -> str:
        space = " " * (wide[at] - _columns(text))
        return text + space if table.columns[at].side == "left" else space + text

    return ["  ".join(aligned(text, at) for text, at in zip(line, columns, strict=True)).rstrip() for line in lines]


def _one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _in_text(row: Sequence[str], at: int) -> str:
    """A cell for the terminal: a long name is cut, so that the numbers keep their room."""
    text = _one_line(row[at])
    return text if at or len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes: letters of East Asia take two."""
    return len(text) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)


def _markdown(table: Table) -> str:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(escape_markdown(cell) for cell in cells) + " |"

    lines = [f"### {table.title}", ""]
    lines += [f"{table.note[0].upper()}{table.note[1:]}.", ""] if table.note else []
    lines.append(row([column.heading for column in table.columns]))
    lines.append("|" + "|".join(" :-- " if column.side == "left" else " --: " for column in table.columns) + "|")
    lines += [row(cells) for cells in table.cells]
    lines.append("")
    lines += [f"- {headings}: {note}" for headings, note in explained(table)]
    return "\n".join([*lines, ""])


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _one_line(_MARKUP.sub(r"\\\g<0>", text))


def explained(table: Table) -> list[tuple[str, str]]:
    """Pairs of headings and note; columns with the same note share one line."""
    by_note: dict[str, list[str]] = {}
    for column in table.columns:
        if column.note:
            by_note.setdefault(column.note, []).append(_one_line(column.heading))
    return [(", ".join(headings), note) for note, headings in by_note.items()]
