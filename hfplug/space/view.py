"""Columns as HTML. What a person, a repo or a model wrote is text: every text goes through :func:`escaped`.

The functions give fragments for one ``gr.HTML`` each. They hold no script and no address outside the page.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from hfplug.comparison.quantities import NOT_MEASURED, count, memory, number, seconds, share
from hfplug.space.columns import BASE, Column, State, base_column, method_label

if TYPE_CHECKING:
    from hfplug.comparison.words import Span

Names = Literal["shown", "hidden"]
Notice = Literal["info", "good", "warning", "error"]

_STATES = {
    "waiting": "waiting",
    "writing": "writing…",
    "done": "finished",
    "length": "cut off",
    "stopped": "stopped",
    "failed": "no answer",
}
_METRIC_LABELS = {"rouge1": "1", "rouge2": "2", "rougeL": "L"}
_NOTICE_WORDS = {"info": "", "good": "Done: ", "warning": "Note: ", "error": "Not possible: "}


def escaped(text: object) -> str:
    """Text as HTML that shows it and nothing else, in an element and in a quoted attribute alike.

    Beside markup, control characters are shown as the replacement character, and those that turn the direction of
    what follows (U+202A to U+202E, U+2066 to U+2069) are left out, so that no text can rearrange the page.
    """
    return html.escape("".join(map(_printable, str(text))), quote=True)


def notice_html(kind: Notice, text: str, fix: str | None = None) -> str:
    """One sentence to a person, and what to do about it; ``""`` for an empty text."""
    if not text:
        return ""
    role = "alert" if kind == "error" else "status"
    what_to_do = f"<span>{escaped(fix)}</span>" if fix else ""
    start = f'<span class="hf-notice-kind">{_NOTICE_WORDS[kind]}</span>'
    return (
        f'<div class="hf-notice hf-notice-{kind}" role="{role}">{start}<span>{escaped(text)}</span>{what_to_do}</div>'
    )


def columns_html(
    columns: Sequence[Column], *, names: Names = "shown", dialogue: str = "", labels: Sequence[str] = ()
) -> str:
    """All columns, side by side on a wide screen and below one another on a narrow one.

    Args:
        columns: In the order in which they are shown.
        names: ``"hidden"`` in a blind round: no name, and nothing that would give it away. Its answers are held back
            until the last has come, as the order in which they come would tell the slow from the fast.
        dialogue: What was asked, to find names and numbers that occur nowhere in it; ``""`` for no such check.
        labels: What the columns were called before their names were shown; empty if they were not blind.

    Returns:
        The grid with a legend of the marks, or what to do where there are no columns.
    """
    if not columns:
        return (
            '<div class="hf-empty"><p class="hf-empty-title">Nothing compared yet</p><p>Paste a dialogue or pick an '
            "example, choose the columns, and press <b>Compare</b>. The answers appear here side by side.</p></div>"
        )
    if names == "hidden":
        drawn, legend = _blind_columns(columns), ""
    else:
        base = base_column(columns)
        marks = labels or [""] * len(columns)
        drawn = "".join(
            _column(one, at, base, dialogue, label) for at, (one, label) in enumerate(zip(columns, marks, strict=True))
        )
        legend = _legend(columns, base)
    return f'<div class="hf-columns" data-count="{len(columns)}">{drawn}</div>{legend}'


def marked_html(text: str, spans: Iterable[Span]) -> str:
    """A text with some places in ``<mark>``, which a screen reader announces and which is underlined as well."""
    parts, at = [], 0
    for span in spans:
        parts += [escaped(text[at : span.start]), "<mark>", escaped(text[span.start : span.end]), "</mark>"]
        at = span.end
    return "".join([*parts, escaped(text[at:])])


def blind_label(at: int) -> str:
    """What the column at this place is called in a blind round: ``"Answer A"``."""
    letters = ""
    at += 1
    while at:
        at, letter = divmod(at - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return f"Answer {letters}"


def _printable(letter: str) -> str:
    if letter in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069":
        return ""
    if (ord(letter) < 32 and letter not in "\t\n\r") or 0xD800 <= ord(letter) <= 0xDFFF or ord(letter) == 127:
        return "\ufffd"
    return letter


def _blind_columns(columns: Sequence[Column]) -> str:
    """Columns without anything that tells one variant from another but the answer itself."""
    over = all(column.finished for column in columns)
    parts = []
    for at, column in enumerate(columns):
        state = column.state if over else "writing"
        # What went wrong may name the variant.
        shown = replace(column, problem=column.problem and "This answer failed.")
        text = _answer(shown, None) if over else '<p class="hf-text hf-nothing">Shown when all have finished.</p>'
        parts.append(_frame(at, "blind", blind_label(at), "", state, text))
    return "".join(parts)


def _column(column: Column, at: int, base: Column | None, dialogue: str, label: str) -> str:
    method = method_label(column.method, column.kind)
    about = [label, "" if method == column.name.replace("_", " ") else method]
    banner = f'<p class="hf-banner" role="note">{escaped(column.banner)}</p>' if column.banner else ""
    inside = f"{banner}{_answer(column, base)}{_remarks(column, dialogue)}{_figures(column)}"
    return _frame(at, column.kind, column.name, " · ".join(filter(None, about)), column.state, inside)


def _frame(at: int, kind: str, title: str, about: str, state: State, inside: str) -> str:
    busy = "true" if state in ("waiting", "writing") else "false"
    beside = f'<span class="hf-method">{escaped(about)}</span>' if about else ""
    return (
        f'<section class="hf-column hf-kind-{escaped(kind)}" aria-labelledby="hf-title-{at}" aria-busy="{busy}" '
        f'data-state="{state}"><header><h3 id="hf-title-{at}">{escaped(title)}</h3>{beside}'
        f'<span class="hf-state hf-state-{state}">{_STATES[state]}</span></header>{inside}</section>'
    )


def _answer(column: Column, base: Column | None) -> str:
    if column.problem:
        return f'<p class="hf-problem" role="alert">{escaped(column.problem)}</p>'
    if not column.text.strip():
        words = "The model wrote nothing." if column.finished else "&nbsp;"
        return f'<p class="hf-text hf-nothing">{words}</p>'
    text = escaped(column.text)
    if base is not None and column.kind != BASE and column.finished and base.finished and not base.problem:
        from hfplug.comparison.marks import differing_words

        text = marked_html(column.text, differing_words(column.text, base.text))
    return f'<p class="hf-text" tabindex="0">{text}</p>'


def _remarks(column: Column, dialogue: str) -> str:
    """What a reader should know of this answer: a dialogue that was cut, names that it may have made up."""
    remarks = []
    if column.truncated == "yes":
        remarks.append("The dialogue is longer than this model reads; its end was left out.")
    if dialogue and column.finished and column.text:
        from hfplug.comparison.marks import unsupported

        found = dict.fromkeys(column.text[span.start : span.end] for span in unsupported(column.text, dialogue))
        if found:
            remarks.append(f"Not in the dialogue: {', '.join(found)}.")
    return "".join(f'<p class="hf-remark">{escaped(remark)}</p>' for remark in remarks)


def _figures(column: Column) -> str:
    trained = NOT_MEASURED if column.trainable_parameters is None else count(column.trainable_parameters)
    if column.trainable_parameters is not None and column.trainable_share is not None:
        trained += f" ({share(column.trainable_share)})"
    pairs = [
        ("Trained", "nothing" if column.kind == BASE else trained),
        ("Size on disk", memory(column.disk_bytes)),
        ("First token", seconds(column.first_token_seconds, unit=True)),
        ("Speed", f"{number(column.tokens_per_second)} tokens/s" if column.tokens_per_second else NOT_MEASURED),
        ("Length", f"{column.tokens} tokens"),
    ]
    if column.rouge:
        scores = "/".join(f"{100 * column.rouge[metric]:.1f}" for metric in column.rouge)
        pairs.append((f"ROUGE {'/'.join(_METRIC_LABELS.get(metric, metric) for metric in column.rouge)}", scores))
    if column.source:
        pairs.append(("From", column.source))
    rows = "".join(f"<div><dt>{escaped(label)}</dt><dd>{escaped(value)}</dd></div>" for label, value in pairs)
    return f'<dl class="hf-figures">{rows}</dl>'


def _legend(columns: Sequence[Column], base: Column | None) -> str:
    words = []
    if base is not None and len(columns) > 1:
        words.append("<mark>Underlined</mark> words are not in the base's answer at that place.")
    words.append(
        "“Not in the dialogue” names words and numbers that occur nowhere in it: a cheap sign of invention, no proof."
    )
    if any(column.tokens_per_second for column in columns):
        words.append("Times are of this run, on this machine, beside whatever else it does.")
    return f'<p class="hf-legend">{" ".join(words)}</p>'
