"""What a comparison of adapters that exist starts from: the adapters, their base, their task, the rows.

All of it is read, and all that cannot work refused, before a weight is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.task import Task
from hfplug.comparison.compare_settings import CompareSettings
from hfplug.comparison.inputs import ScoredInputs, generating_task_type, public_name, read_tokenizer
from hfplug.comparison.study_folder import StudyFolder
from hfplug.comparison.task_choice import change_task
from hfplug.comparison.variants import DataInfo
from hfplug.errors import DataError, HfplugError, StudyError
from hfplug.hub.pull import Pulled, pull_adapter
from hfplug.models.base import Base, pinned_name, resolve_base
from hfplug.training.dataset import Example, data_sha256, examples_from, group_references, pick_split
from hfplug.training.sources import load_data

if TYPE_CHECKING:
    from datasets import DatasetDict

# What of a task decides how a model is asked and scored.
_ASKED = ("prompt", "input_column", "target_column", "reference_columns", "max_input_tokens", "decoding")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One adapter that is compared.

    Attributes:
        name: What its column is called.
        adapter: Its files, here.
        source: Where they came from, for the report: no folder of this machine.
        notes: What is to be said about it already.
    """

    name: str
    adapter: AdapterDir
    source: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CompareInputs(ScoredInputs):
    """What every adapter of a comparison shares.

    Attributes:
        settings: The settings.
        columns: The adapters.
    """

    settings: CompareSettings
    columns: tuple[Column, ...]


def prepare_comparison(settings: CompareSettings) -> CompareInputs:
    """Pull the adapters, find out what base and task they share, read the rows, and open the folder.

    Args:
        settings: What to do.

    Raises:
        HfplugError: with what to type instead. Nothing has been written then.
    """
    columns = [_pull(variant.name, variant.source) for variant in settings.variants]
    base = _shared_base(settings, columns)
    task = settings.task or _shared_task(settings, columns)
    data = load_data(settings.data, revision=settings.data_revision)
    split = settings.eval_split or _only_split(data)
    rows = examples_from(pick_split(data, split), task, empty_rows=settings.empty_rows)  # type: ignore[arg-type]
    evaluation = group_references(rows)[: settings.max_eval_rows]
    counts = [len(example.references) for example in evaluation]
    columns = [_with_notes(column, settings, task, data, evaluation) for column in columns]
    inputs = CompareInputs(
        settings=settings,
        columns=tuple(columns),
        folder=StudyFolder(settings.out, "comparison"),
        base=base,
        task_type=generating_task_type(base),
        tokenizer=read_tokenizer(base),
        task=task,
        dtype=settings.dtype,
        eval_batch_size=settings.eval_batch_size,
        seed=settings.seed,
        evaluation=evaluation,
        data=DataInfo(
            source=public_name(settings.data),
            revision=settings.data_revision,
            sha256=data_sha256(evaluation),
            eval_rows=len(evaluation),
            references_per_row=(min(counts), max(counts)),
            eval_split=split,
        ),
    )
    inputs.preprocessor()
    inputs.folder.open(_state(inputs), growing="variants")
    return inputs


def _state(inputs: CompareInputs) -> dict[str, Any]:
    """What must be the same for a comparison to go on."""
    return {
        "base": inputs.base.name,
        "base_commit": inputs.base.commit,
        "task": inputs.task.to_json(),
        "data": inputs.data.to_json(),
        "variants": {
            column.name: {"source": column.source, "sha256": _weights_sha256(column.adapter)}
            for column in inputs.columns
        },
        "dtype": inputs.dtype,
        "eval_batch_size": inputs.eval_batch_size,
        "seed": inputs.seed,
    }


def _weights_sha256(adapter: AdapterDir) -> dict[str, str]:
    """Sums of what decides an adapter's answers: a card that was edited changes none of them."""
    from hfplug.adapters.files import CONFIG, file_sha256

    files = [adapter.path / CONFIG[adapter.kind], *adapter.weights]
    return {file.name: file_sha256(file) for file in files}


def refusal(name: str, error: HfplugError, *, fix: str = "") -> StudyError:
    """The error for one variant of several, which says which one it is and what can be done.

    Args:
        name: The variant.
        error: What is wrong with it.
        fix: What can be done beside leaving it out.
    """
    return StudyError(f"Variant {name!r} cannot be compared: {error}", fix=f"{fix}Or leave {name!r} out.")


# ------------------------------------------------------------------------------------------------ adapters


def _pull(name: str, source: str) -> Column:
    try:
        pulled = pull_adapter(source)
    except HfplugError as error:
        raise refusal(name, error) from error
    return Column(name=name, adapter=pulled.adapter, source=_public_source(pulled), notes=tuple(_pull_notes(pulled)))


def _public_source(pulled: Pulled) -> str:
    if pulled.repo_id is None:
        return public_name(str(pulled.adapter.path))
    return f"{pulled.repo_id}@{pulled.commit}"


def _pull_notes(pulled: Pulled) -> Iterator[str]:
    if pulled.repo_id is not None:
        yield f"Pulled from {pulled.repo_id} at commit {pulled.commit}."
    if pulled.note:
        yield f"It came from the cache: {pulled.note}."


def _shared_base(settings: CompareSettings, columns: Sequence[Column]) -> Base:
    """The base of all columns: the one that was given, else the one that all adapters name."""
    named = {column.name: pinned_name(column.adapter.base_name) for column in columns if column.adapter.base_name}
    if settings.base is not None:
        name = pinned_name(settings.base)
    elif not named:
        raise StudyError("None of the adapters says which base it is for.", fix="Pass --base REPO_OR_FOLDER.")
    elif len(set(named.values())) > 1:
        said = "; ".join(f"{variant}: {base}" for variant, base in named.items())
        raise StudyError(
            f"The adapters name different bases ({said}).",
            fix="Pass --base with the one that all of them are for, or compare those of one base.",
        )
    else:
        name = next(iter(named.values()))
        if not Path(name).is_dir() and (name.startswith((".", "/", "~", "\\")) or name.count("/") > 1):
            raise StudyError(
                f"The adapters name the base {name!r}, a folder of another machine.", fix="Pass --base REPO_OR_FOLDER."
            )
    revision = settings.revision or _shared_commit(name, named, columns)
    return resolve_base(name, revision=revision)


def _shared_commit(name: str, named: Mapping[str, str], columns: Sequence[Column]) -> str | None:
    """The commit at which the adapters that name this base were made; None if they do not say."""
    commits = {
        column.name: column.adapter.base_revision
        for column in columns
        if named.get(column.name) == name and column.adapter.base_revision
    }
    if len(set(commits.values())) > 1:
        said = "; ".join(f"{variant}: {commit}" for variant, commit in commits.items())
        raise StudyError(
            f"The adapters were made at different commits of {name} ({said}).",
            fix="Pass --revision with the one to compare them on.",
        )
    return next(iter(commits.values()), None)


# -------------------------------------------------------------------------------------------- task and rows


def _shared_task(settings: CompareSettings, columns: Sequence[Column]) -> Task:
    """What all adapters were taught, with the changes of the settings."""
    tasks = {column.name: column.adapter.task for column in columns if column.adapter.task is not None}
    if not tasks:
        raise StudyError(
            "None of the adapters says what it was taught.",
            fix="Pass --task summary, or --prompt with the template that they were trained with.",
        )
    # What the flags say is the same for all.
    wanted = {name: change_task(task, settings.task_changes) for name, task in tasks.items()}
    (first, task), *others = wanted.items()
    for name, other in others:
        for key in _ASKED:
            if getattr(task, key) != getattr(other, key):
                raise StudyError(
                    f"The adapters were taught different tasks: {key} of {first!r} is {_short(getattr(task, key))}, of"
                    f" {name!r} {_short(getattr(other, key))}.",
                    fix="Pass --task or --prompt to ask all of them the same, or compare those of one task.",
                )
    return task


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 90 else f"{text[:87]}..."


def _only_split(data: DatasetDict) -> str:
    names = list(data)
    found = names[0] if len(names) == 1 else next((name for name in ("test", "validation") if name in names), None)
    if found is None:
        raise DataError(
            f"There is no split 'test'; there are {', '.join(map(repr, names))}.",
            fix=f"Say which rows to score on: --eval-split '{names[0]}'",
        )
    return found


def _with_notes(
    column: Column, settings: CompareSettings, task: Task, data: DatasetDict, evaluation: Sequence[Example]
) -> Column:
    """The column, with what is to be said about its task and its rows."""
    notes = [*column.notes]
    own = column.adapter.task
    if own is None:
        notes.append("It does not say what it was taught; it was asked with the prompt of this comparison.")
    elif own.prompt != task.prompt:
        notes.append("It was taught with another prompt than it was asked with here.")
    seen = _rows_seen(column.adapter, settings, task, data, evaluation)
    if seen:
        text = (
            f"{seen} of the {len(evaluation)} rows to score on are among those that it was trained on, by its record"
            " (a score on them says little)."
        )
        if settings.on_mismatch == "refuse":
            raise StudyError(
                f"Variant {column.name!r}: {text}",
                fix="Pass other rows, e.g. --eval-split 'train[400:]', or --on-mismatch note.",
            )
        notes.append(text[0].upper() + text[1:])
    return Column(name=column.name, adapter=column.adapter, source=column.source, notes=tuple(notes))


def _rows_seen(
    adapter: AdapterDir, settings: CompareSettings, task: Task, data: DatasetDict, evaluation: Sequence[Example]
) -> int:
    """How many rows the adapter was trained on, as far as its record names rows of the same data."""
    record = adapter.record
    split = record.data.get("train_split") if record else None
    if record is None or not isinstance(split, str) or record.data.get("source") != public_name(settings.data):
        return 0
    try:
        rows = examples_from(pick_split(data, split), task, empty_rows="skip")
    except DataError:
        return 0  # other data of the same name
    count = record.data.get("train_rows")
    trained_on = {example.text for example in rows[: count if isinstance(count, int) else None]}
    return sum(example.text in trained_on for example in evaluation)
