"""A memory plan as a picture: a stacked bar a method, the device's limit across them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hfplug.errors import MissingExtraError, SettingError
from hfplug.models.memory_method import TERMS
from hfplug.models.memory_plan import MemoryPlan
from hfplug.models.memory_table import show_bytes

FORMATS = (".png", ".svg")
# Okabe and Ito's palette, which people who confuse red and green tell apart as well.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#56B4E9", "#BBBBBB")
_LABELS = ("weights", "gradients", "optimiser states", "activations", "temporary buffers")


def check_plot_file(path: Path) -> None:
    """Refuse a file that no picture can be written to, before anything is computed.

    Raises:
        SettingError: for an ending that is none of :data:`FORMATS`, or a folder that is not there.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise SettingError(f"A picture is a file that ends in {' or '.join(FORMATS)}, not {path.name!r}.")
    if not path.absolute().parent.is_dir():
        raise SettingError(f"There is no folder {str(path.parent)!r} to write {path.name!r} into.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("matplotlib", extra="plots", needed_for="A picture of the plan") from error


def draw_plan(plan: MemoryPlan, path: Path) -> None:
    """Draw the plan into a file.

    Args:
        plan: The plan.
        path: Ends in ``.png`` or ``.svg``.

    Raises:
        SettingError: the file cannot be a picture, or there is nothing to draw.
        MissingExtraError: matplotlib is not installed.
    """
    check_plot_file(path)
    if not plan.methods:
        raise SettingError("There is no method that works on this base at these settings, so nothing to draw.")
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hfplug", "text.parse_math": False}):
        figure = _figure(plan)
        # Without a date, so that the same plan gives the same file.
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def _figure(plan: MemoryPlan) -> Any:
    from matplotlib.figure import Figure

    largest = max(one.peak for one in plan.methods)
    size, unit = next(((s, u) for s, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if largest >= s), (1.0, "B"))
    figure = Figure(figsize=(9, 1.9 + 0.36 * len(plan.methods)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(plan.methods)
    for part, colour, label in zip(TERMS, _COLOURS, _LABELS, strict=True):
        widths = [getattr(one, part) / size for one in plan.methods]
        axes.barh(range(len(widths)), widths, left=left, height=0.68, color=colour, label=label)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, one in enumerate(plan.methods):
        axes.annotate(
            show_bytes(one.peak),
            (left[place], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    limit = plan.device.usable / size if plan.device is not None else None
    # A limit far beyond every bar would press them all against the left side.
    if limit is not None and limit <= 2.5 * largest / size:
        axes.axvline(limit, color="#D55E00", linewidth=1.6, linestyle="--", label=f"usable: {plan.device.name}")  # type: ignore[union-attr]
    axes.set_yticks(range(len(plan.methods)), [one.method for one in plan.methods])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.14 * max(largest / size, limit if limit and limit <= 2.5 * largest / size else 0))
    axes.set_xlabel(f"peak memory of a training step, {unit}")
    settings = plan.settings
    axes.set_title(
        f"{Path(plan.base).name}, {settings.batch} x {settings.length} tokens, {settings.optimizer}",
        fontsize=11,
        loc="left",
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure
