"""A task: what is being taught, and how the taught model is asked.

A task is stored with every adapter (``hfplug_task.json``), so that whoever loads the adapter knows the
prompt that it was trained with. This module imports the standard library and ``hfplug.errors`` only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hfplug.errors import DataError, did_you_mean

DEFAULT_DECODING: Mapping[str, Any] = {"max_new_tokens": 128, "do_sample": False, "num_beams": 1}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is being taught: a prompt, the columns to read, the decoding defaults and the metric.

    Args:
        name: A short name on one line, e.g. ``"summary"``.
        prompt: Template of the text given to the model. It holds ``{<input_column>}`` exactly once, e.g.
            ``"Summarize the following conversation.\\n\\n{dialogue}\\n\\nSummary:"``. Any other brace in it
            is plain text.
        input_column: The column that is put into the prompt.
        target_column: The column to be learnt. It may hold a text or a list of texts (several references).
        reference_columns: Further columns with references. They are used for scoring only.
        metric: Name of the metric, e.g. ``"rouge"``.
        max_input_tokens: Length of the whole prompt, instruction included, in tokens (at least 1).
        max_target_tokens: Length of the target in tokens (at least 1).
        decoding: Keyword arguments of ``generate`` that the task is asked with. JSON values only.

    Raises:
        DataError: A value is of the wrong type or out of range, or the prompt does not hold its one
            placeholder.
    """

    name: str
    prompt: str
    input_column: str = "dialogue"
    target_column: str = "summary"
    reference_columns: tuple[str, ...] = ()
    metric: str = "rouge"
    max_input_tokens: int = 512
    max_target_tokens: int = 128
    decoding: Mapping[str, Any] = field(default_factory=lambda: dict(DEFAULT_DECODING), hash=False)

    def __post_init__(self) -> None:
        for key in ("name", "prompt", "input_column", "target_column", "metric"):
            _require_text(key, getattr(self, key))
        if len(self.name.splitlines()) != 1:
            raise DataError(f"A task's name is one line; got {self.name!r}.", fix="Pass name='summary', say.")
        object.__setattr__(self, "reference_columns", _columns(self.reference_columns))
        if self.input_column in (self.target_column, *self.reference_columns):
            raise DataError(
                f"Task {self.name!r} reads {self.input_column!r} as input and as target or reference.",
                fix="Pass another input_column, or another target_column.",
            )
        found = self.prompt.count(self._placeholder)
        if found != 1:
            raise DataError(
                f"The prompt of task {self.name!r} must hold {self._placeholder} exactly once;"
                f" it holds it {found} times: {_short(self.prompt)}.",
                fix=f"Put {self._placeholder} where the text of column {self.input_column!r} belongs,"
                " or pass input_column=... to name another column.",
            )
        for key in ("max_input_tokens", "max_target_tokens"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise DataError(
                    f"{key} of task {self.name!r} must be a whole number, 1 or more; got {value!r}.",
                    fix=f"Pass {key}=128, say.",
                )
        object.__setattr__(self, "decoding", _decoding(self.decoding, self.name))

    @property
    def _placeholder(self) -> str:
        return "{" + self.input_column + "}"

    @property
    def prefix(self) -> str:
        """The prompt's text before the input."""
        return self.prompt.split(self._placeholder, 1)[0]

    @property
    def suffix(self) -> str:
        """The prompt's text after the input."""
        return self.prompt.split(self._placeholder, 1)[1]

    @property
    def instruction(self) -> str:
        """The prompt without the input, runs of whitespace collapsed to one space."""
        return " ".join((self.prefix + " " + self.suffix).split())

    def render(self, text: str) -> str:
        """The prompt for one ``text``. Braces in the text or elsewhere in the template stay as they are."""
        if not isinstance(text, str):
            raise DataError(
                f"Column {self.input_column!r} must hold text; got {type(text).__name__}: {_short(text)}.",
                fix=f"Turn the column {self.input_column!r} into strings first.",
            )
        return self.prefix + text + self.suffix

    def references(self, row: Mapping[str, Any]) -> list[str]:
        """All references of one row: the target column first, then ``reference_columns``.

        Args:
            row: One row of the data. A column may hold a text, a list of texts, or None.

        Returns:
            The references in order, without blanks. It is empty where the row has none.

        Raises:
            DataError: The target column is missing, or a column holds something else than text.
        """
        if self.target_column not in row:
            raise DataError(
                f"There is no column {self.target_column!r}; there are {sorted(map(str, row))}."
                f" {did_you_mean(self.target_column, map(str, row))}".rstrip(),
                fix="Pass target_column=... to name the column with the target.",
            )
        found: list[str] = []
        for column in (self.target_column, *self.reference_columns):
            value = row.get(column)
            values = [value] if value is None or isinstance(value, str) else value
            if not isinstance(values, Sequence) or not all(v is None or isinstance(v, str) for v in values):
                raise DataError(
                    f"Column {column!r} must hold a text or a list of texts; got {_short(value)}.",
                    fix=f"Turn the column {column!r} into strings first.",
                )
            found.extend(v for v in values if v and v.strip())
        return found

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON values; ``from_json`` gives an equal task back."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        # Through JSON and back, so that nothing nested is shared with this frozen object.
        return json.loads(json.dumps(values | {"decoding": dict(self.decoding)}))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Task:
        """The task that ``to_json`` described.

        Raises:
            DataError: ``values`` is no mapping, a key is unknown, or ``name`` or ``prompt`` is missing.
        """
        if not isinstance(values, Mapping):
            raise DataError(
                f"A task is a mapping with the keys 'name' and 'prompt'; got {type(values).__name__}.",
                fix='Write {"name": "summary", "prompt": "Summarize.\\n\\n{dialogue}"}.',
            )
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                hint = did_you_mean(str(key), known)
                raise DataError(f"A task has no key {key!r}.", fix=hint or f"The keys are {known}.")
        for key in ("name", "prompt"):
            if key not in values:
                raise DataError(f"A task needs the key {key!r}; got {sorted(values)}.", fix=f"Add {key!r}.")
        return cls(**values)


def _require_text(key: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"A task's {key} must be text, not blank; got {value!r}.", fix=f"Pass {key}='...'.")


def _columns(value: object) -> tuple[str, ...]:
    # A lone string is a sequence of letters, never what was meant.
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise DataError(
            f"A task's reference_columns must be a list of column names; got {value!r}.",
            fix=f"Pass reference_columns=[{value!r}].",
        )
    for column in value:
        _require_text("reference_columns", column)
    return tuple(value)


def _decoding(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise DataError(
            f"The decoding of task {name!r} must map names to values; got {_short(value)}.",
            fix="Pass decoding={'max_new_tokens': 64}, say.",
        )
    try:
        return json.loads(json.dumps(dict(value)))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The decoding of task {name!r} must hold JSON values only: {error}.",
            fix="Pass numbers, texts, lists, true/false or None.",
        ) from error


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
