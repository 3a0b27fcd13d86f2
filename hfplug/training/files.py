"""Data files as rows: JSON, JSON Lines, CSV, TSV and Parquet.

``datasets`` has loaders for these, made for guessing what a file may be. They turn a column of dates into
timestamps, the summary "None" into a missing value and a list of lists into something else again, write to
a cache, and name neither line nor cure where a file is broken. Texts have to arrive as they were written,
so they are parsed here and handed to ``datasets`` as columns.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, concatenate_datasets

from hfplug.errors import DataError


class _Rows(NamedTuple):
    """Parsed rows, and for each the place to name in an error, e.g. ``"line 7"``."""

    rows: list[dict[str, Any]]
    places: list[str]


def read_file(path: Path) -> Dataset:
    """The rows of one file, in memory. Columns of CSV and TSV hold text.

    Args:
        path: A file that ends in one of :data:`EXTENSIONS`.

    Returns:
        At least one row. A column that only some rows have is None in the others; a column with texts and
        lists of texts holds lists; one with texts and numbers holds texts.

    Raises:
        DataError: The file is of another kind, cannot be read, is broken (the message says in which line)
            or has no rows.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path} ends in {path.suffix or 'no extension'}, which is no kind of data that is read.",
            fix=f"Pass a file that ends in {', '.join(EXTENSIONS)}.",
        )
    try:
        if not path.stat().st_size:
            raise DataError(f"{path} is empty.", fix="Pass a file with at least one row.")
        rows = reader(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason}.", fix="Save the file as UTF-8.") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}.", fix="Check the disk and who may read it."
        ) from error
    if rows.num_rows == 0:
        raise DataError(f"{path} has no rows.", fix="Pass a file with at least one row.")
    return rows


def read_files(paths: Sequence[Path]) -> Dataset:
    """The rows of several files, one after the other.

    Raises:
        DataError: As :func:`read_file`, or the files have different columns.
    """
    parts = [read_file(path) for path in paths]
    if len(parts) == 1:
        return parts[0]
    try:
        return concatenate_datasets(parts)
    except (ValueError, TypeError, pa.ArrowException) as error:
        shapes = "; ".join(f"{path.name}: {part.column_names}" for path, part in zip(paths, parts, strict=True))
        raise DataError(f"The files of one split have different columns ({shapes}).", fix="Make them alike.") from error


def _read_jsonl(path: Path) -> Dataset:
    return _as_dataset(path, _parse_lines(path, path.read_text(encoding="utf-8-sig")))


def _read_json(path: Path) -> Dataset:
    """A list of objects, or, as is common under this name too, JSON Lines."""
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return Dataset.from_dict({})
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        first = next(line for line in text.split("\n") if line.strip())
        if _is_object(first):
            return _as_dataset(path, _parse_lines(path, text))
        raise DataError(
            f"{path}, line {error.lineno}: no valid JSON ({error.msg}, column {error.colno}).",
            fix="Put that line right.",
        ) from error
    if isinstance(value, dict):
        _refuse_wrapped(path, value)
        value = [value]
    if not isinstance(value, list):
        raise DataError(
            f"{path}: a list of objects is needed, one a row; got {_kind(value)}.",
            fix='Write [{"dialogue": "...", "summary": "..."}, ...].',
        )
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, entry {number} of the list: an object is needed; got {_kind(row)}.",
                fix='Write [{"dialogue": "...", "summary": "..."}, ...].',
            )
    return _as_dataset(path, _Rows(value, [f"entry {n}" for n in range(1, len(value) + 1)]))


def _refuse_wrapped(path: Path, value: dict[str, Any]) -> None:
    """Raises if the rows lie under a key, as in ``{"version": 1, "data": [{...}, ...]}``."""
    for key, inner in value.items():
        if isinstance(inner, list) and inner and all(isinstance(row, dict) for row in inner):
            raise DataError(
                f"{path}: a list of objects is needed, one a row; got one object with the keys {list(value)[:8]}.",
                fix=f"Write the {len(inner)} entries under {key!r} into a file of their own.",
            )


def _parse_lines(path: Path, text: str) -> _Rows:
    rows, places = [], []
    # Not splitlines(): a text may hold U+2028, which ends a line for Python and not for JSON.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}, line {number}: no valid JSON ({error.msg}, column {error.colno}): {_short(line)}.",
                fix="Put that line right: one JSON object a line.",
            ) from error
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, line {number}: a JSON object is needed; got {_kind(row)}.",
                fix='Write one object a line: {"dialogue": "...", "summary": "..."}.',
            )
        rows.append(row)
        places.append(f"line {number}")
    return _Rows(rows, places)


def _read_csv(path: Path) -> Dataset:
    return _as_dataset(path, _parse_csv(path, ","))


def _read_tsv(path: Path) -> Dataset:
    return _as_dataset(path, _parse_csv(path, "\t"))


def _parse_csv(path: Path, delimiter: str) -> _Rows:
    # The limit, 128 KiB a field, is one for the process: a long dialogue passes it, so it is put back after.
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            try:
                return _csv_rows(path, reader, delimiter)
            except csv.Error as error:
                raise DataError(
                    f"{path}, line {reader.line_num}: {error}.",
                    fix='Write a text that holds quotes or line breaks as "he said ""no"" to it".',
                ) from error
    finally:
        csv.field_size_limit(limit)


def _csv_rows(path: Path, reader: Any, delimiter: str) -> _Rows:
    header: list[str] = next((fields for fields in reader if fields), [])
    if len(set(header)) < len(header):
        raise DataError(f"{path}: a column is named twice in {header}.", fix="Name each column once.")
    rows, places = [], []
    for fields in reader:
        if not fields:
            continue  # an empty line
        if len(fields) != len(header):
            name = {",": "comma", "\t": "tab"}[delimiter]
            raise DataError(
                f"{path}, line {reader.line_num}: {len(fields)} fields, but the header has {len(header)}"
                f" ({_short(', '.join(header))}).",
                fix=f"Put a text that holds a {name} into double quotes.",
            )
        rows.append(dict(zip(header, fields, strict=True)))
        places.append(f"line {reader.line_num}")
    return _Rows(rows, places)


def _read_parquet(path: Path) -> Dataset:
    try:
        return Dataset(pq.ParquetFile(path).read())
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet: {_short(str(error).splitlines()[0].rstrip('.'))}.",
            fix="Write the file again as Parquet.",
        ) from error


_READERS: dict[str, Callable[[Path], Dataset]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
EXTENSIONS: tuple[str, ...] = tuple(_READERS)


def _as_dataset(path: Path, parsed: _Rows) -> Dataset:
    # Of all rows: Dataset.from_list would take the columns of the first row only.
    columns = dict.fromkeys(column for row in parsed.rows for column in row)
    arrays = {}
    for column in columns:
        values = _alike([row.get(column) for row in parsed.rows])
        try:
            arrays[column] = pa.array(values)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise _mixed_column(path, column, values, parsed.places, error) from error
    return Dataset(pa.table(arrays))


def _alike(values: list[Any]) -> list[Any]:
    """One kind for a column of two: texts beside lists become lists, texts beside numbers become texts."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {str, list}:
        return [[value] if isinstance(value, str) else value for value in values]
    if len(kinds) > 1 and str in kinds and kinds <= {str, int, float, bool}:
        return [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
    return values


def _mixed_column(path: Path, column: str, values: list[Any], places: list[str], error: Exception) -> DataError:
    seen: dict[str, str] = {}
    for value, place in zip(values, places, strict=True):
        if value is not None:
            seen.setdefault(_kind(value), place)
    if len(seen) > 1:
        what = " and ".join(f"{kind} ({place})" for kind, place in list(seen.items())[:2])
        return DataError(f"{path}: column {column!r} holds {what}.", fix="Give all rows the same kind of value there.")
    return DataError(
        f"{path}: column {column!r} cannot be stored: {_short(str(error))}.",
        fix="Give all rows the same kind of value there.",
    )


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False


def _kind(value: Any) -> str:
    names = {str: "a text", list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _short(text: str, limit: int = 120) -> str:
    text = text.strip()
    return text if len(text) <= limit else text[: limit - 3] + "..."
