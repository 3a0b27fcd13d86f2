"""What a comparison of adapters that exist is to do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfplug.adapters.task import Task
from hfplug.errors import StudyError, did_you_mean

ON_MISMATCH = ("refuse", "note")
# Columns that every comparison has of its own.
_TAKEN = ("base", "first_turns", "human")
# Names become file names and words of a table.
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,59}")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True, kw_only=True)
class VariantSource:
    """One adapter to compare.

    Attributes:
        name: What its column is called.
        source: A folder, or a repo as ``hf://owner/name`` or ``hf://owner/name@revision``.
    """

    name: str
    source: str

    @classmethod
    def parse(cls, text: str) -> VariantSource:
        """What ``--variant`` was given.

        Args:
            text: ``NAME=SOURCE``, or a source alone, which is then called as its folder or repo is.

        Raises:
            StudyError: There is no such folder, or no name can be made of it.
        """
        name, equals, source = text.partition("=")
        if not equals or Path(text).exists():
            name, source = "", text
        source = source.strip()
        if not source:
            raise StudyError(
                f"--variant takes NAME=SOURCE, not {text!r}.", fix="For example --variant lora=study/adapters/lora"
            )
        source = _address(source)
        if not name:
            place = source.removeprefix("hf://").partition("@")[0] if source.startswith("hf://") else None
            name = (place or str(Path(source).absolute())).rstrip("/").rpartition("/")[2]
        return cls(name=name.strip(), source=source)


def _address(source: str) -> str:
    """A folder as it is, a repo as ``hf://…``."""
    path = Path(source).expanduser()
    if source.startswith("hf://") or path.is_dir():
        return source if source.startswith("hf://") else str(path)
    if path.exists():
        raise StudyError(f"{source!r} is a file; an adapter is a folder or a repo.", fix=f"Pass {path.parent}.")
    if _REPO.fullmatch(source):
        return f"hf://{source}"
    siblings = [child.name for child in path.parent.iterdir() if child.is_dir()] if path.parent.is_dir() else []
    guess = did_you_mean(path.name, siblings)
    raise StudyError(
        f"There is no folder {source!r}, and it is no repo id either.",
        fix=guess or "Pass a folder, OWNER/NAME, OWNER/NAME@REVISION or hf://OWNER/NAME.",
    )


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Everything that decides the numbers of a comparison of adapters that exist.

    Attributes:
        variants: The adapters, each with a name of its own.
        data: Hub id, file or folder of the data.
        out: The folder that everything goes into.
        base: Repo id or folder of the base; None for the one that the adapters name.
        revision: Commit, branch or tag of the base; None for the one that the adapters name.
        task: What is asked; None for what the adapters were taught.
        task_changes: Values of the adapters' task to change, as ``choose_task`` takes them.
        data_revision: Commit, branch or tag of the data.
        eval_split: Rows to score on, in the syntax of ``datasets``; None chooses.
        max_eval_rows: Use only the first so many rows; None for all.
        empty_rows: ``"error"`` or ``"skip"``.
        eval_batch_size: Rows a batch when texts are generated.
        seed: Of the resampling.
        dtype: Of the base's weights.
        on_mismatch: ``"refuse"`` stops at an adapter that does not fit the base, gives other answers than its author
            saw, or was trained on the rows; ``"note"`` scores it all the same and says so in the report.
    """

    variants: tuple[VariantSource, ...]
    data: str
    out: Path
    base: str | None = None
    revision: str | None = None
    task: Task | None = None
    task_changes: Mapping[str, Any] = field(default_factory=dict)
    data_revision: str | None = None
    eval_split: str | None = None
    max_eval_rows: int | None = None
    empty_rows: str = "error"
    eval_batch_size: int = 16
    seed: int = 42
    dtype: str = "auto"
    on_mismatch: str = "refuse"

    def __post_init__(self) -> None:
        if not self.variants:
            raise StudyError(
                "There is nothing to compare.",
                fix="For example --variant lora=study/adapters/lora --variant OWNER/NAME",
            )
        _check_names([variant.name for variant in self.variants])
        if self.on_mismatch not in ON_MISMATCH:
            raise StudyError(f"on_mismatch is one of {', '.join(ON_MISMATCH)}, not {self.on_mismatch!r}.")
        if self.eval_batch_size < 1:
            raise StudyError(f"eval_batch_size must be 1 or more, not {self.eval_batch_size}.")
        if self.max_eval_rows is not None and self.max_eval_rows < 1:
            raise StudyError(f"max_eval_rows must be 1 or more, not {self.max_eval_rows}.")


def _check_names(names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        fix = "Name it yourself, e.g. --variant lora_r8=SOURCE"
        if not _NAME.fullmatch(name):
            raise StudyError(
                f"{name!r} cannot be a variant's name: letters, digits and . _ + - only, 60 at most.", fix=fix
            )
        if name.casefold() in _TAKEN:
            raise StudyError(f"{name!r} is a column that every comparison has of its own.", fix=fix)
        if name.casefold() in seen:
            raise StudyError(f"Two variants are called {seen[name.casefold()]!r} and {name!r}.", fix=fix)
        seen[name.casefold()] = name
