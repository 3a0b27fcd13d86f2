"""The folder of one adapter: which files belong to it, reading it, and writing it in one step.

There are two kinds of adapter: ``"peft"``, the folder
that PEFT's ``save_pretrained`` writes, and ``"full"``, a fully tuned model as transformers writes it. Our
own files lie beside theirs, so that either library loads the folder without us.

Nothing outside the allow-list is ever read or copied from a training run; a pickle (``optimizer.pt``,
``training_args.bin``, ``adapter_model.bin``) is left where it is.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfplug.adapters import atomic
from hfplug.adapters.files import (
    CARD,
    CONFIG,
    LOCK,
    OURS,
    RECORD,
    SHARD,
    TASK,
    TOKENIZER,
    WEIGHTS,
    WEIGHTS_INDEX,
    Kind,
    allowed_files,
    carry_over,
    copy_file,
    file_sha256,
    is_allowed,
    is_pickle,
    pickle_error,
    read_object,
    refuse_adapterhub,
    refuse_foreign,
    refuse_leaving,
    same_adapter,
    settings_sha256,
)
from hfplug.adapters.json_types import check_settings
from hfplug.adapters.lock import Lock
from hfplug.adapters.record import Record, scrub
from hfplug.adapters.safetensors_header import read_header
from hfplug.adapters.task import Task
from hfplug.errors import AdapterError, UnsafeFileError, did_you_mean

logger = logging.getLogger(__name__)

# Where a configuration may name a class that PEFT imports when it loads the adapter.
_IMPORTABLE = ("transformers", "peft")
# PEFT's own default, written into every LoRA configuration and without effect on its own.
_MEGATRON = (None, "megatron.core")


@dataclass(frozen=True)
class AdapterDir:
    """The files of one adapter. Made by ``open`` or ``write``; the folder was whole at that moment.

    Attributes:
        path: The folder.
        kind: ``"peft"`` or ``"full"``.
        config: Content of ``adapter_config.json`` or ``config.json``.
        weights: The safetensors files, in the order of their names.
        previous: Where ``write`` kept the adapter that was here before, if there was another.
    """

    path: Path
    kind: Kind
    config: dict[str, Any] = field(compare=False, repr=False)
    weights: tuple[Path, ...] = field(compare=False, repr=False)
    previous: Path | None = field(default=None, compare=False, repr=False)

    @staticmethod
    def allowed(name: str) -> bool:
        """Whether a file of this name (relative to the folder, with ``/``) may belong to an adapter."""
        return is_allowed(name)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> AdapterDir:
        """Read the adapter in a folder: an export, a Trainer's checkpoint, or what ``save_pretrained`` wrote.

        Args:
            path: The folder. Files outside the allow-list are not read.

        Raises:
            AdapterError: There is no such folder, or a file is missing, cut short or unreadable.
            UnsafeFileError: The weights are there as a pickle only, a file is a link that leaves the
                folder, or the configuration names code outside transformers and PEFT.
        """
        path = Path(path)
        atomic.recover(path)
        kind = _kind_of(path)
        for file in allowed_files(path):
            refuse_leaving(file, path)
        config = read_object(path / CONFIG[kind])
        _check_config(config, kind, path)
        return cls(path=path, kind=kind, config=config, weights=tuple(_find_weights(path, kind)))

    @functools.cached_property
    def record(self) -> Record | None:
        """The record of the run, or None if the folder holds none."""
        return Record.from_json(read_object(self.path / RECORD)) if (self.path / RECORD).is_file() else None

    @functools.cached_property
    def lock(self) -> Lock | None:
        """The lock, or None if the folder holds none."""
        return Lock.from_json(read_object(self.path / LOCK)) if (self.path / LOCK).is_file() else None

    @functools.cached_property
    def task(self) -> Task | None:
        """The task, or None if the folder holds none."""
        return Task.from_json(read_object(self.path / TASK)) if (self.path / TASK).is_file() else None

    @property
    def base_name(self) -> str | None:
        """Repo id or folder of the base: from the lock, else the record, else the configuration."""
        known = (self.lock and self.lock.base) or (self.record and self.record.base)
        return known or self.config.get("base_model_name_or_path") or None

    @property
    def base_revision(self) -> str | None:
        """Commit of the base: from the lock, else the record, else the configuration."""
        known = (self.lock and self.lock.base_commit) or (self.record and self.record.base_commit)
        return known or self.config.get("revision") or None

    @property
    def num_labels(self) -> int | None:
        """Labels of a classifier's head, from the lock: ``adapter_config.json`` does not hold the number."""
        return self.lock.num_labels if self.lock else None

    @property
    def weight_bytes(self) -> int:
        """Size of the weights' files in bytes."""
        return sum(file.stat().st_size for file in self.weights)

    @property
    def weight_dtype(self) -> str | None:
        """The number format that most of the weights are stored in, e.g. ``"bfloat16"``; None for another one."""
        sizes: dict[str, int] = {}
        for entry in (entry for file in self.weights for entry in read_header(file).values()):
            start, end = entry["data_offsets"]
            sizes[entry["dtype"]] = sizes.get(entry["dtype"], 0) + end - start
        names = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
        return names.get(max(sizes, key=lambda dtype: sizes[dtype]))

    def tensor_names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(name for file in self.weights for name in read_header(file))

    def files(self) -> list[Path]:
        """The files that belong to the adapter, sorted; everything else in the folder is not ours."""
        return allowed_files(self.path)

    def sha256(self) -> str:
        """One sum over the names and bytes of ``files()``."""
        total = hashlib.sha256()
        for file in self.files():
            total.update(f"{file_sha256(file)}  {file.relative_to(self.path).as_posix()}\n".encode())
        return total.hexdigest()

    @classmethod
    def write(
        cls,
        target: str | os.PathLike[str],
        *,
        source: str | os.PathLike[str] | None = None,
        config: Mapping[str, Any] | None = None,
        weights: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        record: Record | None = None,
        lock: Lock | None = None,
        task: Task | None = None,
        card: str | None = None,
        tokenizer_files: Iterable[str | os.PathLike[str]] | None = None,
    ) -> AdapterDir:
        """Put a whole adapter at ``target`` in one step; a kill leaves the old one or the new one, whole.

        If ``target`` holds the same weights and configuration, only our own files are refreshed. If it
        holds another adapter, that is kept beside it as ``NAME.previous-1``, ``-2``, … Files there that are
        no part of an adapter (a user's notes) are carried over, and a README that a person wrote or edited
        is merged with.

        Args:
            target: The folder. It may not exist, be empty, or hold an adapter.
            source: A folder to copy the adapter's files from, e.g. a Trainer's checkpoint. Never changed.
            config: Content of the configuration; replaces that of ``source``.
            weights: Tensors by name, or a safetensors file; replaces those of ``source``.
            record, lock, task: Written if given; else those of ``source`` are kept. A lock is given the sums of
                the weights and settings that it is written with, unless all of them come from ``source`` as they are.
            card: The README's generated text; rendered from the files if not given.
            tokenizer_files: Files to take instead of the tokenizer's files in ``source``; ``[]`` for none.

        Returns:
            The adapter at ``target``; ``previous`` says where the one before it is.

        Raises:
            AdapterError: ``target`` is neither empty nor an adapter's folder, or ``source`` is not whole.
            UnsafeFileError: A pickle was to be copied.
        """
        place = Path(os.path.realpath(target))
        atomic.recover(place)
        refuse_foreign(place)
        building = atomic.make_temporary_folder(place)
        try:
            _copy_source(building, source, config, weights, tokenizer_files)
            for name, part in ((RECORD, record), (LOCK, lock), (TASK, task)):
                if part is not None:
                    atomic.write_json(building / name, scrub(part.to_json()))
            if any(part is not None for part in (lock, weights, config)):
                _seal(building)
            _write_card(building, place, card)
            cls.open(building)
            if same_adapter(building, place):
                for name in sorted(OURS):
                    if (building / name).is_file():
                        atomic.write_bytes(place / name, (building / name).read_bytes())
                shutil.rmtree(building)
                return cls.open(target)
            carry_over(place, building)
            atomic.sync_tree(building)
            old = atomic.replace_folder(building, place)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        written = cls.open(target)
        if old is None:
            return written
        if not any(old.iterdir()):
            old.rmdir()
            return written
        previous = atomic.keep_previous(old, place)
        logger.info("%s held another adapter, which is kept at %s", place, previous)
        return cls(written.path, written.kind, written.config, written.weights, previous)


# ------------------------------------------------------------------------------------------------ reading


def _kind_of(path: Path) -> Kind:
    """Which kind of adapter ``path`` holds, by the files that are there."""
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, siblings)
        fix = hint or "Pass the folder that holds adapter_config.json; an adapter on the Hub is pulled first."
        raise AdapterError(f"There is no folder {path}.", fix=fix)
    if not path.is_dir():
        raise AdapterError(f"{path} is a file; an adapter is a folder.", fix=f"Pass {path.parent}.")
    kinds: tuple[Kind, ...] = ("peft", "full")
    for kind in kinds:
        if (path / CONFIG[kind]).is_file():
            return kind
    checkpoints = sorted(path.glob("checkpoint-*"), key=lambda p: (len(p.name), p.name))
    if checkpoints:
        raise AdapterError(f"{path} holds checkpoints, no adapter of its own.", fix=f"Pass {checkpoints[-1]}.")
    if (path / WEIGHTS["peft"]).is_file():
        raise AdapterError(f"{path} holds adapter weights without adapter_config.json.", fix="Copy that too.")
    inner = sorted(p.parent for p in path.glob("*/adapter_config.json"))
    fix = f"Pass {inner[0]}." if inner else "Pass a folder with adapter_config.json, or with config.json."
    raise AdapterError(f"{path} holds no adapter: there is neither adapter_config.json nor config.json.", fix=fix)


def _check_config(config: Mapping[str, Any], kind: Kind, path: Path) -> None:
    refuse_adapterhub(config, path)
    if kind == "peft" and not config.get("peft_type"):
        raise AdapterError(f"{path / CONFIG[kind]} has no 'peft_type'.", fix="Save the adapter again with PEFT.")
    if kind == "full" and not (config.get("model_type") or config.get("architectures")):
        raise AdapterError(f"{path / CONFIG[kind]} has no 'model_type'.", fix="Save the model again.")
    if kind == "peft":
        check_settings(config)
    mapping = config.get("auto_mapping") or {}
    library = str(mapping.get("parent_library") or "") if isinstance(mapping, Mapping) else str(mapping)
    if kind == "peft" and library and library.split(".")[0] not in _IMPORTABLE:
        raise UnsafeFileError(
            f"{path / CONFIG[kind]} asks PEFT to import {library!r}, which is neither transformers nor PEFT.",
            fix="If you trust it, remove 'auto_mapping' from that file and load the base yourself.",
        )
    # PEFT before 0.19 imports whatever 'megatron_core' names as soon as 'megatron_config' is set.
    if kind == "peft" and (config.get("megatron_config") or config.get("megatron_core") not in _MEGATRON):
        raise UnsafeFileError(
            f"{path / CONFIG[kind]} asks PEFT to import {config.get('megatron_core')!r} (megatron_config is set).",
            fix="If you trust it, set 'megatron_config' to null in that file.",
        )


def _find_weights(path: Path, kind: Kind) -> list[Path]:
    """The safetensors files of a folder, each checked to be whole."""
    single = path / WEIGHTS[kind]
    if single.is_file():
        read_header(single)
        return [single]
    if kind == "full" and (path / WEIGHTS_INDEX).is_file():
        index = read_object(path / WEIGHTS_INDEX).get("weight_map")
        index = index if isinstance(index, dict) else {}
        names = sorted(set(map(str, index.values())))
        wrong = [name for name in names if not SHARD.fullmatch(name)]
        if wrong or not names:
            raise UnsafeFileError(f"{path / WEIGHTS_INDEX} names no shards, or {wrong}.", fix="Save it again.")
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise AdapterError(f"{path} lacks {', '.join(missing)}.", fix="Copy or download the missing shards.")
        held = {tensor for name in names for tensor in read_header(path / name)}
        if lost := sorted(set(index) - held):
            raise AdapterError(f"The shards of {path} lack {lost[0]!r}.", fix="Copy or download them again.")
        return [path / name for name in names]
    pickles = sorted(file.name for file in path.glob("*model*.bin"))
    if pickles:
        raise UnsafeFileError(
            f"{path} holds its weights only as {pickles[0]}, a pickle, which can run code when it is read.",
            fix="Where it was trained, load it and call model.save_pretrained(folder) with a current version"
            " of PEFT or transformers, which writes safetensors.",
        )
    raise AdapterError(f"{path} has {CONFIG[kind]} but no {WEIGHTS[kind]}.", fix="Copy or export it again.")


# ------------------------------------------------------------------------------------------------ writing


def _copy_source(
    building: Path,
    source: str | os.PathLike[str] | None,
    config: Mapping[str, Any] | None,
    weights: Mapping[str, Any] | str | os.PathLike[str] | None,
    tokenizer_files: Iterable[str | os.PathLike[str]] | None,
) -> None:
    """Fill ``building`` with everything but our own files that are given."""
    kind: Kind = "full" if config is not None and "peft_type" not in config else "peft"
    if source is not None:
        origin = AdapterDir.open(source)
        kind = origin.kind
        replaced = set() if weights is None else {WEIGHTS[kind], WEIGHTS_INDEX, *(w.name for w in origin.weights)}
        foreign = {CONFIG["full"], "generation_config.json"} if kind == "peft" else set()
        for file in origin.files():
            name = file.relative_to(origin.path).as_posix()
            is_tokenizer = name in TOKENIZER or "/" in name
            if name not in replaced | foreign | {CARD} and not (is_tokenizer and tokenizer_files is not None):
                copy_file(file, building / name)
        # A README of PEFT or Trainer names local paths and knows nothing of the run; one of ours is kept.
        readme = origin.path / CARD
        if readme.is_file() and "<!-- hfplug:begin" in readme.read_text(encoding="utf-8", errors="replace"):
            copy_file(readme, building / CARD)
    elif config is None or weights is None:
        raise AdapterError("An adapter needs a source folder, or config and weights.", fix="Pass source=...")
    if config is not None:
        atomic.write_json(building / CONFIG[kind], scrub(dict(config)))
    if isinstance(weights, Mapping):
        from safetensors.torch import save_file  # torch, only for whoever passes tensors

        tensors = {name: tensor.detach().contiguous().clone() for name, tensor in weights.items()}
        save_file(tensors, building / WEIGHTS[kind], metadata={"format": "pt"})
    elif weights is not None:
        copy_file(Path(weights), building / WEIGHTS[kind])
    for file in map(Path, tokenizer_files or ()):
        templates = file.parent.name == "additional_chat_templates"
        name = f"{file.parent.name}/{file.name}" if templates else file.name
        if is_pickle(file):
            raise pickle_error(file)
        if not (name in TOKENIZER or (templates and is_allowed(name))):
            raise AdapterError(f"{file} is no tokenizer file.", fix=f"The names are {sorted(TOKENIZER)}.")
        copy_file(file, building / name)


def _seal(building: Path) -> None:
    """Note in the lock which weights and settings it was written with."""
    adapter = AdapterDir.open(building)
    if adapter.lock is None:
        return
    sealed = dataclasses.replace(
        adapter.lock,
        weights_sha256={file.name: file_sha256(file) for file in adapter.weights},
        settings_sha256=settings_sha256(adapter.config) if adapter.kind == "peft" else None,
    )
    atomic.write_json(building / LOCK, scrub(sealed.to_json()))


def _write_card(building: Path, place: Path, card: str | None) -> None:
    from hfplug.adapters.card import merge_card, render_card  # card.py knows this module

    new = card if card is not None else render_card(AdapterDir.open(building), name=place.name)
    existing = next((folder / CARD for folder in (place, building) if (folder / CARD).is_file()), None)
    if existing is not None:
        try:
            new = merge_card(existing.read_text(encoding="utf-8"), new)
        except (AdapterError, UnicodeDecodeError) as error:
            # The adapter matters more than its card: what a person wrote stays as it is.
            logger.warning("%s is left as it is: %s", existing, error)
            if existing.parent != building:
                copy_file(existing, building / CARD)
            return
    atomic.write_text(building / CARD, new)
