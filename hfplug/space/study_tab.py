"""The second tab: a study's table and plots, drawn by the code that draws its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from hfplug.comparison.drawing import series_of
from hfplug.comparison.plots import draw_plots
from hfplug.comparison.summary import summary, untouched
from hfplug.comparison.table import explained, tables
from hfplug.errors import MissingExtraError
from hfplug.space.view import escaped, notice_html

if TYPE_CHECKING:
    from hfplug.comparison.variants import Report
    from hfplug.space.opened import OpenSpace

_DETAILS = ("settings", "machine", "made")
TEMPLATE = Path(__file__).with_name("study_template.html")


def study_html(space: OpenSpace) -> str:
    """The tab, or what to type for one where there is no study."""
    if space.report is None:
        return no_study_html(space)
    return report_html(space.report)


def report_html(report: Report) -> str:
    """Facts, tables and plots of a report as one fragment; every text in it is escaped.

    Args:
        report: The report.
    """
    try:
        plots, note = draw_plots(report), ""
    except MissingExtraError as error:
        plots, note = [], str(error)
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else Markup(escaped(value)),
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        summary=[(label, text) for label, text in summary(report) if text and label not in _DETAILS],
        details=[(label, text) for label, text in summary(report) if text and label in _DETAILS],
        untouched=untouched(report),
        tables=[(table, explained(table)) for table in tables(report) if table.cells],
        plots=[(plot, Markup(plot.svg)) for plot in plots],
        plots_note=note,
        series=series_of(report),
        notes=[(variant.name, text) for variant in report.variants for text in variant.notes],
    )


def no_study_html(space: OpenSpace) -> str:
    """Why there is no study here, and what to type for one."""
    problem = space.report_problem and notice_html("warning", f"The study cannot be shown: {space.report_problem}")
    return (
        f'{problem}<div class="hf-empty"><p class="hf-empty-title">No study to show yet</p><p>A study trains several '
        "methods on the same rows and measures all of them. Type <code>hfplug demo</code> for one on the built-in base "
        "(three minutes), or <code>hfplug study --base BASE --data FILE --out my-study</code> for your own, and name "
        "its folder as <code>report</code> in the settings of this Space.</p></div>"
    )
