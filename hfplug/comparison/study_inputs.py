"""What every variant of a study shares: the base, the tokenizer, the rows. Read before a weight is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hfplug.comparison.inputs import ScoredInputs, generating_task_type, public_name, read_tokenizer
from hfplug.comparison.study_folder import StudyFolder
from hfplug.comparison.study_settings import StudySettings
from hfplug.comparison.variants import DataInfo
from hfplug.errors import StudyError
from hfplug.models.applicable import settled_for
from hfplug.models.base import resolve_base
from hfplug.models.quantize import require_bitsandbytes
from hfplug.training.dataset import (
    Example,
    data_sha256,
    default_splits,
    examples_from,
    group_references,
    pick_split,
)
from hfplug.training.sources import load_data


@dataclass(frozen=True, kw_only=True)
class StudyInputs(ScoredInputs):
    """What every variant of a study shares.

    Attributes:
        settings: The settings.
        train: Rows to train on.
    """

    settings: StudySettings
    train: list[Example]


def prepare(settings: StudySettings) -> StudyInputs:
    """Read everything that a study needs, and refuse what cannot work, before a weight is loaded.

    Args:
        settings: What to do.

    Raises:
        BaseModelError, DataError, StudyError: with what to type instead.
    """
    base = resolve_base(settings.base, revision=settings.revision)
    task_type = generating_task_type(base)
    for method in settings.methods:
        method.check_task_type(task_type)
        if method.quantization() is not None:
            require_bitsandbytes(f"method {method.name!r}")
    settings = replace(settings, methods=settled_for(base, settings.methods, task_type))
    tokenizer = read_tokenizer(base)
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
        task=settings.task,
        dtype=settings.dtype,
        eval_batch_size=settings.eval_batch_size,
        seed=settings.seed,
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
    folder.open(settings.to_json(), growing="methods")
    return inputs


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
