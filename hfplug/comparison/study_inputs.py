"""What every variant of a study shares: the base, the tokenizer, the rows. Read before a weight is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hfplug.comparison.study_folder import StudyFolder
from hfplug.comparison.study_settings import StudySettings
from hfplug.comparison.variants import DataInfo
from hfplug.errors import BaseModelError, StudyError
from hfplug.methods.method import CAUSAL, SEQ2SEQ
from hfplug.models.base import Base, read_task_type, resolve_base, tokenizer_source
from hfplug.models.quantize import require_bitsandbytes
from hfplug.training.dataset import (
    Example,
    data_sha256,
    default_splits,
    examples_from,
    group_references,
    pick_split,
)
from hfplug.training.preprocess import Preprocessor
from hfplug.training.sources import load_data

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class StudyInputs:
    """What every variant of a study shares.

    Attributes:
        settings: The settings.
        folder: Where things are kept.
        base: The base, pinned to a commit.
        task_type: PEFT's name of the task type.
        tokenizer: The base's.
        train: Rows to train on.
        evaluation: Rows to score on, all references of a text in one row.
        data: What the report says of the rows.
    """

    settings: StudySettings
    folder: StudyFolder
    base: Base
    task_type: str
    tokenizer: PreTrainedTokenizerBase
    train: list[Example]
    evaluation: list[Example]
    data: DataInfo

    def preprocessor(self, *, reserve: int = 0) -> Preprocessor:
        """A preprocessor for this task and base.

        Args:
            reserve: Positions to leave free for virtual tokens.
        """
        return Preprocessor(
            self.settings.task,
            self.tokenizer,
            encoder_decoder=bool(self.base.config.is_encoder_decoder),
            reserve=reserve,
        )


def prepare(settings: StudySettings) -> StudyInputs:
    """Read everything that a study needs, and refuse what cannot work, before a weight is loaded.

    Args:
        settings: What to do.

    Raises:
        BaseModelError, DataError, StudyError: with what to type instead.
    """
    base = resolve_base(settings.base, revision=settings.revision)
    task_type = read_task_type(base.config)
    for method in settings.methods:
        method.check_task_type(task_type)
        if method.quantization() is not None:
            require_bitsandbytes(f"method {method.name!r}")
    if task_type not in (SEQ2SEQ, CAUSAL):
        raise StudyError(
            f"A study compares generated texts, and {base.name!r} is a {task_type} model.",
            fix="Pass a seq2seq or a causal base.",
        )
    tokenizer = _tokenizer(base)
    data = load_data(settings.data, revision=settings.data_revision)
    train_split, eval_split = settings.train_split, settings.eval_split
    if train_split is None or eval_split is None:
        defaults = default_splits(data)
        train_split, eval_split = train_split or defaults[0], eval_split or defaults[1]
    train = examples_from(pick_split(data, train_split), settings.task, empty_rows=settings.empty_rows)  # type: ignore[arg-type]
    rows = examples_from(pick_split(data, eval_split), settings.task, empty_rows=settings.empty_rows)  # type: ignore[arg-type]
    train = train[: settings.max_train_rows]
    evaluation = group_references(rows)[: settings.max_eval_rows]
    _refuse_overlap(train, evaluation)
    counts = [len(example.references) for example in evaluation]
    folder = StudyFolder(settings.out)
    inputs = StudyInputs(
        settings=settings,
        folder=folder,
        base=base,
        task_type=task_type,
        tokenizer=tokenizer,
        train=train,
        evaluation=evaluation,
        data=DataInfo(
            source=public_name(settings.data),
            revision=settings.data_revision,
            sha256=data_sha256([*train, *evaluation]),
            train_rows=len(train),
            eval_rows=len(evaluation),
            references_per_row=(min(counts), max(counts)),
            train_split=train_split,
            eval_split=eval_split,
        ),
    )
    inputs.preprocessor(reserve=max(method.virtual_tokens() for method in settings.methods))
    folder.open(settings)
    return inputs


def _tokenizer(base: Base) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    how = "Save the tokenizer beside the model with tokenizer.save_pretrained(folder)."
    if tokenizer_source(base.name, base.commit) is None:
        raise BaseModelError(f"The base {base.name!r} has no tokenizer beside it.", fix=how)
    try:
        return AutoTokenizer.from_pretrained(base.name, revision=base.revision or "main")
    except (OSError, ValueError, TypeError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BaseModelError(
            f"The base {base.name!r} has no tokenizer that can be read: {first_line}",
            fix=how,
        ) from error


def _refuse_overlap(train: Sequence[Example], evaluation: Sequence[Example]) -> None:
    """Scoring on rows that were trained on would flatter every method but the base."""
    seen = {example.text for example in train}
    shared = [example.id for example in evaluation if example.text in seen]
    if shared:
        raise StudyError(
            f"{len(shared)} of {len(evaluation)} rows to score on are also among the rows to train on "
            f"(first: row {shared[0]}).",
            fix="Pass splits that do not overlap, e.g. --train-split 'train[:400]' --eval-split 'train[400:]'.",
        )


def public_name(source: str) -> str:
    """The name of a data source without the folders of this machine."""
    path = Path(source)
    return path.name if path.exists() else source
