"""Pictures of what was seen in an adapter: heat maps over blocks and kinds of layers, bars, and a prompt's words.

Colours are cividis' (Nuñez et al. 2018), which people who confuse red and green see as others do, and for numbers with
a sign a blue and an orange away from white.
"""

from __future__ import annotations

import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfplug.adapters.atomic import write_bytes
from hfplug.adapters.inspect import Inspection
from hfplug.adapters.inspect_pair import Pair
from hfplug.adapters.inspect_table import short
from hfplug.comparison.drawing import STYLE, Plot, to_svg
from hfplug.errors import MissingExtraError, SettingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg")
_BLUE, _ORANGE, _GREY = "#0072B2", "#E69F00", "#8d95a0"
_PRINTED: Any = {
    "text.color": "#1a1d21",
    "axes.labelcolor": "#1a1d21",
    "axes.edgecolor": "#d5d9df",
    "grid.color": "#d5d9df",
}
_PRINTED |= {f"{one}tick.{part}": "#555c66" for one in "xy" for part in ("color", "labelcolor")}
_MOST_BARS = 25
_WIDTH = 640  # points


@dataclass(frozen=True)
class Panel:
    """One drawing: its title, how to read it, its height in points, and what draws it."""

    title: str
    caption: str
    height: float
    draw: Callable[[Axes], None]


def check_picture(path: Path) -> None:
    """Refuse a file that no picture can be written to, before anything is computed.

    Args:
        path: The file.

    Raises:
        SettingError: Its ending is none of :data:`FORMATS`, its folder is not there, or the file is.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise SettingError(f"A picture is a file that ends in {' or '.join(FORMATS)}, not {path.name!r}.")
    if not path.absolute().parent.is_dir():
        raise SettingError(f"There is no folder {str(path.parent)!r} to write {path.name!r} into.")
    if path.exists():
        raise SettingError(f"{path} is there already.", fix="Pass another file, or move that one away.")
    _need_matplotlib()


def draw_picture(seen: Inspection | Pair, path: Path) -> None:
    """All panels below one another, into one file that is there whole or not at all.

    Args:
        seen: What was seen.
        path: Ends in ``.png`` or ``.svg``.
    """
    import io

    _need_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    panels = list(panels_of(seen))
    with matplotlib.rc_context({**STYLE, **_PRINTED}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        heights = [panel.height + 100 for panel in panels]
        figure = Figure(figsize=(_WIDTH / 72, sum(heights) / 72), layout="constrained", facecolor="white")
        parts: Any = figure.subfigures(len(panels), 1, height_ratios=heights, squeeze=False)
        for part, panel in zip(parts[:, 0], panels, strict=True):
            axes = part.subplots()
            panel.draw(axes)
            axes.set_title(panel.title, loc="left", fontsize=11)
            part.supxlabel(textwrap.fill(panel.caption, 105), x=0.02, ha="left", fontsize=8)
        held = io.BytesIO()
        ending = path.suffix.lower().removeprefix(".")
        figure.savefig(held, format=ending, dpi=160, metadata={"Date": None} if ending == "svg" else None)
    write_bytes(path, held.getvalue())


def draw_panels(seen: Inspection | Pair, key: str = "inspect") -> list[Plot]:
    """The same as elements of a page, in its colours.

    Args:
        seen: What was seen.
        key: What the names inside the drawings begin with: another one for each adapter on a page.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    _need_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    found = []
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        for at, panel in enumerate(panels_of(seen)):
            size = (_WIDTH / 72, (panel.height + 40) / 72)
            figure = Figure(figsize=size, dpi=72, layout="constrained", facecolor="none")
            panel.draw(figure.subplots())
            svg = to_svg(figure, f"{key}-{at}", f"{panel.title}. {panel.caption}")
            found.append(Plot(title=panel.title, caption=panel.caption, svg=svg))
    return found


def panels_of(seen: Inspection | Pair) -> Iterator[Panel]:
    """The drawings that there are numbers for."""
    if isinstance(seen, Pair):
        yield from _pair_panels(seen)
        return
    if seen.layers:
        relative = all(one.relative is not None for one in seen.layers)
        moved = {one.name: float((one.relative if relative else one.update_norm) or 0) for one in seen.layers}
        by = "the update's norm by that of W, in per cent" if relative else "the update's norm"
        values = {name: 100 * value for name, value in moved.items()} if relative else moved
        yield _heat(f"How far each layer moved{', % of W' if relative else ''}", f"Each cell is a layer: {by}.", values)
        used = {one.name: float(one.used_rank) for one in seen.layers}
        most = max(one.rank for one in seen.layers)
        caption = f"Directions that hold 99 % of the update's squared norm, of {most} at most."
        yield _heat("How many directions it uses", caption, used, low=0, high=most)
        spectra = [one.singular_values for one in seen.layers if one.singular_values and one.singular_values[0] > 0]
        if spectra:
            caption = (
                "The singular values of each layer's update, by its largest; a line a layer, the median in orange."
            )
            yield Panel("Spectra", caption, 220, lambda axes: _spectra(axes, spectra))
    if seen.prompt is not None:
        yield from _prompt_panels(seen)
    if seen.prefix:
        lengths = [one.value_norms for one in seen.prefix]
        names = [f"layer {', '.join(map(str, one.layers))}" if one.layers else "no layer" for one in seen.prefix]
        yield Panel(
            "The values of a prefix",
            "The length of the values that each virtual token brings to each layer.",
            60 + 24 * len(names),
            lambda axes: _grid(axes, lengths, names, [str(at + 1) for at in range(len(lengths[0]))], "virtual token"),
        )
    bars = [(one.name, 100 * one.relative) for one in seen.changes if one.relative is not None]
    if bars:
        bars = sorted(bars, key=lambda one: -one[1])
        shown = bars[:_MOST_BARS]
        caption = f"The norm of the change by that of the base, in per cent; {len(shown)} of {len(bars)} tensors."
        yield Panel("What moved most, %", caption, 50 + 18 * len(shown), lambda axes: _bars(axes, shown))


# --------------------------------------------------------------------------------------------------------- parts


def _pair_panels(pair: Pair) -> Iterator[Panel]:
    cosines = {one.name: one.cosine for one in pair.layers if one.cosine is not None}
    if cosines:
        yield _heat(
            "Cosine of the two updates",
            "Orange: they push the layer the same way; blue: opposite ways; white: nothing in common.",
            cosines,
            low=-1,
            high=1,
            signed="yes",
        )
        overlaps = {one.name: one.overlap_out for one in pair.layers if one.overlap_out is not None}
        chance = max(one.chance_out for one in pair.layers)
        caption = f"How much of one's space of outputs lies in the other's; random spaces have up to {chance:.2f}."
        yield _heat("Do they write into the same space?", caption, overlaps, low=0, high=1)
        inputs = {one.name: one.overlap_in for one in pair.layers if one.overlap_in is not None}
        chance = max(one.chance_in for one in pair.layers)
        caption = f"How much of one's space of inputs lies in the other's; random spaces have up to {chance:.2f}."
        yield _heat("Do they read the same?", caption, inputs, low=0, high=1)
    bars = [(one.name, one.cosine) for one in pair.tensors if one.cosine is not None][:_MOST_BARS]
    if bars:
        caption = "1: the same change up to length, 0: nothing in common."
        yield Panel("Cosine of the changes", caption, 50 + 18 * len(bars), lambda axes: _bars(axes, bars))
    if pair.prompt is not None:
        prompt = pair.prompt
        named = [
            ("same place", prompt.same_place),
            ("nearest of the other", prompt.best),
            ("nearest of random ones", prompt.chance),
            ("overlap of their spaces", prompt.overlap),
            ("overlap by chance", prompt.chance_overlap),
        ]
        yield Panel("The two prompts", "Mean cosines, and overlaps.", 140, lambda axes: _bars(axes, named))


def _prompt_panels(seen: Inspection) -> Iterator[Panel]:
    assert seen.prompt is not None
    view, near = seen.prompt, seen.prompt.near
    count = len(view.rows)
    if near is not None:
        caption = (
            f"The bar is the cosine of a virtual token with its nearest word. Of random vectors 95 % stay below the "
            f"dashed line; the shade ends at their mean. {near.nearer_than_chance} of {count} are above."
        )
        yield Panel("Nearer to a word than chance?", caption, 260, lambda axes: _nearest(axes, near))
    known = [(str(row.position + 1), 100 * row.drift) for row in view.rows if row.drift is not None]
    least = [
        (str(row.position + 1), 100 * row.nearest_distance) for row in view.rows if row.nearest_distance is not None
    ]
    shown, caption = known, "Distance to where it started by the length of that vector, in per cent."
    if not known and view.start == "vocabulary":
        shown, caption = least, "It started at words that are not known: this is the least that it can have moved."
    if shown:
        names, values = [one[0] for one in shown], [one[1] for one in shown]
        yield Panel("How far each virtual token moved", caption, 200, lambda axes: _columns(axes, names, values, "%"))


def split_name(name: str) -> tuple[str, int | None]:
    """A layer's kind and its block: ``model.layers.3.self_attn.q_proj`` is ``model.self_attn.q_proj`` of block 3.

    The block is the first number in the name; further ones (T5's, an expert's) belong to the kind.
    """
    match = re.search(r"(?:^|\.)(\d+)(?=\.|$)", name)
    if match is None:
        return name, None
    before, after = name[: match.start()], name[match.end() :].lstrip(".")
    stack = before.partition(".")[0]
    stacks = ("encoder", "decoder")
    found = next((part for part in before.split(".") if part in stacks), "" if after else stack)
    return ".".join(part for part in (found, after) if part), int(match[1])


def _heat(
    title: str,
    caption: str,
    values: dict[str, float],
    *,
    low: float | None = None,
    high: float | None = None,
    signed: str = "no",
) -> Panel:
    """A cell a layer: kinds of layer below one another, blocks side by side."""
    kinds: dict[str, dict[int, float]] = {}
    for name, value in values.items():
        kind, block = split_name(name)
        kinds.setdefault(kind, {})[block or 0] = value
    blocks = sorted({block for row in kinds.values() for block in row})
    rows = [[row.get(block) for block in blocks] for row in kinds.values()]
    names = [short(kind, 34) for kind in kinds]
    labels = [str(block) for block in blocks]

    def draw(axes: Axes) -> None:
        _grid(axes, rows, names, labels, "block", low=low, high=high, signed=signed)

    return Panel(title, caption, 70 + 20 * len(rows), draw)


def _grid(
    axes: Axes,
    rows: Sequence[Sequence[float | None]],
    names: Sequence[str],
    labels: Sequence[str],
    below: str,
    *,
    low: float | None = None,
    high: float | None = None,
    signed: str = "no",
) -> None:
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    held = np.ma.masked_invalid(
        np.array([[np.nan if one is None else one for one in row] for row in rows], dtype=float)
    )
    colours: Any = "cividis"
    if signed == "yes":
        colours = LinearSegmentedColormap.from_list("signed", [_BLUE, "#f7f7f7", _ORANGE])
    bottom = float(held.min()) if low is None else low
    top = float(held.max()) if high is None else high
    if top <= bottom:  # all alike: no contrast where there is none
        bottom, top = (0.0, top) if top > 0 else (bottom, bottom + 1)
    drawn = axes.pcolormesh(held, cmap=colours, vmin=bottom, vmax=top, edgecolors="none")
    axes.set_xticks([at + 0.5 for at in range(len(labels))], labels)
    axes.set_yticks([at + 0.5 for at in range(len(names))], names, fontsize=9)
    axes.xaxis.set_major_locator(_every(len(labels)))
    axes.set_xlabel(below)
    axes.invert_yaxis()
    axes.grid(False)
    axes.tick_params(length=0)
    bar: Any = axes.figure.colorbar(drawn, ax=axes, pad=0.02, aspect=12)
    bar.outline.set_visible(False)
    bar.solids.set_rasterized(False)
    if len(labels) * len(names) <= 240 and len(labels) <= 16:
        _numbers(axes, held, drawn, signed)


def _numbers(axes: Axes, held: Any, drawn: Any, signed: str) -> None:
    """The number in each cell, in black or white, whichever stands out."""
    for y, row in enumerate(held):
        for x, value in enumerate(row):
            if getattr(value, "mask", False):
                continue
            red, green, blue, _ = drawn.to_rgba(float(value))
            colour = "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "#ffffff"
            text = f"{float(value):.2f}" if signed == "yes" else f"{float(value):.3g}"
            axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8, color=colour)


def _every(count: int) -> Any:
    from matplotlib.ticker import FixedLocator

    step = -(-count // 24)
    return FixedLocator([at + 0.5 for at in range(0, count, step)])


def _spectra(axes: Axes, spectra: Sequence[Sequence[float]]) -> None:
    from statistics import median

    for values in spectra[:400]:
        axes.plot(
            range(1, len(values) + 1), [one / values[0] for one in values], color=_GREY, alpha=0.35, linewidth=0.8
        )
    longest = max(map(len, spectra))
    middle = [median(v[at] / v[0] for v in spectra if at < len(v)) for at in range(longest)]
    axes.plot(range(1, longest + 1), middle, color=_ORANGE, linewidth=2.4, marker="o", markersize=3)
    axes.set_xlabel("direction")
    axes.set_ylabel("singular value by the largest")
    axes.set_ylim(0, 1.05)


def _nearest(axes: Axes, near: Any) -> None:
    values = [token.neighbours[0].cosine for token in near.tokens]
    places = range(1, len(values) + 1)
    colours = [_ORANGE if token.nearer_than_chance else _GREY for token in near.tokens]
    axes.axhspan(0, near.control_mean, color=_BLUE, alpha=0.15, linewidth=0)
    axes.bar(places, values, color=colours, width=0.7)
    axes.axhline(near.control_high, color=_BLUE, linestyle="--", linewidth=1.6)
    if len(values) <= 30:
        words = [short(token.neighbours[0].text.strip() or token.neighbours[0].text, 14) for token in near.tokens]
        axes.set_xticks(list(places), words, rotation=60, ha="right", fontsize=8)
    else:
        axes.set_xlabel("virtual token")
    axes.grid(False, axis="x")
    axes.set_ylabel("cosine")
    axes.set_ylim(min(0.0, *values), max(1.05 * max(values), 1.15 * near.control_high))


def _columns(axes: Axes, names: Sequence[str], values: Sequence[float], unit: str) -> None:
    axes.bar(range(len(values)), values, color=_BLUE, width=0.7)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.xaxis.set_major_locator(_fixed(len(names)))
    axes.set_xlabel("virtual token")
    axes.set_ylabel(unit)
    axes.grid(False, axis="x")


def _fixed(count: int) -> Any:
    from matplotlib.ticker import FixedLocator

    return FixedLocator(list(range(0, count, -(-count // 40))))


def _bars(axes: Axes, bars: Sequence[tuple[str, float]]) -> None:
    axes.barh(range(len(bars)), [value for _, value in bars], color=_BLUE, height=0.7)
    axes.set_yticks(range(len(bars)), [short(name, 40) for name, _ in bars], fontsize=9)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    for at, (_, value) in enumerate(bars):
        place = (4, 0) if value >= 0 else (-4, 0)
        side = "left" if value >= 0 else "right"
        text = f"{value:.3g}"
        axes.annotate(text, (value, at), xytext=place, textcoords="offset points", va="center", ha=side, fontsize=8)
    axes.margins(x=0.12)


def _need_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("matplotlib", extra="plots", needed_for="A picture of an adapter") from error
