"""Every dialogue of a comparison on one page: the answers beside the references, with marks, wins and losses first.

The page opens without a network and needs no script to be read: all dialogues are in it, the largest differences first.
A script of its own, allowed by its hash and nothing else, adds sorting, searching and paging. Every text is escaped by
the template, so that markup in a dialogue or an answer stays text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hfplug.comparison.drawing import series_of
from hfplug.comparison.marks import Span, shared_words, unsupported
from hfplug.comparison.rouge import METRIC_LABELS, METRICS
from hfplug.comparison.variants import Report

TEMPLATE = Path(__file__).with_name("dialogues_template.html")
STYLE = Path(__file__).with_name("page_style.css")
SCRIPT = Path(__file__).with_name("dialogues.js")
ROWS_A_PAGE = 20


@dataclass(frozen=True, kw_only=True)
class DialogueRow:
    """One row that was scored.

    Attributes:
        id: Its number in the data.
        text: The dialogue.
        references: What people wrote.
        outputs: By variant what it answered.
        scores: By variant and metric, 0 to 1: the mean over the references.
    """

    id: int
    text: str
    references: Sequence[str]
    outputs: Mapping[str, str]
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class Part(NamedTuple):
    """A piece of a text, and the classes of the marks on it ("" for none)."""

    text: str
    marks: str


def render_dialogues(report: Report, rows: Sequence[DialogueRow], *, back: str) -> str:
    """The page as text.

    Args:
        report: The report.
        rows: Every row that was scored.
        back: Name of the page of the report, beside this one.
    """
    import jinja2  # only where a page is wanted
    from markupsafe import Markup

    names = [variant.name for variant in report.variants if any(variant.name in row.outputs for row in rows)]
    metrics = [name for name in METRICS if any(name in one for row in rows for one in row.scores.values())]
    seen = [_View.of(row, names, metrics) for row in rows]
    pair = _first_pair(report, names, metrics)
    script = SCRIPT.read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        back=back,
        names=names,
        metrics=metrics,
        labels=METRIC_LABELS,
        series=series_of(report),
        pair=pair,
        counts=_counts(seen, names, metrics),
        rows=sorted(seen, key=lambda view: -abs(view.gap(pair, metrics))),
        per_page=ROWS_A_PAGE,
        style=Markup(STYLE.read_text(encoding="utf-8")),
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=Markup(_data(seen, names, metrics, pair)),
    )
    return html.replace("\x00", "\ufffd")


def marked(text: str, shared: Sequence[Span], flagged: Sequence[Span]) -> list[Part]:
    """A text in pieces: ``"shared"`` where a reference has the word, ``"flagged"`` where the dialogue has it nowhere.

    Args:
        text: The text.
        shared: Places in it, which may overlap those of ``flagged``.
        flagged: Places in it.
    """
    edges = sorted({0, len(text), *(edge for span in (*shared, *flagged) for edge in span)})
    kinds = (("shared", _Cursor(shared)), ("flagged", _Cursor(flagged)))
    parts = []
    for start, end in zip(edges, edges[1:], strict=False):
        marks = " ".join(name for name, cursor in kinds if cursor.covers(start))
        parts.append(Part(text[start:end], marks))
    return parts


# ---------------------------------------------------------------------------------------------------- rows


class _Cursor:
    """Whether a place is inside one of some spans, asked from left to right."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._left = sorted(spans, reverse=True)

    def covers(self, place: int) -> bool:
        while self._left and self._left[-1].end <= place:
            self._left.pop()
        return bool(self._left) and self._left[-1].start <= place


@dataclass(frozen=True, kw_only=True)
class _Text:
    """An answer or a reference as it is shown."""

    name: str
    parts: list[Part]
    flags: list[str]
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class _View:
    """A row as it is shown."""

    row: DialogueRow
    references: list[_Text]
    answers: list[_Text]

    @classmethod
    def of(cls, row: DialogueRow, names: Sequence[str], metrics: Sequence[str]) -> _View:
        return cls(row=row, references=list(_references(row)), answers=list(_answers(row, names, metrics)))

    def gap(self, pair: tuple[str, str], metrics: Sequence[str]) -> float:
        """How much better the first of a pair is than the second, by the first metric, in points."""
        if not metrics:
            return 0.0
        first, second = (self.row.scores.get(name, {}).get(metrics[0], 0.0) for name in pair)
        return 100 * (first - second)

    def score(self, name: str, metric: str) -> float | None:
        value = self.row.scores.get(name, {}).get(metric)
        return None if value is None else round(100 * value, 2)


def _references(row: DialogueRow) -> Iterator[_Text]:
    for number, text in enumerate(row.references, start=1):
        flagged = unsupported(text, row.text)
        name = f"reference {number}" if len(row.references) > 1 else "reference"
        flags = [text[start:end] for start, end in flagged]
        yield _Text(name=name, parts=marked(text, (), flagged), flags=flags, scores={})


def _answers(row: DialogueRow, names: Sequence[str], metrics: Sequence[str]) -> Iterator[_Text]:
    for name in names:
        text = row.outputs.get(name, "")
        flagged = unsupported(text, row.text)
        scores = row.scores.get(name, {})
        yield _Text(
            name=name,
            parts=marked(text, shared_words(text, row.references), flagged),
            flags=list(dict.fromkeys(text[start:end] for start, end in flagged)),
            scores={metric: scores[metric] for metric in metrics if metric in scores},
        )


# ------------------------------------------------------------------------------------------- what is beside


def _first_pair(report: Report, names: Sequence[str], metrics: Sequence[str]) -> tuple[str, str]:
    """The pair that is shown first: the best of what was trained, and the base."""
    base = next((variant.name for variant in report.variants if variant.kind == "base"), names[0] if names else "")
    tuned = [v for v in report.variants if v.name in names and v.kind in ("full", "adapter")]
    if not tuned:
        return next((name for name in names if name != base), base), base
    metric = metrics[0] if metrics else ""
    best = max(tuned, key=lambda v: v.metrics[metric].value if metric in v.metrics else 0.0)
    return best.name, base


def _counts(views: Sequence[_View], names: Sequence[str], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """For each variant, and for the references, in how many rows something is flagged, and the mean scores."""
    references = [sum(len(text.flags) for text in view.references) for view in views]
    found = [{"name": "reference", "rows": sum(map(bool, references)), "flags": sum(references), "means": []}]
    for at, name in enumerate(names):
        flags = [len(view.answers[at].flags) for view in views]
        means = []
        for metric in metrics:
            values = [value for view in views if (value := view.score(name, metric)) is not None]
            means.append(sum(values) / len(values) if values else None)
        found.append({"name": name, "rows": sum(map(bool, flags)), "flags": sum(flags), "means": means})
    return [*found[1:], found[0]]


def _data(views: Sequence[_View], names: Sequence[str], metrics: Sequence[str], pair: tuple[str, str]) -> str:
    """What the script sorts by, as JSON that can stand inside a ``<script>`` element."""
    data = {
        "metrics": [METRIC_LABELS[metric] for metric in metrics],
        "variants": list(names),
        "pair": [names.index(name) if name in names else 0 for name in pair],
        "perPage": ROWS_A_PAGE,
        "rows": {
            str(view.row.id): {
                "scores": [[view.score(name, metric) for metric in metrics] for name in names],
                "flags": [len(answer.flags) for answer in view.answers],
            }
            for view in views
        },
    }
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
