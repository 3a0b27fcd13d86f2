"""The files of an adapter: their names, what may be copied, and what is a user's own.

``AdapterDir`` in ``adapter_dir.py`` is the way in; nothing else needs this module.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from hfplug.adapters import atomic
from hfplug.adapters.record import scrub
from hfplug.errors import AdapterError, UnsafeFileError

logger = logging.getLogger(__name__)

Kind = Literal["peft", "full"]
CONFIG: dict[Kind, str] = {"peft": "adapter_config.json", "full": "config.json"}
WEIGHTS: dict[Kind, str] = {"peft": "adapter_model.safetensors", "full": "model.safetensors"}
WEIGHTS_INDEX = "model.safetensors.index.json"
RECORD, LOCK, TASK, CARD = "hfplug_record.json", "hfplug_lock.json", "hfplug_task.json", "README.md"
# How a merged model, or an adapter that was taken out of a fully tuned one, was made.
MERGE, EXTRACT = "hfplug_merge.json", "hfplug_extract.json"
OURS = frozenset({RECORD, LOCK, TASK, CARD, MERGE, EXTRACT})
TOKENIZER = frozenset(
    {
        "added_tokens.json", "chat_template.jinja", "merges.txt", "sentencepiece.bpe.model",
        "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer.model",
        "tokenizer_config.json", "vocab.json", "vocab.txt",
    }
)  # fmt: skip
NAMES = OURS | TOKENIZER | {*CONFIG.values(), *WEIGHTS.values(), WEIGHTS_INDEX, "generation_config.json"}
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_CHAT_TEMPLATE = re.compile(r"additional_chat_templates/[\w.-]+\.jinja")
# Where things are and who wrote them: the adapter is the same whatever they say.
_PLACES = re.compile(r"auto_mapping|inference_mode|peft_version|revision|\w*name_or_path|\w+_file|_commit_hash")
_SHARED_STORE = ".huggingface-shared-blobs"  # huggingface_hub's mark on its store
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})
_TRAINERS_OWN = re.compile(r"checkpoint-\d+|trainer_state\.json|optimizer\..*|scheduler\.pt")


def is_allowed(name: str) -> bool:
    """Whether a file of this name (relative to the folder, with ``/``) may belong to an adapter."""
    return name in NAMES or bool(SHARD.fullmatch(name) or _CHAT_TEMPLATE.fullmatch(name))


def adapterhub_error(where: object) -> AdapterError:
    """The error for a folder or repo that the library ``adapters`` (AdapterHub) wrote.

    Args:
        where: The folder or repo.
    """
    return AdapterError(
        f"{where} is an adapter of the library 'adapters' (AdapterHub): it lacks PEFT's settings (peft_type,"
        " target_modules) and adapter_model.safetensors, and its weights have names of that library.",
        fix="Load it there with model.load_adapter, call model.merge_adapter(name) and save the model; then type:"
        " hfplug extract FULL --base BASE --rank (that of its config) --out DIR",
    )


def refuse_adapterhub(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a folder whose ``adapter_config.json`` is one of the library ``adapters``.

    Args:
        config: Its content. path: The folder.
    """
    is_theirs = isinstance(config.get("config"), (str, dict)) and "model_type" in config
    if is_theirs and not ("peft_type" in config or "architectures" in config):  # a config.json has architectures
        raise adapterhub_error(path)


def refuse_adapterhub_names(names: Collection[str], repo_id: str) -> None:
    """The same by the names of a repo's files, before one is fetched.

    Args:
        names: Of its files. repo_id: The repo.
    """
    if CONFIG["peft"] in names and not {"pytorch_adapter.bin", "adapter.safetensors"}.isdisjoint(names):
        raise adapterhub_error(repo_id)


def refuse_foreign(place: Path) -> None:
    """Refuse to write where something other than an adapter lies."""
    if not os.path.lexists(place):
        return
    if not place.is_dir():
        raise AdapterError(f"{place} is a file; an adapter is a folder.", fix="Pass another folder.")
    names = sorted(name for name in os.listdir(place) if not atomic.is_temporary(name))
    trainers = [name for name in names if _TRAINERS_OWN.fullmatch(name)]
    if trainers:
        raise AdapterError(
            f"{place} is a Trainer's own folder (it holds {trainers[0]}).",
            fix=f"Pass {place / 'adapter'}, say.",
        )
    if names and CONFIG["peft"] not in names and RECORD not in names:
        raise AdapterError(
            f"{place} is neither empty nor an adapter's folder (it holds {', '.join(names[:3])}).",
            fix="Pass a new folder.",
        )


def refuse_taken(place: Path) -> None:
    """Refuse to write where anything lies already: for folders that are made once and never replaced."""
    if not os.path.lexists(place):
        return
    if not place.is_dir():
        raise AdapterError(f"{place} is a file, and nothing is overwritten.", fix="Pass a new folder.")
    names = sorted(name for name in os.listdir(place) if not atomic.is_temporary(name))
    if names:
        raise AdapterError(
            f"{place} is not empty (it holds {', '.join(names[:3])}), and nothing is overwritten.",
            fix="Pass a new folder, or delete that one first.",
        )


def allowed_files(path: Path) -> list[Path]:
    found = [file for file in path.glob("*") if is_allowed(file.name) and file.is_file()]
    found += [file for file in path.glob("additional_chat_templates/*") if file.is_file()]
    return sorted(file for file in found if is_allowed(file.relative_to(path).as_posix()))


def refuse_leaving(file: Path, folder: Path) -> None:
    """Refuse a link to somewhere else; the cache of huggingface_hub links to its own blobs, which is fine.

    What came through Xet lies in one store for all repos of a cache, beside them.
    """
    real, home = file.resolve(), folder.resolve()
    repos = [parent.parent for parent in home.parents if parent.name == "snapshots"]
    stores = [repo.parent / "blobs" for repo in repos if (repo.parent / "blobs" / _SHARED_STORE).is_file()]
    homes = [home, *(repo / "blobs" for repo in repos), *stores]
    if not any(real.is_relative_to(allowed) for allowed in homes):
        raise UnsafeFileError(f"{file} is a link that leaves its folder, to {real}.", fix="Copy the file there.")


def copy_file(file: Path, to: Path) -> None:
    """A copy of the bytes: a link would change under us when Trainer writes the file again."""
    if is_pickle(file):
        raise pickle_error(file)
    to.parent.mkdir(exist_ok=True)
    try:
        shutil.copyfile(file, to)
    except OSError as error:
        raise AdapterError(f"{file} cannot be copied: {error.strerror}.", fix="Check the path.") from error


def is_pickle(file: Path) -> bool:
    if file.suffix.lower() == ".npy" and file.is_file():
        with open(file, "rb") as opened:
            return b"|O" in opened.read(1024)  # an array of objects, which numpy stores as a pickle
    return file.suffix.lower() in PICKLES


def pickle_error(file: Path) -> UnsafeFileError:
    return UnsafeFileError(
        f"{file} is a pickle, which can run code when it is read; an adapter never holds one.",
        fix="Save the weights as safetensors, and leave this file out.",
    )


def same_adapter(one: Path, other: Path) -> bool:
    """Whether two folders hold the same weights, configuration and tokenizer."""
    files = [
        {f.relative_to(folder).as_posix(): f for f in allowed_files(folder) if f.name not in OURS}
        for folder in (one, other)
    ]
    if set(files[0]) != set(files[1]) or not other.is_dir():
        return False
    return all(_same_file(file, files[1][name]) for name, file in files[0].items())


def _same_file(one: Path, other: Path) -> bool:
    if one.stat().st_size == other.stat().st_size and file_sha256(one) == file_sha256(other):
        return True
    if one.name not in CONFIG.values():
        return False
    try:
        return _unordered(read_object(one)) == _unordered(read_object(other))
    except AdapterError:
        return False


def read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path} cannot be read as JSON: {error}.", fix="Copy or export it again.") from error
    if not isinstance(value, dict):
        raise AdapterError(f"{path} must hold an object; it holds {type(value).__name__}.", fix="Export it again.")
    return value


def _unordered(value: Any) -> Any:
    """``value`` with lists of texts sorted: PEFT writes a set of module names in any order."""
    if isinstance(value, dict):
        return {key: _unordered(item) for key, item in value.items()}
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return sorted(value)
    return value


def carry_over(old: Path, new: Path) -> None:
    """Copy whatever a user keeps in ``old`` to ``new``: everything that is no part of an adapter."""
    for entry in _users_entries(old):
        if entry.is_symlink():
            os.symlink(os.readlink(entry), new / entry.name)
        elif entry.is_dir():
            shutil.copytree(entry, new / entry.name, symlinks=True, dirs_exist_ok=True)
        elif entry.is_file() and not is_pickle(entry):
            shutil.copy2(entry, new / entry.name)
        else:
            logger.warning("%s is not carried over into the new adapter", entry)


def _users_entries(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        ours = is_allowed(entry.name) or entry.name == "additional_chat_templates"
        if not ours and not atomic.is_temporary(entry.name):
            yield entry


def settings_sha256(config: Mapping[str, Any]) -> str:
    """SHA-256 of ``adapter_config.json``'s content as canonical JSON, without what says where things are."""
    kept = {key: value for key, value in scrub(config).items() if not _PLACES.fullmatch(key)}
    return hashlib.sha256(json.dumps(_unordered(kept), sort_keys=True).encode()).hexdigest()


def file_sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
