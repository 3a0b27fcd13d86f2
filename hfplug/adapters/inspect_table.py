"""What was seen in an adapter, as text for a terminal: at most a hundred columns, the rest is in the JSON."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from hfplug.adapters.inspect import Inspection
from hfplug.adapters.inspect_change import TensorChange
from hfplug.adapters.inspect_low_rank import USED_SHARE, LowRankLayer
from hfplug.adapters.inspect_prefix import PrefixLayer
from hfplug.adapters.inspect_prompt import PromptLoss, PromptRow, PromptView

WIDTH = 100
_BARS = " ▁▂▃▄▅▆▇█"
_SPECTRUM = 16


@dataclass(frozen=True, kw_only=True)
class Block:
    """A table and what is to be said of it.

    Attributes:
        title: Above it, or empty.
        rows: Its heading and its rows, names whole; or nothing.
        text_last: Whether its last column holds texts, which are aligned to the left.
        sentences: Below it.
    """

    title: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    text_last: str = "no"
    sentences: tuple[str, ...] = ()


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
    return "\n".join([*map(plain_line, lines), *render_blocks(inspection_blocks(seen, top=top))])


def inspection_blocks(seen: Inspection, *, top: int = 20) -> list[Block]:
    """What there is to say of an adapter, table by table; as for :func:`render_inspection`."""
    found = [
        *(_layers(seen.layers, top) if seen.layers else ()),
        *([_prompt(seen.prompt, top)] if seen.prompt is not None else ()),
        *([_loss(seen.loss, top)] if seen.loss is not None else ()),
        *([_prefix(seen.prefix, top)] if seen.prefix else ()),
        *_changes(seen.changes, top),
        Block(sentences=tuple(_barely(seen))),
        Block(sentences=seen.notes),
    ]
    return [block for block in found if block.rows or block.sentences]


def render_blocks(blocks: Sequence[Block]) -> list[str]:
    """Lines of text, an empty one before each block."""
    lines: list[str] = []
    for block in blocks:
        rows = [(short(first, 40), *others) for first, *others in block.rows]
        table = (_left_last(rows) if block.text_last == "yes" else columns(rows)) if rows else []
        sentences = [line for sentence in block.sentences for line in wrapped(sentence)]
        lines += ["", *([block.title] if block.title else ()), *_cut(table), *sentences]
    return [plain_line(line) for line in lines]


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


def _layers(layers: tuple[LowRankLayer, ...], top: int) -> Iterator[Block]:
    rows: list[tuple[str, ...]] = [("layer", "moved", "|update|", "|W|", "rank", "used", "effective", "spectrum")]
    for one in most_moved(layers, top):
        cells = (share(one.relative), number(one.update_norm), number(one.weight_norm), str(one.rank))
        rank = (str(one.used_rank), f"{one.effective_rank:.1f}", spectrum(one.singular_values, 8).ljust(8))
        rows.append((one.name, *cells, *rank))
    used = sorted(one.used_rank for one in layers)
    ranks = sorted({one.rank for one in layers})
    spread = f"{used[0]}" if used[0] == used[-1] else f"{used[0]} to {used[-1]}, median {median(used):.0f}"
    of = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    lower = " A lower r would hold what was learnt." if max(used) <= max(ranks) // 2 else ""
    yield Block(
        title=f"The {top} of {len(layers)} layers that moved most" if len(layers) > top else "Layers",
        rows=tuple(rows),
        sentences=(
            f"moved: the update's norm by that of W. used: the fewest directions that hold {100 * USED_SHARE:.0f} % of "
            "its squared norm. effective: exp of the entropy of its singular values (Roy and Vetterli 2007). spectrum: "
            "the singular values, each by the largest.",
            f"Used rank: {spread}, of {of}.{lower}",
        ),
    )
    yield from _places(layers)


def _places(layers: tuple[LowRankLayer, ...]) -> Iterator[Block]:
    """By the last part of the name: which kind of layer moved."""
    groups: dict[str, list[LowRankLayer]] = {}
    for one in layers:
        groups.setdefault(one.name.partition("[")[0].rpartition(".")[2], []).append(one)
    if len(groups) < 2 or any(one.relative is None for one in layers):
        return
    rows: list[tuple[str, ...]] = [("kind of layer", "layers", "moved, median", "least", "most", "used rank, median")]
    for ending, members in groups.items():
        moved = sorted(float(one.relative or 0) for one in members)
        shown = (share(median(moved)), share(moved[0]), share(moved[-1]))
        rows.append((ending, str(len(members)), *shown, f"{median(one.used_rank for one in members):.0f}"))
    yield Block(rows=tuple(rows))


def _prompt(view: PromptView, top: int) -> Block:
    rows: list[tuple[str, ...]] = [("token", "length", "moved", "state", "nearest words and their cosine")]
    for row in view.rows[:top]:
        words = ""
        if view.near is not None:
            token = view.near.tokens[row.position]
            mark = "*" if token.nearer_than_chance else " "
            words = mark + ", ".join(f"{_word(one.text)} {one.cosine:.2f}" for one in token.neighbours)
        moved = _at_least(row) if view.start == "vocabulary" else share(row.drift)
        rows.append((str(row.position + 1), number(row.norm), moved, _state(row), words))
    count = len(view.rows)
    return Block(
        title=f"The first {top} of {count} virtual tokens" if count > top else "Virtual tokens",
        rows=tuple(rows),
        text_last="yes",
        sentences=(*_prompt_sentences(view), *view.notes),
    )


def _prompt_sentences(view: PromptView) -> Iterator[str]:
    start = {"text": f"the text {view.start_text!r}", "vocabulary": "words drawn at random"}.get(view.start, view.start)
    yield (
        f"Started from: {start}. The mean cosine of two virtual tokens is {view.mean_cosine:.2f}, their effective rank "
        f"{view.effective_rank:.1f} of {len(view.rows)}."
    )
    near = view.near
    if near is not None:
        yield (
            f"Control: {near.control_draws} random vectors of the same lengths have a cosine of {near.control_mean:.2f}"
            f" with their nearest word, 95 % of them at most {near.control_high:.2f}. Beyond that (*) are "
            f"{near.nearer_than_chance} of {len(near.tokens)} virtual tokens; chance would make it "
            f"{0.05 * len(near.tokens):.0f}. A word has a length of {near.vocabulary_norm:.2f} on average."
        )
        if tight := [one.tightness for one in near.tokens if math.isfinite(one.tightness)]:
            yield (
                "Tightness: the nearest words of one virtual token have a mean cosine of "
                f"{sum(tight) / len(tight):.2f} with one another, those of a random vector "
                f"{near.control_tightness:.2f} (95 % of them at most {near.control_tightness_high:.2f})."
            )
        yield "A word that is near is no translation: a prompt works as a whole (Khashabi et al. 2022)."
    for state, words in (("dead", "have no length"), ("not moved", "stand where they started")):
        if places := [str(row.position + 1) for row in view.rows if row.state == state]:
            yield f"Virtual tokens that {words}: {', '.join(places)}."


def _loss(loss: PromptLoss, top: int) -> Block:
    order = sorted(range(len(loss.left_out)), key=lambda at: -loss.left_out[at])
    rows: list[tuple[str, ...]] = [("token left out", "loss", "more than with it")]
    rows += [(str(at + 1), f"{loss.left_out[at]:.4f}", f"{loss.left_out[at] - loss.whole:+.4f}") for at in order[:top]]
    return Block(
        title="The loss without one virtual token, those first that it needs most",
        rows=tuple(rows),
        sentences=(
            f"Mean cross-entropy a token of the answers to {loss.rows} rows: {loss.whole:.4f} with the prompt, "
            f"{loss.without:.4f} without one.",
            f"As a prompt in words, the nearest of each virtual token: {loss.hard_prompt!r}. Its loss is "
            f"{loss.hard:.4f}; that of words drawn at random {loss.random_words:.4f} (mean of {loss.random_draws}).",
        ),
    )


def _prefix(pairs: tuple[PrefixLayer, ...], top: int) -> Block:
    rows: list[tuple[str, ...]] = [
        ("read by layers", "keys' length", "values' length", "effective rank", "dead tokens")
    ]
    for one in pairs[:top]:
        read = ", ".join(map(str, one.layers)) or "none"
        dead = ", ".join(str(at + 1) for at in one.dead) or "none"
        lengths = (number(one.key_norm), number(one.value_norm))
        rows.append((short(read, 24), *lengths, f"{one.effective_rank:.1f}", short(dead, 24)))
    return Block(
        title=f"The first {top} of {len(pairs)} pairs" if len(pairs) > top else "Keys and values before each layer's",
        rows=tuple(rows),
        sentences=(
            "Keys decide how much attention a virtual token gets, values what it brings. Lengths are means over the "
            "virtual tokens; the effective rank is that of their keys. A pair that no layer reads fills a place in "
            "PEFT's layout.",
        ),
    )


_ROLES = {
    "scale": "a scale, from 1",
    "bias": "a bias' difference",
    "weight": "a base's weight",
    "rows": "rows of tokens",
    "new": "new",
    "part": "a part of an adapter",
    "other": "an adapter's own",
}


def _changes(changes: tuple[TensorChange, ...], top: int) -> Iterator[Block]:
    changes = tuple(one for one in changes if one.role != "part" or one.change_norm is not None)
    if not changes:
        return
    ordered = sorted(changes, key=lambda one: (one.relative is None, -(one.relative or one.change_norm or one.norm)))
    rows: list[tuple[str, ...]] = [("tensor", "moved", "|change|", "|base|", "largest", "what it is")]
    for one in ordered[:top]:
        numbers = (share(one.relative), number(one.change_norm), number(one.base_norm), number(one.largest))
        rows.append((one.name, *numbers, _ROLES.get(one.role, one.role)))
    sentences = []
    for one in changes:
        if one.most_moved:
            best = ", ".join(f"{token} ({share(value)})" for token, value in one.most_moved)
            sentences.append(f"Tokens of {one.name} that moved most, by id: {best}.")
    title = f"The {top} of {len(changes)} tensors that moved most" if len(changes) > top else "Tensors"
    yield Block(title=title, rows=tuple(rows), text_last="yes", sentences=tuple(sentences))


def _barely(seen: Inspection) -> list[str]:
    names = seen.barely_moved()
    if not names:
        return []
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return [f"Barely moved, less than a tenth of the median of their kind: {shown}."]


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
