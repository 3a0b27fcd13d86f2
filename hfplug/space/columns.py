"""One column of a comparison: which variant it shows, how far its answer is, and what it cost.

Values only: a column is made by :mod:`hfplug.space.runs` from what the service reports, drawn by
:mod:`hfplug.space.view`, and written out by :mod:`hfplug.space.results`. Not measured is None, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hfplug.serving.service import VariantInfo

State = Literal["waiting", "writing", "done", "length", "stopped", "failed"]
BASE = "base"
SHOWN_METRICS = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One variant and its answer.

    Attributes:
        name: The variant.
        kind: ``"base"``, ``"full"`` or ``"adapter"``.
        method: Name of the method, or None for the base.
        trainable_parameters, trainable_share, disk_bytes: As in the service's ``VariantInfo``.
        source: The repo that it was read from with its commit, or ``""`` for a folder.
        banner: Why the column is not what it says, or None.
        state: How far the answer is. ``"length"`` is done too: the model was cut off at the most tokens.
        text: The answer so far.
        tokens: How many tokens it has.
        waited_seconds: From the request to the start of its pass.
        first_token_seconds: From the request to the first token, waiting left out.
        tokens_per_second: While it was generating.
        truncated: ``"yes"`` if the dialogue was longer than the model may read, so that its end was left out.
        rouge: F1 against the reference, 0 to 1, by metric; empty without a reference.
        problem: What went wrong, in words for people, or None.
    """

    name: str
    kind: Literal["base", "full", "adapter"]
    method: str | None = None
    trainable_parameters: int | None = None
    trainable_share: float | None = None
    disk_bytes: int | None = None
    source: str = ""
    banner: str | None = None
    state: State = "waiting"
    text: str = ""
    tokens: int = 0
    waited_seconds: float | None = None
    first_token_seconds: float | None = None
    tokens_per_second: float | None = None
    truncated: Literal["yes", "no"] = "no"
    rouge: Mapping[str, float] = field(default_factory=dict)
    problem: str | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.state not in ("waiting", "writing")

    def to_json(self) -> dict[str, Any]:
        """The column as plain JSON values."""
        return {
            "variant": self.name,
            "kind": self.kind,
            "method": self.method,
            "source": self.source or None,
            "trainable_parameters": self.trainable_parameters,
            "trainable_share": self.trainable_share,
            "disk_bytes": self.disk_bytes,
            "banner": self.banner,
            "state": self.state,
            "text": self.text,
            "tokens": self.tokens,
            "waited_seconds": self.waited_seconds,
            "first_token_seconds": self.first_token_seconds,
            "tokens_per_second": self.tokens_per_second,
            "truncated": self.truncated,
            "rouge": dict(self.rouge),
            "problem": self.problem,
        }


def column_of(info: VariantInfo, source: str = "") -> Column:
    """An empty column for a variant of the service.

    Args:
        info: The variant.
        source: The repo and commit that it was read from, or ``""``.
    """
    return Column(
        name=info.name,
        kind=info.kind,
        method=info.method or None,
        trainable_parameters=info.trainable_parameters,
        trainable_share=info.trainable_share,
        disk_bytes=info.disk_bytes,
        source=source,
        banner=info.banner,
    )


def method_label(method: str | None, kind: str) -> str:
    """The method in words: ``"prompt tuning"``; ``"untouched"`` for the base."""
    if kind == BASE:
        return "untouched"
    return (method or "method unknown").replace("_", " ")


def with_rouge(column: Column, references: Sequence[str]) -> Column:
    """The column scored against the references; as it is where there is nothing that ROUGE can count.

    ROUGE looks at the letters a to z and at digits only: for text in another script there is no score.
    """
    from hfplug.comparison.rouge import score_rows
    from hfplug.errors import DataError

    kept = [text for text in references if text.strip()]
    if not kept or not column.finished or column.state == "failed":
        return column
    try:
        scores = score_rows([column.text], [kept], SHOWN_METRICS)
    except DataError:
        return column
    return replace(column, rouge={metric: float(scores.mean[metric][0]) for metric in scores.metrics})


def base_column(columns: Iterable[Column]) -> Column | None:
    """The base among the columns, or None."""
    return next((column for column in columns if column.kind == BASE), None)
