"""What was seen in an adapter, as text for a terminal: at most a hundred columns, the rest is in the JSON."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from statistics import median

from hfplug.adapters.inspect_change import TensorChange
from hfplug.adapters.inspect_low_rank import USED_SHARE, LowRankLayer
from hfplug.adapters.inspect_prefix import PrefixLayer
from hfplug.adapters.inspect_prompt import PromptRow, PromptView
from hfplug.adapters.inspection import Inspection

WIDTH = 100
_BARS = " ▁▂▃▄▅▆▇█"
_SPECTRUM = 16


def render_inspection(seen: Inspection, *, top: int = 20) -> str:
    """The tables of an inspection.

    Args:
        seen: What was seen.
        top: Rows of a table (1 or more): those that moved most.
    """
    lines = [f"{seen.method} in {seen.path}: {seen.numbers:,} trained numbers"]
    if seen.against == "base":
        commit = f" at commit {seen.base_commit[:12]}" if seen.base_commit else ""
        lines.append(f"held against {seen.base}{commit}")
    for block in (
        _layers(seen.layers, top) if seen.layers else [],
        _prompt(seen.prompt, top) if seen.prompt is not None else [],
        _prefix(seen.prefix, top) if seen.prefix else [],
        _changes(seen.changes, top),
        _barely(seen),
        [line for note in seen.notes for line in wrapped(note)],
    ):
        if block:
            lines += ["", *block]
    return "\n".join(plain_line(line) for line in lines)


def columns(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Rows as aligned lines, the first a heading; the first ``left`` columns and the last of texts to the left.

    Args:
        rows: Of equally many cells each.
        left: Columns that are aligned to the left.
    """
    widths = [max(_wide(cell) for cell in column) for column in zip(*rows, strict=True)]
    shown = [
        "  ".join(
            cell + " " * (width - _wide(cell)) if at < left else " " * (width - _wide(cell)) + cell
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [shown[0], "  ".join("─" * width for width in widths), *shown[1:]]


def number(value: float | None, digits: int = 3) -> str:
    """Three figures, or a dash for what is not known."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    return f"{value:.{digits}g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.{digits - 1}e}"


def share(value: float | None) -> str:
    """A ratio in per cent, or a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{number(100 * value)} %"


def spectrum(values: Sequence[float], most: int = _SPECTRUM) -> str:
    """Singular values as a row of bars, each by the largest; as many as there is room for."""
    largest = max(values, default=0.0)
    shown = list(values)[:most]
    if largest <= 0:
        return "·" * len(shown)
    return "".join(_BARS[max(1, round(8 * one / largest))] if one > 1e-6 * largest else "·" for one in shown)


def short(name: str, most: int = 44) -> str:
    """A name of at most so many letters: of its words, the first ones first, only three letters are kept."""
    parts = name.split(".")
    for at in range(len(parts) - 1):
        if len(".".join(parts)) <= most:
            break
        parts[at] = parts[at][:3]
    name = ".".join(parts)
    return name if len(name) <= most else f"{name[: most // 3]}…{name[-(most - most // 3 - 1) :]}"


def wrapped(text: str) -> list[str]:
    """A sentence on lines of at most a hundred columns."""
    import textwrap

    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def plain_line(text: str) -> str:
    """A line without control characters and changes of direction: names and words come from strangers' files."""
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


def most_moved(items: Iterable[LowRankLayer], top: int) -> list[LowRankLayer]:
    """The layers that moved most, relative to the base if that is known."""
    known = list(items)
    return sorted(known, key=lambda one: -(one.relative if one.relative is not None else one.update_norm))[:top]


# --------------------------------------------------------------------------------------------------------- parts


def _layers(layers: tuple[LowRankLayer, ...], top: int) -> list[str]:
    rows = [("layer", "moved", "|update|", "|W|", "rank", "used", "effective", "spectrum")]
    for one in most_moved(layers, top):
        cells = (share(one.relative), number(one.update_norm), number(one.weight_norm), str(one.rank))
        rank = (str(one.used_rank), f"{one.effective_rank:.1f}", spectrum(one.singular_values, 8).ljust(8))
        rows.append((short(one.name, 40), *cells, *rank))
    title = f"The {len(rows) - 1} of {len(layers)} layers that moved most" if len(rows) <= len(layers) else "Layers"
    used = sorted(one.used_rank for one in layers)
    ranks = sorted({one.rank for one in layers})
    text = (
        f"moved: the update's norm by that of W. used: the fewest directions that hold {100 * USED_SHARE:.0f} % of its "
        "squared norm. effective: exp of the entropy of its singular values (Roy and Vetterli 2007). spectrum: the "
        "singular values, each by the largest."
    )
    spread = f"{used[0]}" if used[0] == used[-1] else f"{used[0]} to {used[-1]}, median {median(used):.0f}"
    of = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    unused = f"Used rank: {spread}, of {of}." + (
        " A lower r would hold what was learnt." if max(used) <= max(ranks) // 2 else ""
    )
    return [title, *columns(rows), *wrapped(text), unused, *_places(layers)]


def _places(layers: tuple[LowRankLayer, ...]) -> list[str]:
    """By the last part of the name: which kind of layer moved."""
    groups: dict[str, list[LowRankLayer]] = {}
    for one in layers:
        ending = one.name.partition("[")[0].rpartition(".")[2]
        groups.setdefault(ending, []).append(one)
    if len(groups) < 2 or any(one.relative is None for one in layers):
        return []
    rows = [("kind of layer", "layers", "moved, median", "least", "most", "used rank, median")]
    for ending, members in groups.items():
        moved = sorted(float(one.relative or 0) for one in members)
        used = median(one.used_rank for one in members)
        rows.append(
            (short(ending), str(len(members)), share(median(moved)), share(moved[0]), share(moved[-1]), f"{used:.0f}")
        )
    return ["", *columns(rows)]


def _prompt(view: PromptView, top: int) -> list[str]:
    near = view.near
    rows = [("token", "length", "moved", "state", "nearest words and their cosine")]
    for row in view.rows[:top]:
        words = ""
        if near is not None:
            token = near.tokens[row.position]
            mark = "*" if token.nearer_than_chance else " "
            words = mark + ", ".join(f"{_word(one.text)} {one.cosine:.2f}" for one in token.neighbours)
        moved = _at_least(row) if view.start == "vocabulary" else share(row.drift)
        rows.append((str(row.position + 1), number(row.norm), moved, _state(row), words))
    lines = [
        f"The first {top} of {len(view.rows)} virtual tokens" if len(view.rows) > top else "Virtual tokens",
        *_cut(_left_last(rows)),
    ]
    start = {"text": f"the text {view.start_text!r}", "vocabulary": "words drawn at random"}.get(view.start, view.start)
    lines += wrapped(
        f"Started from: {start}. The mean cosine of two virtual tokens is {view.mean_cosine:.2f}, their effective rank "
        f"{view.effective_rank:.1f} of {len(view.rows)}."
    )
    if near is not None:
        lines += wrapped(
            f"Control: {near.control_draws} random vectors of the same lengths have a cosine of {near.control_mean:.2f}"
            f" with their nearest word, 95 % of them at most {near.control_high:.2f}. Beyond that (*) are "
            f"{near.nearer_than_chance} of {len(near.tokens)} virtual tokens; chance would make it "
            f"{0.05 * len(near.tokens):.0f}. A word has a length of {near.vocabulary_norm:.2f} on average."
        )
        tight = [one.tightness for one in near.tokens if math.isfinite(one.tightness)]
        if tight:
            mean = sum(tight) / len(tight)
            lines += wrapped(
                f"Tightness: the nearest words of one virtual token have a mean cosine of {mean:.2f} with one another, "
                f"those of a random vector {near.control_tightness:.2f} (95 % of them at most "
                f"{near.control_tightness_high:.2f})."
            )
        lines.append("A word that is near is no translation: a prompt works as a whole (Khashabi et al. 2022).")
    for state, words in (("dead", "have no length"), ("not moved", "stand where they started")):
        if places := [str(row.position + 1) for row in view.rows if row.state == state]:
            lines += wrapped(f"Virtual tokens that {words}: {', '.join(places)}.")
    return [*lines, *(line for note in view.notes for line in wrapped(note))]


def _prefix(pairs: tuple[PrefixLayer, ...], top: int) -> list[str]:
    rows = [("read by layers", "keys' length", "values' length", "effective rank", "dead tokens")]
    for one in pairs[:top]:
        read = ", ".join(map(str, one.layers)) or "none"
        dead = ", ".join(str(at + 1) for at in one.dead) or "none"
        rows.append(
            (
                short(read, 24),
                number(one.key_norm),
                number(one.value_norm),
                f"{one.effective_rank:.1f}",
                short(dead, 24),
            )
        )
    text = (
        "Keys decide how much attention a virtual token gets, values what it brings. Lengths are means over the "
        "virtual tokens; the effective rank is that of their keys. A pair that no layer reads fills a place in PEFT's "
        "layout."
    )
    title = f"The first {top} of {len(pairs)} pairs" if len(pairs) > top else "Keys and values before each layer's"
    return [title, *columns(rows), *wrapped(text)]


_ROLES = {
    "scale": "a scale, from 1",
    "bias": "a bias' difference",
    "weight": "a base's weight",
    "rows": "rows of tokens",
    "new": "new",
    "part": "a part of an adapter",
    "other": "an adapter's own",
}


def _changes(changes: tuple[TensorChange, ...], top: int) -> list[str]:
    changes = tuple(one for one in changes if one.role != "part" or one.change_norm is not None)
    ordered = sorted(changes, key=lambda one: (one.relative is None, -(one.relative or one.change_norm or one.norm)))
    rows = [("tensor", "moved", "|change|", "|base|", "largest", "what it is")]
    for one in ordered[:top]:
        numbers = (share(one.relative), number(one.change_norm), number(one.base_norm), number(one.largest))
        rows.append((short(one.name, 40), *numbers, _ROLES.get(one.role, one.role)))
    if not changes:
        return []
    title = f"The {top} of {len(changes)} tensors that moved most" if len(changes) > top else "Tensors"
    lines = [title, *_left_last(rows)]
    for one in changes:
        if one.most_moved:
            best = ", ".join(f"{token} ({share(value)})" for token, value in one.most_moved)
            lines += wrapped(f"Tokens of {one.name} that moved most, by id: {best}.")
    return lines


def _barely(seen: Inspection) -> list[str]:
    names = seen.barely_moved()
    if not names:
        return []
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return wrapped(f"Barely moved, less than a tenth of the median of their kind: {shown}.")


def _at_least(row: PromptRow) -> str:
    return "–" if row.nearest_distance is None else f"≥ {share(row.nearest_distance)}"


def _state(row: PromptRow) -> str:
    return f"copy of {row.duplicate_of + 1}" if row.duplicate_of is not None else row.state


def _word(text: str) -> str:
    return plain_line(text.strip() or text)


def _left_last(rows: Sequence[Sequence[str]]) -> list[str]:
    """As :func:`columns`, with texts in the last column, which are aligned to the left."""
    widest = max(_wide(row[-1]) for row in rows)
    return columns([(*row[:-1], row[-1] + " " * (widest - _wide(row[-1]))) for row in rows])


def _cut(lines: list[str]) -> list[str]:
    """Lines of at most a hundred columns, wide letters counted twice."""
    found = []
    for line in lines:
        if _wide(line) > WIDTH:
            kept = ""
            for letter in line:
                if _wide(kept + letter) > WIDTH - 1:
                    break
                kept += letter
            line = kept.rstrip() + "…"
        found.append(line)
    return found


def _wide(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )
