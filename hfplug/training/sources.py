"""Where rows come from: the Hub, a file, or a folder. Every failure is a ``DataError`` with its cure.

Nothing of the user's is touched: files are read into memory, no progress bar is shown, and what was switched
off for that is switched on again.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import datasets
import huggingface_hub.utils as hub_utils
from datasets import DatasetDict

from hfplug.errors import DataError, did_you_mean
from hfplug.training.files import EXTENSIONS, read_file, read_files

# Extensions that no Hub id ends with: a name that has one was meant to be a file.
_OTHER_FILES = (".txt", ".xml", ".xlsx", ".xls", ".yaml", ".yml", ".zip", ".gz", ".zst", ".arrow", ".pkl")
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


def load_data(source: str, *, revision: str | None = None) -> DatasetDict:
    """The splits of a data set.

    Args:
        source: A Hub id (``owner/name``, or ``owner/name:config`` where the data set has several), a file
            (``.json``, ``.jsonl``, ``.csv``, ``.tsv``, ``.parquet``), or a folder: either one written by
            ``save_to_disk``, or one with a file for each split, whose name holds ``train``,
            ``validation`` (or ``dev``, ``val``) or ``test``, e.g. ``train.jsonl``.
        revision: Branch, tag or commit of a Hub data set.

    Returns:
        Split name -> rows. A single file is the split ``train``. Columns of CSV and TSV hold text.

    Raises:
        DataError: Nothing is there, or what is there cannot be read. The message says what to pass.
    """
    path = Path(source).expanduser()
    if not source.strip():
        raise DataError("No data was named.", fix="Pass a Hub id, a file or a folder, e.g. --data rows.jsonl")
    if path.exists():
        if revision is not None:
            raise DataError(
                f"revision={revision!r} names a commit on the Hub, but {source} is here on disk.",
                fix="Leave the revision out.",
            )
        return _load_folder(path) if path.is_dir() else DatasetDict({"train": read_file(path)})
    _refuse_missing_file(source, path)
    return _load_hub(source, revision)


def _load_folder(folder: Path) -> DatasetDict:
    # The two marks of save_to_disk: of a DatasetDict, and of a single Dataset.
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _load_saved(folder)
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in EXTENSIONS)
    if not files:
        found = sorted(p.name for p in folder.iterdir())[:8]
        raise DataError(
            f"The folder {folder} holds no data file; it holds {found or 'nothing'}.",
            fix=f"Put train.jsonl and test.jsonl into it, say ({', '.join(EXTENSIONS)} are read).",
        )
    splits: dict[str, list[Path]] = {}
    for file in files:
        split = _split_of(file)
        if split is not None:
            splits.setdefault(split, []).append(file)
    if not splits and len(files) == 1:
        splits = {"train": files}
    if not splits:
        raise DataError(
            f"The files in {folder} do not say which split they are: {[p.name for p in files[:8]]}.",
            fix="Name them train.*, validation.* and test.*, or pass one file.",
        )
    for split, paths in splits.items():
        if len({p.suffix.lower() for p in paths}) > 1:
            raise DataError(
                f"Split {split!r} in {folder} is there more than once: {[p.name for p in paths]}.",
                fix="Leave one of them, or pass one file.",
            )
    order = [name for name in ("train", "validation", "test") if name in splits]
    return DatasetDict({name: read_files(splits[name]) for name in order})


def _split_of(file: Path) -> str | None:
    """The split that a file name speaks of: ``dialogsum.dev.jsonl`` -> ``validation``; None if unclear."""
    words = re.split(r"[^a-z]+", file.name.lower().removesuffix(file.suffix.lower()))
    named = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    return named.pop() if len(named) == 1 else None


def _load_saved(folder: Path) -> DatasetDict:
    with _quiet():
        try:
            # In memory: otherwise the rows stay mapped to the user's files.
            loaded = datasets.load_from_disk(str(folder), keep_in_memory=True)
        except Exception as error:  # datasets lets through whatever pyarrow, json and os raise
            raise DataError(
                f"The folder {folder} looks like one that save_to_disk wrote, but cannot be read:"
                f" {_first_line(error)}.",
                fix="Write it again with save_to_disk.",
            ) from error
    return loaded if isinstance(loaded, DatasetDict) else DatasetDict({"train": loaded})


def _refuse_missing_file(source: str, path: Path) -> None:
    """Raises if ``source``, which does not exist, was meant to be a path and not a Hub id."""
    extension = path.suffix.lower()
    if _HUB_ID.fullmatch(source) and extension not in (*EXTENSIONS, *_OTHER_FILES) and source[0] not in ".~/":
        return
    if path.parent.is_dir():
        hint = did_you_mean(path.name, [p.name for p in path.parent.iterdir()])
    else:
        hint = f"There is no folder {path.parent} either."
    raise DataError(
        f"There is no file or folder {source}. {hint}".rstrip(),
        fix="Pass a path that exists, or a Hub id (owner/name).",
    )


def _load_hub(source: str, revision: str | None) -> DatasetDict:
    name, _, config = source.partition(":")
    with _quiet():
        try:
            loaded = datasets.load_dataset(name, config or None, revision=revision)
        except Exception as error:  # from four libraries: see _hub_error for what each of them means
            raise _hub_error(source, revision, error) from error
    return loaded if isinstance(loaded, DatasetDict) else DatasetDict({"train": loaded})


def _hub_error(source: str, revision: str | None, error: Exception) -> DataError:
    at = f" at revision {revision!r}" if revision else ""
    text = str(error)
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return DataError(
            f"There is no data set {source!r}{at} on the Hub that you may read, and no such file here.",
            fix="Check the spelling; for a private or gated one, type: hf auth login",
        )
    if "Config name is missing" in text or "BuilderConfig" in text:
        which = " ".join(text.split())[:300].rstrip(".")
        return DataError(
            f"The data set {source!r} has several configurations: {which}.",
            fix=f"Pass one after a colon, e.g. {source.partition(':')[0]}:NAME",
        )
    if isinstance(error, (ConnectionError, TimeoutError)) or "offline" in text.lower():
        return DataError(
            f"The data set {source!r}{at} is not on this machine and the Hub cannot be reached: {_first_line(error)}.",
            fix="Connect to a network, or pass a local file or folder.",
        )
    return DataError(
        f"The data set {source!r}{at} cannot be loaded: {type(error).__name__}: {_first_line(error)}.",
        fix="Check the name and the revision, or pass a local file or folder.",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars inside; afterwards those that were shown before are shown again."""
    rows_were_off = datasets.utils.are_progress_bars_disabled()
    downloads_were_off = hub_utils.are_progress_bars_disabled()
    datasets.utils.disable_progress_bars()
    hub_utils.disable_progress_bars()
    try:
        yield
    finally:
        if not rows_were_off:
            datasets.utils.enable_progress_bars()
        if not downloads_were_off:
            hub_utils.enable_progress_bars()


def _first_line(error: BaseException, limit: int = 160) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0].rstrip(".") if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
