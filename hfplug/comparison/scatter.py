"""Quality against a cost: one point a variant, named where its name is free to stand."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hfplug.comparison.drawing import (
    FAINT,
    HEIGHT,
    MUTED,
    colours_of,
    legend,
    legend_height,
    markers_of,
    new_figure,
    shortened,
)
from hfplug.comparison.rouge import METRIC_LABELS
from hfplug.comparison.variants import Report, Variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Beyond that many points their names no longer fit beside them, and a legend names them.
_MOST_NAMED = 7
# A place for a name: to the right, upwards (both in pixels from the point), and the side it starts from.
_Try = tuple[float, float, str]


def draw_scatter(
    report: Report,
    metric: str,
    placed: Sequence[Variant],
    cost: Callable[[Variant], float | None],
    unit: Callable[[float], str],
    label: str,
    scale: str,
) -> Figure:
    """Draw one score of each variant against one cost.

    Args:
        report: The report.
        metric: The score, drawn times 100 with its interval.
        placed: The variants that have both; every other variant with that score is a dashed line.
        cost: The cost of a variant.
        unit: How to write a cost.
        label: What the cost is.
        scale: ``"linear"`` from 0, or ``"log"``.

    Returns:
        The figure, in which no name lies on another.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
    from matplotlib.transforms import Affine2D

    crowded = len(placed) > _MOST_NAMED
    figure, axes = new_figure(height=HEIGHT + (legend_height(len(placed)) if crowded else 0))
    colours, markers = colours_of(report), markers_of(report)
    values = [float(cost(variant) or 0) for variant in placed]
    if scale == "log":
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 3, max(values) * 3)
        few = max(values) < 10 * min(values)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if few else LogLocator(numticks=6))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, max(values) * 1.2)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(unit(value))))
    untrained = [v for v in report.variants if v not in placed and metric in v.metrics]
    for variant in untrained:
        axes.axhline(100 * variant.metrics[metric].value, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    found = [variant.metrics[metric] for variant in (*placed, *untrained)]
    scored = [100 * edge for score in found for edge in (score.low, score.high)]
    spread = max(max(scored) - min(scored), 1)
    axes.set_ylim(max(0, min(scored) - 0.12 * spread), max(scored) + 0.12 * spread)
    axes.set_xlabel(f"{label} (log)" if scale == "log" else label)
    axes.set_ylabel(f"{METRIC_LABELS[metric]} x 100")
    if crowded:
        for v in placed:
            axes.plot([], [], markers[v.name], color=colours[v.name], label=shortened(v.name, 16))
        legend(figure)
    figure.draw_without_rendering()  # only now is it known where a value lies on the paper
    spots = []
    for variant, x, shift in zip(placed, values, _shifts(axes, values), strict=True):
        score, colour = variant.metrics[metric], colours[variant.name]
        beside = axes.transData + Affine2D().translate(shift, 0)
        axes.plot([x, x], [100 * score.low, 100 * score.high], color=colour, linewidth=1.2, transform=beside)
        axes.plot([x], [100 * score.value], markers[variant.name], color=colour, ms=7, transform=beside)
        ends = beside.transform([(x, 100 * edge) for edge in (score.value, score.low, score.high)])
        spots.append((variant.name, *(tuple(end) for end in ends)))
    lines = [(v.name, 100 * v.metrics[metric].value) for v in untrained]
    _place_labels(axes, spots, lines, {} if crowded else colours)
    return figure


def _shifts(axes: Axes, values: Sequence[float]) -> list[float]:
    """How far to move each point sideways, in pixels, so that points of one value stand side by side.

    LoRA and QLoRA have the same number of parameters: one would hide the other's interval. A point moves by
    its own width at most, so that it still stands at its value.
    """
    places = [axes.transData.transform((value, axes.get_ylim()[0]))[0] for value in values]
    groups: list[list[int]] = []
    for at in sorted(range(len(values)), key=lambda at: places[at]):
        if groups and places[at] - places[groups[-1][0]] < 3:
            groups[-1].append(at)
        else:
            groups.append([at])
    shifts = [0.0] * len(values)
    for group in groups:
        apart = min(8.0, 14.0 / max(1, len(group) - 1))
        for number, at in enumerate(sorted(group)):
            shifts[at] = apart * (number - (len(group) - 1) / 2)
    return shifts


def _place_labels(
    axes: Axes,
    spots: Sequence[Any],
    lines: Sequence[tuple[str, float]],
    colours: dict[str, str],
) -> None:
    """Name points and lines where the name meets no name, point or line: the first free place wins.

    Args:
        axes: With its final limits, drawn once.
        spots: For each point its name and, in pixels, its place and the two ends of its interval.
        lines: For each dashed line its name and its value.
        colours: The colour of each point's name; empty where a legend names the points.
    """
    from matplotlib.transforms import Bbox

    frame = axes.get_window_extent()
    heights = [axes.transData.transform((axes.get_xlim()[1], y))[1] for _, y in lines]
    taken = [Bbox.from_extents(x - 6, y - 6, x + 6, y + 6) for _, (x, y), *_ in spots]
    taken += [Bbox([low, high]).padded(1) for *_, low, high in spots]
    taken += [Bbox.from_extents(frame.x0, y - 1, frame.x1, y + 1) for y in heights]
    sides = ((9, "left"), (-9, "right"))
    around = [(dx, dy, side) for dy in (0, 12, -12, 24, -24, 36, -36) for dx, side in sides]
    around[2:2] = [(0, 12, "center"), (0, -12, "center")]
    ends = [(dx, dy, "right") for dx in (0, -80, -160) for dy in (8, -8)]

    def put(text: str, at: tuple[float, float], tries: Sequence[_Try], color: str) -> None:
        note: Any = axes.text(0, 0, shortened(text), va="center", fontsize=10.5, color=color, transform=None)

        def box_at(choice: _Try) -> Any:
            note.set_position((at[0] + choice[0], at[1] + choice[1]))
            note.set_ha(choice[2])
            return note.get_window_extent().padded(1)

        def cost_at(choice: _Try) -> float:
            box = box_at(choice)
            across = frame.x0 <= box.x0 and box.x1 <= frame.x1 + 8
            outside = 0 if across and frame.y0 <= box.y0 and box.y1 <= frame.y1 else 1e6
            return outside + sum(_area(Bbox.intersection(box, other)) for other in taken)

        taken.append(box_at(min(tries, key=cost_at)))

    for name, spot, *_ in spots if colours else ():
        put(name, spot, around, colours[name])
    for (name, _), y in zip(lines, heights, strict=True):
        put(name, (frame.x1, y), ends, FAINT)


def _tick(text: str) -> str:
    """A tick without the zeros that a column of a table needs: ``80 MB`` for ``80.0 MB``."""
    return re.sub(r"\.0+(?!\d)", "", text) if text[:2] != "0 " else "0"


def _area(box: Any) -> float:
    return 0.0 if box is None else float(box.width * box.height)
