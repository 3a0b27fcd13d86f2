"""A run as JSON, CSV or Markdown, to be copied or downloaded. Names that are still hidden are not in it."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from hfplug.comparison.quantities import NOT_MEASURED, count, memory, number, seconds
from hfplug.comparison.table import escape_markdown
from hfplug.space.columns import BASE, SHOWN_METRICS, Column, method_label
from hfplug.space.session import Run

# A spreadsheet takes a cell that starts so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_CSV_TEXTS = ("variant", "kind", "method", "source", "banner", "state", "text", "truncated", "problem")
_CSV_NUMBERS = (
    "trainable_parameters",
    "trainable_share",
    "disk_bytes",
    "tokens",
    "waited_seconds",
    "first_token_seconds",
    "tokens_per_second",
)


def run_json(run: Run) -> dict[str, Any]:
    """The run as plain JSON values.

    Returns:
        ``id``, ``at``, ``dialogue``, ``references``, ``task``, ``decoding``, ``blind``, ``choice``, ``example`` and
        ``columns``. While a round is blind each column holds its label, state and text and nothing else.
    """
    if run.blind == "open":
        columns = [
            {
                "label": label,
                "state": column.state,
                "text": column.text,
                # What went wrong may name the variant.
                "problem": column.problem and "This answer failed.",
            }
            for label, column in zip(run.labels, run.columns, strict=True)
        ]
    else:
        columns = [column.to_json() for column in run.columns]
        if run.blind == "revealed":
            columns = [{"label": label, **column} for label, column in zip(run.labels, columns, strict=True)]
    return {
        "id": run.id,
        "at": run.at,
        "dialogue": run.dialogue,
        "references": list(run.references),
        "task": run.task,
        "decoding": dict(run.decoding),
        "blind": run.blind,
        "choice": run.choice,
        "example": run.example,
        "columns": columns,
    }


def run_json_text(run: Run) -> str:
    """The run as a JSON document."""
    return json.dumps(run_json(run), ensure_ascii=False, indent=1)


def run_csv(run: Run) -> str:
    """A row a column of the run, numbers unrounded; a text that a spreadsheet would run as a formula gets a ``'``."""
    text = io.StringIO(newline="")
    fields = [*_CSV_TEXTS, *_CSV_NUMBERS, *SHOWN_METRICS, "dialogue"]
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for column in () if run.blind == "open" else run.columns:
        values = column.to_json()
        row: dict[str, Any] = {name: _cell(values[name]) for name in _CSV_TEXTS}
        row |= {name: values[name] for name in _CSV_NUMBERS}
        row |= {metric: column.rouge.get(metric) for metric in SHOWN_METRICS}
        writer.writerow({**row, "dialogue": _cell(run.dialogue)})
    return text.getvalue()


def run_markdown(run: Run) -> str:
    """The run as Markdown: a table of figures, then each answer."""
    if run.blind == "open":
        return ""
    lines = [
        "| column | method | trained parameters | on disk | first token | tokens/s | ROUGE-1/2/L |",
        "| :-- | :-- | --: | --: | --: | --: | --: |",
        *map(_markdown_row, run.columns),
        "",
    ]
    for column in run.columns:
        lines += [f"**{escape_markdown(column.name)}**: {escape_markdown(column.problem or column.text) or '–'}", ""]
    lines += [f"**reference**: {escape_markdown(text)}\n" for text in run.references]
    lines += ["**dialogue**:", "", *(f"> {escape_markdown(line)}" for line in run.dialogue.splitlines()), ""]
    settings = ", ".join(f"{name} {value}" for name, value in run.decoding.items())
    return "\n".join([*lines, f"Asked {run.at}" + (f" with {escape_markdown(settings)}." if settings else "."), ""])


def _markdown_row(column: Column) -> str:
    scores = " / ".join(f"{100 * value:.1f}" for value in column.rouge.values()) or NOT_MEASURED
    cells = (
        column.name,
        method_label(column.method, column.kind),
        "none" if column.kind == BASE else count(column.trainable_parameters),
        memory(column.disk_bytes),
        seconds(column.first_token_seconds, unit=True),
        number(column.tokens_per_second),
        scores,
    )
    return "| " + " | ".join(escape_markdown(cell) for cell in cells) + " |"


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
