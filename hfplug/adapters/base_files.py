"""The safetensors files of a base on this machine, and their tensors one at a time."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hfplug.adapters.files import SHARD, WEIGHTS, WEIGHTS_INDEX, read_object
from hfplug.adapters.fingerprint import fingerprint_tensor, same_tensor
from hfplug.adapters.safetensors_header import FLOATS, read_header
from hfplug.errors import BaseModelError, MismatchError
from hfplug.models.base import Base

if TYPE_CHECKING:
    from hfplug.adapters.lock import Lock


@dataclass(frozen=True, kw_only=True)
class BaseFiles:
    """The safetensors files of a model, on this machine.

    Attributes:
        files: In the order of their names.
        index: Content of the index; None for a single file.
    """

    files: tuple[Path, ...]
    index: Mapping[str, Any] | None

    def dtype(self) -> str:
        """The number format of most tensors' numbers, e.g. ``"bfloat16"``."""
        sizes: Counter[str] = Counter()
        for entry in (entry for file in self.files for entry in read_header(file).values()):
            start, end = entry["data_offsets"]
            sizes[FLOATS.get(entry["dtype"], "")] += end - start
        sizes.pop("", None)
        return sizes.most_common(1)[0][0] if sizes else "float32"


def find_files(base: Base, token: str | None = None, offline: str = "auto") -> BaseFiles:
    """The safetensors files of a base, fetched if they are not on this machine.

    Args:
        base: The base.
        token: Access token for a private or gated base.
        offline: ``"on"`` asks no Hub for them: the cache only.

    Raises:
        BaseModelError: They are not there.
    """
    from transformers.utils import cached_file

    places: dict[str, Any] = {"revision": base.revision or "main", "token": token}
    places |= {"local_files_only": offline == "on", "_raise_exceptions_for_missing_entries": False}
    try:
        single = cached_file(base.name, WEIGHTS["full"], **places)
        if single is not None:
            return BaseFiles(files=(Path(single),), index=None)
        index_file = cached_file(base.name, WEIGHTS_INDEX, **places)
        if index_file is None:
            raise OSError("there is neither model.safetensors nor its index")
        index = read_object(Path(index_file))
        names = sorted({str(name) for name in (index.get("weight_map") or {}).values()})
        if not names or not all(SHARD.fullmatch(name) for name in names):
            raise OSError(f"{WEIGHTS_INDEX} names no shards")
        shards = [cached_file(base.name, name, **places) for name in names]
        if missing := [name for name, shard in zip(names, shards, strict=True) if shard is None]:
            raise OSError(f"{missing[0]} is missing")
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"The weights of {base.name!r} cannot be read as safetensors: {str(error).splitlines()[0]}.",
            fix="Pass a base that is whole, as a folder or repo id.",
        ) from error
    return BaseFiles(files=tuple(Path(str(shard)) for shard in shards), index=index)


def check_base_files(lock: Lock, prefix: str, files: BaseFiles) -> None:
    """Compare the base's files with a lock's fingerprints of it, a tensor at a time.

    Args:
        lock: Of the adapter.
        prefix: As for :func:`names_in_checkpoint`.
        files: Of the base.

    Raises:
        MismatchError: A tensor is not that of the base that the adapter was made for.
    """
    from safetensors import safe_open

    where = {name: file for file in files.files for name in read_header(file)}
    for name, expected in lock.tensors.items():
        key = next((one for one in names_in_checkpoint(name, prefix) if one in where), None)
        if key is None:
            continue
        with safe_open(where[key], framework="pt") as opened:
            found = fingerprint_tensor(opened.get_tensor(key))
        if found is not None and not same_tensor(expected, found):
            raise MismatchError(
                f"The base's weights are not those of the adapter's base: {key} differs.",
                fix=f"Pass the base that it was trained on: {lock.base!r}"
                + (f" at commit {lock.base_commit}." if lock.base_commit else "."),
            )


def names_in_checkpoint(name: str, prefix: str) -> list[str]:
    """What a checkpoint may call a weight: with or without the prefix that a head's class puts before the rest.

    Args:
        name: Of a parameter of the model.
        prefix: What its class puts before the names of the rest, with the dot; or empty.
    """
    if not prefix:
        return [name]
    return [name, name.removeprefix(prefix) if name.startswith(prefix) else prefix + name]


def tensor_sha256(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes in memory order.

    Args:
        tensor: On the CPU.
    """
    flat = tensor.detach().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data if flat.numel() else b"").hexdigest()
