"""The report as one HTML page that opens without a network: no script, no address outside itself.

The page is a jinja2 template that escapes every text put into it: a dialogue that holds ``<script>`` is
shown, not run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jinja2
from markupsafe import Markup

from hfplug.comparison.drawing import Plot, series_of
from hfplug.comparison.plots import draw_plots
from hfplug.comparison.summary import notes, summary, untouched
from hfplug.comparison.table import explained, tables
from hfplug.comparison.variants import Report
from hfplug.errors import MissingExtraError, StudyError, did_you_mean

TEMPLATE = Path(__file__).with_name("page_template.html")
STYLE = Path(__file__).with_name("page_style.css")
EXAMPLES_SHOWN = 10
_EXAMPLE_KEYS = ("dialogue", "references", "outputs")


def render_page(
    report: Report,
    *,
    examples: Sequence[Mapping[str, Any]] = (),
    plots: Literal["auto", "always", "never"] = "auto",
    dialogues: str | None = None,
    inside: Mapping[str, str] | None = None,
) -> tuple[str, str | None]:
    """The page as text.

    Args:
        report: The report.
        examples: As for ``write_report``; the first ten are shown.
        plots: As for ``write_report``.
        dialogues: Name of the page beside this one that holds every dialogue, to be linked to.
        inside: Name of a variant to the address of the page of what its adapter holds.

    Returns:
        The HTML, and why it holds no plots (None if it holds them).

    Raises:
        MissingExtraError: ``plots="always"`` and matplotlib is not installed.
        StudyError: An example has other keys than expected.
    """
    drawn: list[Plot] = []
    note: str | None = None
    if plots == "never":
        note = "Plots were not asked for."
    else:
        try:
            drawn = draw_plots(report)
            note = None if drawn else "There is nothing to plot: no variant was scored or trained."
        except MissingExtraError as error:
            if plots == "always":
                raise
            note = str(error)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        style=Markup(STYLE.read_text(encoding="utf-8")),
        summary=summary(report),
        untouched=untouched(report),
        score=re.compile(r"([\d.]+) ([\d.]+–[\d.]+)").fullmatch,
        tables=[(table, explained(table)) for table in tables(report) if table.cells],
        plots=[(plot, Markup(plot.svg)) for plot in drawn],
        plots_note=note,
        dialogues=dialogues,
        inside=dict(inside or {}),
        series=series_of(report),
        examples=[_example(report, number, one) for number, one in enumerate(examples[:EXAMPLES_SHOWN])],
        notes=notes(report),
    )
    return html.replace("\x00", "\ufffd"), note


def _example(report: Report, number: int, example: Mapping[str, Any]) -> dict[str, Any]:
    """An example with its outputs in the order of the report's variants."""
    for key in example:
        if key not in _EXAMPLE_KEYS:
            raise StudyError(
                f"Example {number}: the keys {', '.join(_EXAMPLE_KEYS)} were expected, {key!r} came.",
                fix=did_you_mean(str(key), _EXAMPLE_KEYS) or None,
            )
    outputs = example.get("outputs", {})
    known = [variant.name for variant in report.variants]
    order = [name for name in known if name in outputs] + [name for name in outputs if name not in known]
    return {
        "dialogue": str(example.get("dialogue", "")),
        "references": [str(text) for text in example.get("references", ())],
        "outputs": [(name, str(outputs[name])) for name in order],
    }
