"""The plots of a report: bars of every metric, quality against each cost, and the loss curves.

Each is small, so that a phone shows it at its own size and a wide screen several beside each other. Drawn by
matplotlib (extra ``plots``) without pyplot, so that no window system is touched.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

from hfplug.comparison.drawing import (
    HEIGHT,
    INK,
    STYLE,
    Plot,
    colours_of,
    legend,
    legend_height,
    markers_of,
    new_figure,
    shortened,
    to_svg,
)
from hfplug.comparison.quantities import count, memory, seconds
from hfplug.comparison.rouge import METRIC_LABELS, METRICS
from hfplug.comparison.scatter import draw_scatter
from hfplug.comparison.variants import Report, Variant
from hfplug.errors import MissingExtraError


def draw_plots(report: Report) -> list[Plot]:
    """All plots for which the report holds figures; others are left out.

    Args:
        report: The report.

    Returns:
        Quality by metric as bars, quality against memory, parameters and time, and the loss curves.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("matplotlib", extra="plots", needed_for="Plots in the report") from error
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A name in another script is only measured with this font; the browser draws it with its own.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        return [*_bars(report), *_scatters(report), *_curves(report)]


def _bars(report: Report) -> Iterator[Plot]:
    """For each metric a bar a variant, with its interval and its number."""
    colours = colours_of(report)
    for metric in METRICS:
        scored = [variant for variant in report.variants if metric in variant.metrics]
        if not scored:
            continue
        figure, axes = new_figure(height=50 + 24 * len(scored))
        places = range(len(scored))
        found = [variant.metrics[metric] for variant in scored]
        axes.barh(
            places,
            [100 * score.value for score in found],
            height=0.62,
            color=[colours[variant.name] for variant in scored],
        )
        for place, score in zip(places, found, strict=True):
            axes.plot([100 * score.low, 100 * score.high], [place, place], color=INK, linewidth=1.4)
            axes.annotate(
                f"{100 * score.value:.1f}",
                (100 * score.high, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(list(places), [shortened(variant.name) for variant in scored])
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        # Room at the right for the number beside the longest bar.
        axes.set_xlim(0, max(100 * score.high for score in found) * 1.15 or 1)
        axes.set_xlabel(f"{METRIC_LABELS[metric]} x 100")
        yield Plot(
            title=METRIC_LABELS[metric],
            caption="Longer is better; the line on each bar is the 95 % interval.",
            svg=to_svg(figure, f"bars-{metric}", f"{METRIC_LABELS[metric]} of each variant"),
        )


def _scatters(report: Report) -> Iterator[Plot]:
    """Quality against what it costs, where at least one variant has both."""
    metric = next((name for name in METRICS if any(name in v.metrics for v in report.variants)), None)
    if metric is None:
        return
    axes_of: Sequence[tuple[str, str, Callable[[Variant], float | None], Callable[[float], str], str]] = (
        ("memory", "peak training memory", lambda v: v.peak_training_bytes, memory, "linear"),
        ("parameters", "trainable parameters", lambda v: v.trainable_parameters, count, "log"),
        ("time", "training time", lambda v: v.training_seconds, _time, "linear"),
    )
    for key, label, cost, unit, scale in axes_of:
        placed = [v for v in report.variants if metric in v.metrics and cost(v)]
        if placed:
            name = METRIC_LABELS[metric]
            figure = draw_scatter(report, metric, placed, cost, unit, label, scale)
            yield Plot(
                title=f"Quality against {label}",
                caption=f"{name} x 100 with its 95 % interval. Up and to the left is better; dashed lines "
                "are variants that were not trained.",
                svg=to_svg(figure, f"scatter-{key}", f"{name} against {label}"),
            )


def _curves(report: Report) -> Iterator[Plot]:
    """The loss while training and on the evaluation rows, all methods in one plot each."""
    for key, label, words in (
        ("loss_curve", "training loss", "Loss on the batches trained on, as the Trainer logged it."),
        ("eval_loss_curve", "evaluation loss", "Loss on rows that were not trained on; lower is better."),
    ):
        drawn = [(v, [(s, y) for s, y in getattr(v, key) if y is not None]) for v in report.variants]
        drawn = [(variant, curve) for variant, curve in drawn if curve]
        if not drawn:
            continue
        figure, axes = new_figure(height=HEIGHT + legend_height(len(drawn)))
        colours, markers = colours_of(report), markers_of(report)
        for variant, curve in drawn:
            axes.plot(
                [step for step, _ in curve],
                [loss for _, loss in curve],
                color=colours[variant.name],
                marker=markers[variant.name] if len(curve) <= 12 else None,
                markersize=4,
                label=shortened(variant.name, 16),
            )
        axes.set_xlabel("optimiser steps")
        axes.set_ylabel(label)
        legend(figure)
        yield Plot(
            title=label.capitalize(),
            caption=words,
            svg=to_svg(figure, key.replace("_", "-"), f"{label} of each method by step"),
        )


def _time(value: float) -> str:
    return seconds(value, unit=True) if value else "0"
