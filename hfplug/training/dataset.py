"""Rows of a data set: choosing a split, checking columns, and making examples of them.

:func:`load_data` (in ``sources.py``) gives the splits; the functions here take it from there::

    data = load_data("rows.jsonl")
    rows = pick_split(data, "train[:400]")
    examples = examples_from(rows, task, empty_rows="skip")
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from datasets import Dataset, ReadInstruction, concatenate_datasets

from hfplug.errors import DataError, did_you_mean
from hfplug.training.sources import load_data

if TYPE_CHECKING:
    from hfplug.adapters.task import Task

__all__ = [
    "Example",
    "check_columns",
    "data_sha256",
    "default_splits",
    "examples_from",
    "group_references",
    "load_data",
    "pick_split",
]

EmptyRows = Literal["error", "skip"]

_SAME_SPLIT = {"dev": "validation", "val": "validation", "valid": "validation"}
# Columns that mean the same in public summarisation data, most telling first.
_INPUT_NAMES = (
    "dialogue",
    "dialog",
    "conversation",
    "document",
    "article",
    "text",
    "input",
    "source",
    "prompt",
)
_TARGET_NAMES = (
    "summary",
    "highlights",
    "target",
    "abstract",
    "title",
    "output",
    "response",
    "answer",
    "label",
)


@dataclass(frozen=True)
class Example:
    """One row as it is taught or asked.

    Attributes:
        id: Number of the row in the data set that it was read from, from 0.
        text: The input, e.g. a dialogue. Not blank.
        references: The right answers, at least one, none blank. The first is the one to be learnt.
    """

    id: int
    text: str
    references: tuple[str, ...]


def default_splits(data: Mapping[str, Dataset]) -> tuple[str, str]:
    """The splits to train and to score on, where the user named none.

    Returns:
        ``("train", "test")``, or ``("train", "validation")`` where there is no test split.

    Raises:
        DataError: There is one split only, or none is called ``train``. It shows what to pass.
    """
    if len(data) == 1:
        [(name, rows)] = data.items()
        raise DataError(
            f"There is one split only, {name!r} with {rows.num_rows} rows; nothing is left to score on.",
            fix=f"Cut it in two: --train-split '{name}[:80%]' --eval-split '{name}[80%:]'",
        )
    evaluation = next((name for name in ("test", "validation") if name in data), None)
    if "train" in data and evaluation is not None:
        return "train", evaluation
    missing = "train" if "train" not in data else "test"
    names = list(data)
    raise DataError(
        f"There is no split {missing!r}; there are {_counts(data)}.",
        fix=f"Say which to use: --train-split '{names[0]}' --eval-split '{names[1]}'",
    )


def pick_split(data: Mapping[str, Dataset], split: str) -> Dataset:
    """The rows of one split, or of a part of it.

    Args:
        data: Split name -> rows, as from :func:`load_data`.
        split: In the syntax of ``datasets``: ``"train"``, ``"train[:400]"``, ``"train[400:500]"``,
            ``"train[:80%]"``, ``"train[-100:]"``, ``"train+validation"``.

    Returns:
        The rows, at least one.

    Raises:
        DataError: There is no such split, the syntax is wrong, or nothing is left of the split.
    """
    lengths = {name: rows.num_rows for name, rows in data.items()}
    parts: list[Dataset] = []
    for spec in split.split("+"):
        name, bracket, cut = spec.strip().partition("[")
        if name not in lengths:
            name = _SAME_SPLIT.get(name, name)
        if name not in lengths:
            hint = did_you_mean(name, lengths)
            raise DataError(
                f"There is no split {name!r}; there are {_counts(data)}. {hint}".rstrip(),
                fix=f"Pass one of these, or a part of it: '{next(iter(data))}[:80%]'",
            )
        try:
            instructions = ReadInstruction.from_spec(name + bracket + cut).to_absolute(lengths)
        except (ValueError, AssertionError) as error:
            raise DataError(
                f"The split {spec.strip()!r} cannot be understood.",
                fix=f"Write '{name}', '{name}[:400]', '{name}[400:500]' or '{name}[:80%]'.",
            ) from error
        parts += [data[i.splitname].select(range(i.from_, i.to)) for i in instructions if i.from_ < i.to]
    if not parts:
        raise DataError(f"The split {split!r} has no rows; there are {_counts(data)}.", fix="Cut it elsewhere.")
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


def check_columns(dataset: Dataset, task: Task) -> None:
    """Raises ``DataError`` if a column that ``task`` reads is not there, with the flags to pass instead."""
    columns = list(dataset.column_names)
    wanted = [
        ("--input-column", task.input_column, _INPUT_NAMES),
        ("--target-column", task.target_column, _TARGET_NAMES),
        *(("--reference-columns", name, ()) for name in task.reference_columns),
    ]
    missing = [name for _, name, _ in wanted if name not in columns]
    if not missing:
        return
    taken = {name for _, name, _ in wanted if name in columns}
    values: dict[str, list[str]] = {}
    for flag, name, synonyms in wanted:
        guess = name if name in columns else _nearest(name, [c for c in columns if c not in taken], synonyms)
        taken.add(guess or name)
        values.setdefault(flag, []).append(guess or "NAME")
    if all(name in columns for name in task.reference_columns):
        values.pop("--reference-columns", None)
    flags = [f"{flag} {','.join(names)}" for flag, names in values.items()]
    raise DataError(
        f"There is no column {' and no column '.join(map(repr, missing))}; the columns are {columns}.",
        fix=f"Pass {' '.join(flags)}",
    )


def examples_from(dataset: Dataset, task: Task, *, empty_rows: EmptyRows = "error") -> list[Example]:
    """The rows as examples, in their order.

    Args:
        dataset: Rows with the columns that ``task`` reads.
        task: Which columns those are.
        empty_rows: What to do with a row without a text or without a reference: ``"error"`` or ``"skip"``.

    Raises:
        DataError: A column is missing, a value is no text, a row is empty and ``empty_rows`` is
            ``"error"``, or no row is left.
    """
    if empty_rows not in ("error", "skip"):
        raise DataError(f"empty_rows must be 'error' or 'skip'; got {empty_rows!r}.", fix="Pass empty_rows='skip'.")
    check_columns(dataset, task)
    columns = dict.fromkeys((task.input_column, task.target_column, *task.reference_columns))
    examples: list[Example] = []
    empty: list[int] = []
    for number, row in enumerate(dataset.select_columns(list(columns))):
        text = row[task.input_column]
        if text is not None and not isinstance(text, str):
            raise DataError(
                f"Row {number}: column {task.input_column!r} must hold text; got {type(text).__name__}.",
                fix="Turn the column into strings first, or pass --input-column with another one.",
            )
        references = tuple(task.references(row))
        if text is None or not text.strip() or not references:
            empty.append(number)
        else:
            examples.append(Example(number, text, references))
    if empty and empty_rows == "error":
        first = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        raise DataError(
            f"{len(empty)} of {dataset.num_rows} rows have no text in {task.input_column!r} or none in"
            f" {task.target_column!r} (rows {first}, counted from 0).",
            fix="Fill them in, or leave them out with --empty-rows skip",
        )
    if not examples:
        raise DataError(
            f"None of the {dataset.num_rows} rows has both a text in {task.input_column!r} and one in"
            f" {task.target_column!r}.",
            fix="Pass other columns with --input-column and --target-column.",
        )
    return examples


def group_references(examples: Sequence[Example]) -> list[Example]:
    """Rows with the same text as one example with the references of all of them.

    DialogSum's test split repeats each dialogue once for each of its three human summaries. Scored as
    rows of their own, they would count as three dialogues with one reference each.

    Returns:
        One example for each text, in the order in which the texts appear first, with the number of that
        first row. References that are repeated word for word are kept: two humans may agree.
    """
    first: dict[str, int] = {}
    references: dict[str, list[str]] = {}
    for example in examples:
        first.setdefault(example.text, example.id)
        references.setdefault(example.text, []).extend(example.references)
    return [Example(number, text, tuple(references[text])) for text, number in first.items()]


def data_sha256(examples: Iterable[Example]) -> str:
    """SHA-256 (64 hex digits) over texts and references in order; row numbers do not count."""
    digest = hashlib.sha256()
    for example in examples:
        line = json.dumps([example.text, list(example.references)], ensure_ascii=False)
        digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def _nearest(name: str, columns: Sequence[str], synonyms: Sequence[str]) -> str | None:
    """The column that was probably meant by ``name``, or None."""
    lower = {column.lower(): column for column in columns}
    for candidate in (name.lower(), *synonyms):
        if candidate in lower:
            return lower[candidate]
    for candidate in (name.lower(), *synonyms):
        for key, column in lower.items():
            if candidate in key or (len(key) > 2 and key in candidate):
                return column
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    return lower[close[0]] if close else None


def _counts(data: Mapping[str, Dataset]) -> str:
    return ", ".join(f"{name!r} ({rows.num_rows} rows)" for name, rows in data.items())
