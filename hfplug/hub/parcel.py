"""A parcel: a folder with exactly the bytes that are pushed, and their sums.

``pack`` makes it from an adapter, without a network. What leaves the machine is decided here: the files of the
allow-list, tokenizer files only if they are not the base's, never a pickle, no path of this machine, no token.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfplug.adapters import atomic
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.card import is_hub_id, merge_card, render_card
from hfplug.adapters.card_front import has_form_of_id
from hfplug.adapters.card_text import inline
from hfplug.adapters.files import (
    CARD,
    CONFIG,
    LOCK,
    RECORD,
    TOKENIZER,
    WEIGHTS_INDEX,
    copy_file,
    file_sha256,
    is_allowed,
    is_pickle,
    read_object,
)
from hfplug.adapters.record import scrub
from hfplug.adapters.safetensors_header import stored_dtypes
from hfplug.adapters.tokenizers import sums_at
from hfplug.errors import AdapterError
from hfplug.hub.leaks import refuse_tokens, tokens_in_use
from hfplug.hub.weights import check_dtype, convert

# Keys of configurations that hold a place on the machine that wrote them.
_PLACES = re.compile(r"_?(base_model_)?(\w*_)?name_or_path|\w+_file|_commit_hash")
# Lists of PEFT's that are sets: written in any order, pushed in one.
_SETS = ("target_modules", "modules_to_save", "exclude_modules")
# A whole text that is a path: no line end in it, and no space right after the first slash, as in "/ 2".
_ABSOLUTE = re.compile(r"(/|~|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\)(\S[^\n]*)?")


@dataclass(frozen=True)
class FileSum:
    """SHA-256 (hexadecimal) and size in bytes of a file."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Parcel:
    """What is pushed. Made by :func:`pack`, read again by ``Parcel.open``.

    Attributes:
        folder: Holds these files and nothing else.
        files: Path in the repo, with ``/``, to the sum of the file.
        notes: What whoever pushes should know: what was left out, and why.
    """

    folder: Path
    files: Mapping[str, FileSum] = field(repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    __hash__ = None  # type: ignore[assignment]  # it holds a mapping

    @property
    def kind(self) -> str:
        """``"peft"`` or ``"full"``."""
        return "peft" if CONFIG["peft"] in self.files else "full"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())

    @classmethod
    def open(cls, folder: str | os.PathLike[str], files: Mapping[str, FileSum] | None = None) -> Parcel:
        """Read a parcel that ``pack`` wrote earlier.

        Args:
            folder: Its folder.
            files: The sums that it had, to be compared with what is there.

        Raises:
            AdapterError: A file is missing, is not as it was, or does not belong to an adapter.
        """
        folder = Path(folder)
        found = {}
        for file in sorted(folder.rglob("*")):
            name = file.relative_to(folder).as_posix()
            if file.is_dir() and not file.is_symlink():
                continue
            if not is_allowed(name) or file.is_symlink() or not file.is_file():
                raise AdapterError(f"{file} does not belong into a parcel.", fix="Pack the adapter again.")
            found[name] = FileSum(file_sha256(file), file.stat().st_size)
        if not found:
            raise AdapterError(f"{folder} holds no parcel.", fix="Pack the adapter again.")
        changed = sorted(name for name in {*found, *(files or {})} if files and found.get(name) != files.get(name))
        if changed:
            raise AdapterError(f"{folder / changed[0]} is not as it was packed.", fix="Pack the adapter again.")
        return cls(folder, found)


def pack(
    adapter: AdapterDir | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    repo_id: str,
    dtype: str | None = None,
    licence: str | None = None,
    base_id: str | None = None,
    token: str | None = None,
) -> Parcel:
    """Write exactly the bytes that are pushed into ``folder``.

    No network is used, and the same adapter gives the same bytes.

    Args:
        adapter: One of ours, any folder that PEFT's ``save_pretrained`` wrote, or a full model. It is only read.
        folder: Empty, or not there yet. Nothing is flushed to the disk.
        repo_id: Where it will go: the card shows how to load it from there.
        dtype: ``"float32"`` or ``"bfloat16"``; as stored if not given.
        licence: For the card, e.g. ``"apache-2.0"``.
        base_id: Id of the base on the Hub, if the adapter names a local folder.
        token: Must be in no file, whatever its shape; those of the environment must not either.

    Raises:
        AdapterError: ``adapter`` is not whole, ``folder`` is not empty, ``dtype`` or ``base_id`` is no such thing.
        UnsafeFileError: The weights are a pickle, or a file holds a token.
    """
    check_dtype(dtype)
    adapter = adapter if isinstance(adapter, AdapterDir) else AdapterDir.open(adapter)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise AdapterError(f"{folder} is not empty.", fix="Pass a new folder.")
    base = _Base.of(adapter, base_id)
    notes = list(base.notes)
    before = stored_dtypes(adapter.weights)
    _copy_files(adapter, folder, base, dtype, notes)
    after = dtype or "/".join(before)
    if dtype and before and before != [dtype]:
        notes.append(f"The weights are stored in {dtype}; they were trained in {'/'.join(before)}.")
    _write_documents(adapter, folder, base, after, notes)
    _write_card(adapter, folder, repo_id, base, licence)
    for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()):
        refuse_tokens(name, folder / name, tokens_in_use(token))
    packed = Parcel.open(folder)
    return Parcel(packed.folder, packed.files, tuple(notes))


# --------------------------------------------------------------------------------------------------- base


@dataclass(frozen=True)
class _Base:
    """What is said about the base outside of this machine."""

    name: str | None  # id on the Hub
    commit: str | None
    local: str | None  # as the adapter names it
    notes: tuple[str, ...]

    @classmethod
    def of(cls, adapter: AdapterDir, base_id: str | None) -> _Base:
        local, commit = adapter.base_name, adapter.base_revision
        if base_id is not None and not has_form_of_id(base_id):
            raise AdapterError(
                f"{base_id!r} is no id of a model on the Hub.", fix="Type for example: --base-id google/flan-t5-base"
            )
        if base_id is not None:
            same = base_id == local
            notes = () if commit or same else (f"No commit of {base_id} is known; the newest is loaded.",)
            return cls(base_id, commit, local, notes)
        if is_hub_id(local, commit):
            return cls(local, commit, local, ())
        if local is None:
            why = "The adapter does not say which base it is for"
        else:
            why = f"The base is a folder on this machine ({Path(local).name})"
        if adapter.kind == "full":
            return cls(None, None, local, ())
        note = (
            f"{why}, so the card names none and nobody else can load it without being told."
            " If the base is on the Hub, pass its id: --base-id OWNER/NAME (base_id= in Python)."
        )
        return cls(None, None, local, (note,))


# -------------------------------------------------------------------------------------------------- files


def _copy_files(adapter: AdapterDir, folder: Path, base: _Base, dtype: str | None, notes: list[str]) -> None:
    """The weights, the configuration, and the tokenizer if it is not the base's."""
    weights = {file.name for file in adapter.weights}
    foreign = {CONFIG["full"], "generation_config.json", WEIGHTS_INDEX} if adapter.kind == "peft" else set()
    documents = {CARD, RECORD, LOCK}
    tokenizer = [file for file in adapter.files() if _is_tokenizer(file, adapter.path)]
    if adapter.kind == "peft" and tokenizer:
        tokenizer = _own_tokenizer(adapter, base, tokenizer, notes)
    for file in adapter.files():
        name = file.relative_to(adapter.path).as_posix()
        if name in weights:
            if dtype and stored_dtypes([file]) != [dtype]:
                convert(file, folder / name, dtype)
            else:
                copy_file(file, folder / name)
        elif _is_tokenizer(file, adapter.path):
            if file in tokenizer:
                copy_file(file, folder / name)
        elif name == WEIGHTS_INDEX and len(weights) < 2:
            continue  # left over from before the weights became one file
        elif name not in foreign | documents and not name.endswith(".safetensors"):
            copy_file(file, folder / name)
    left = sorted(path.name for path in adapter.path.iterdir() if path.is_file() and is_pickle(path))
    if left:
        notes.append(f"Left out, for they are pickles: {', '.join(left)}.")
    for name in (*CONFIG.values(), "generation_config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            _write_config(folder / name, base, dtype)
    if dtype and (folder / WEIGHTS_INDEX).is_file():
        index = read_object(folder / WEIGHTS_INDEX)
        index.setdefault("metadata", {})["total_size"] = sum((folder / name).stat().st_size for name in weights)
        atomic.write_json(folder / WEIGHTS_INDEX, index)


def _is_tokenizer(file: Path, folder: Path) -> bool:
    return file.relative_to(folder).as_posix() in TOKENIZER or file.parent != folder


def _own_tokenizer(adapter: AdapterDir, base: _Base, files: list[Path], notes: list[str]) -> list[Path]:
    """The tokenizer's files if they have to travel with the adapter; none if the base brings the same one."""
    theirs = sums_at(base.local, base.commit) or sums_at(base.name, base.commit)
    ours = sums_at(str(adapter.path))
    if theirs is None or ours is None:
        notes.append("The tokenizer is pushed too: the base's could not be looked at here, so it may be another one.")
        return files
    return [] if theirs == ours else files


def _write_config(path: Path, base: _Base, dtype: str | None) -> None:
    """A configuration without places of this machine, with the base's id and commit."""
    values = {key: _without_place(key, value, base) for key, value in scrub(read_object(path)).items()}
    if path.name == CONFIG["peft"]:
        values["base_model_name_or_path"] = base.name
        # PEFT leaves it empty, and then loads whatever the base's newest commit is.
        values["revision"] = base.commit if base.name else None
        for key in _SETS:
            if isinstance(values.get(key), list):
                values[key] = sorted(values[key], key=str)
    if path.name == CONFIG["full"] and dtype:
        for key in ("dtype", "torch_dtype"):
            if key in values:
                values[key] = dtype
    atomic.write_json(path, values)


def _without_place(key: str, value: Any, base: _Base) -> Any:
    if not (isinstance(value, str) and _PLACES.fullmatch(key)):
        return value
    if base.name and value in (base.local, base.name):
        return base.name
    return value if is_hub_id(value) else re.split(r"[/\\]", value.rstrip("/\\"))[-1]


# ---------------------------------------------------------------------------------------------- documents


def _write_documents(adapter: AdapterDir, folder: Path, base: _Base, dtype: str, notes: list[str]) -> None:
    """The record and the lock as they are, but for the base's name, places of this machine, and the notes."""
    if adapter.record is not None:
        record = _without_places(adapter.record.to_json())
        record |= {"base": base.name, "base_commit": base.commit}
        record["parameter_efficiency"] = {**(record.get("parameter_efficiency") or {}), "stored_dtype": dtype}
        for note in notes:
            if note.startswith("The weights are stored") and note not in record["notes"]:
                record["notes"] = [*record["notes"], note]
        atomic.write_json(folder / RECORD, record)
    if adapter.lock is not None:
        lock = adapter.lock.to_json() | {"base": base.name, "base_commit": base.commit}
        converted = any(file.stat().st_size != (folder / file.name).stat().st_size for file in adapter.weights)
        if converted and adapter.lock.weights_sha256 == {file.name: file_sha256(file) for file in adapter.weights}:
            # Weights that were not those of the lock before do not become so by being rounded.
            lock["weights_sha256"] = {file.name: file_sha256(folder / file.name) for file in adapter.weights}
        atomic.write_json(folder / LOCK, lock)


def _without_places(value: Any, key: str = "") -> Any:
    """Every text that is a path on this machine, by its last part; what people wrote stays."""
    if isinstance(value, Mapping):
        return {name: _without_places(item, name) for name, item in value.items() if name != "examples"} | (
            {"examples": value["examples"]} if "examples" in value else {}
        )
    if isinstance(value, (list, tuple)):
        return [_without_places(item, key) for item in value]
    if isinstance(value, str) and key != "notes" and _ABSOLUTE.fullmatch(value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def _write_card(adapter: AdapterDir, folder: Path, repo_id: str, base: _Base, licence: str | None) -> None:
    card = render_card(AdapterDir.open(folder), repo_id=repo_id, base_id=base.name, licence=licence)
    existing = adapter.path / CARD
    if existing.is_file():
        try:
            merged = merge_card(existing.read_text(encoding="utf-8"), card)
            # Rendered where it was trained, its title is the name of that folder.
            title = f"# {inline(repo_id.rpartition('/')[2])}"
            card = re.sub(rf"^# {re.escape(inline(adapter.path.name))}$", lambda _: title, merged, count=1, flags=re.M)
        except UnicodeDecodeError as error:
            raise AdapterError(f"{existing} is not UTF-8: {error}.", fix="Save it as UTF-8.") from error
    atomic.write_text(folder / CARD, card)


def front_matter(card: str) -> dict[str, Any]:
    """The front matter of a card as JSON values."""
    from huggingface_hub import ModelCard

    return json.loads(json.dumps(ModelCard(card, ignore_metadata_errors=True).data.to_dict(), default=str))
