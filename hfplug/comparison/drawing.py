"""What all drawings of a report share: sizes, colours by role, the legend, and SVG that fits into the page.

Text stays text (searchable, and in the page's own font), and each colour is a CSS variable of the page, so
that the same drawing serves light and dark.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from hfplug.comparison.variants import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# In points; an SVG of matplotlib has 72 to the inch, and a phone shows some 350 beside its margins.
_WIDTH, HEIGHT = 360, 270
# Colours that mark a role in the drawing and are replaced by the page's variables.
INK, FAINT, RULE, MUTED = "#010101", "#020202", "#030303", "#040404"
_ROLES = {INK: "var(--ink)", FAINT: "var(--faint)", RULE: "var(--rule)", MUTED: "var(--muted)"}
_SERIES = {f"#0500{number:02x}": f"var(--series-{number})" for number in range(1, 9)}
_MARKERS = "osD^vPX"  # one fewer than colours, so that the pairs repeat late
STYLE: Any = {  # matplotlib types its keys one by one
    "svg.fonttype": "none",
    "svg.hashsalt": "hfplug",
    "font.family": ["DejaVu Sans"],  # only measured with: the page's own font is narrower
    "font.size": 11,
    "text.parse_math": False,  # a name may hold a dollar sign
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": FAINT,
    "axes.labelsize": 11,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One drawing: a title, a sentence on how to read it, and the ``<svg>`` element."""

    title: str
    caption: str
    svg: str


def series_of(report: Report) -> dict[str, int]:
    """The number of each trained variant's colour, 1 to 8; the others are drawn in grey."""
    trained = [variant.name for variant in report.variants if variant.kind in ("full", "adapter")]
    return {name: 1 + at % len(_SERIES) for at, name in enumerate(trained)}


def colours_of(report: Report) -> dict[str, str]:
    numbers, colours = series_of(report), list(_SERIES)
    return {v.name: colours[numbers[v.name] - 1] if v.name in numbers else MUTED for v in report.variants}


def markers_of(report: Report) -> dict[str, str]:
    return {variant.name: _MARKERS[at % len(_MARKERS)] for at, variant in enumerate(report.variants)}


def new_figure(*, height: float = HEIGHT) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH / 72, height / 72), dpi=72, layout="constrained", facecolor="none")
    return figure, figure.subplots()


def legend(figure: Figure) -> None:
    """Name what was labelled, in three columns below the drawing."""
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=10, handlelength=1.4, columnspacing=1)


def legend_height(entries: int) -> float:
    """How much higher a figure must be for a legend of so many entries."""
    return 16.0 * -(-entries // 3)


def to_svg(figure: Figure, key: str, description: str) -> str:
    """The figure as one ``<svg>`` element that stands inside an HTML page and refers to nothing outside."""
    text = io.StringIO()
    figure.savefig(text, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, variable in {**_ROLES, **_SERIES}.items():
        svg = svg.replace(colour, variable)
    # Names of the page's parts are shared by all drawings on it.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{key}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)  # the page's own font is used
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()  # type: ignore[union-attr]
    opening = (
        f'<svg role="img" aria-label="{escape(description)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">'
    )
    return opening + svg[svg.index(">") + 1 :].strip()


def shortened(name: str, most: int = 18) -> str:
    """The name with its middle left out if it is long; never one that matplotlib takes for hidden."""
    name = " ".join(name.split())
    name = name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"
    return f"\u200b{name}" if name.startswith("_") else name
