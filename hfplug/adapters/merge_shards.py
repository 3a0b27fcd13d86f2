"""Adapters into the base's own files, one tensor at a time: a base of any size needs the memory of its largest layer.

(Besides, pages of one of its files are mapped, which the system takes back when it needs them.)

Which of the base's tensors an adapter changes, and into what, is asked of PEFT one layer at a time
(``merge_layout.py``), computed in float32 and rounded once (for LoRA, W + s * B A: Hu et al. 2021, section 4.1). Every
other tensor is written as it was read, or rounded to the format that was asked for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hfplug.adapters import atomic
from hfplug.adapters.base_files import BaseFiles, names_in_checkpoint, tensor_sha256
from hfplug.adapters.files import CONFIG, WEIGHTS, WEIGHTS_INDEX
from hfplug.adapters.merge_combine import Combination
from hfplug.adapters.merge_layout import Layout, not_finite
from hfplug.adapters.safetensors_header import read_header
from hfplug.adapters.safetensors_writer import Entry, TensorWriter
from hfplug.errors import AdapterError
from hfplug.models.base import Base


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the files of a base become those of the merged model.

    Attributes:
        files: The base's safetensors files.
        index: Content of ``model.safetensors.index.json``; None for a single file.
        layouts: The adapters.
        combination: How they are combined.
        names: Name of each tensor in the files that is changed to the parameter that it is.
        places: The parameters that are changed or needed for it, to the file and the name there.
        added: Parameters that the files lack and an adapter brings: a head.
    """

    files: tuple[Path, ...]
    index: Mapping[str, Any] | None
    layouts: tuple[Layout, ...]
    combination: Combination
    names: Mapping[str, str]
    places: Mapping[str, tuple[Path, str]]
    added: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sums:
    """SHA-256 of the bytes of one changed tensor, in the base and merged; the base's is None for one that was added."""

    base: str | None
    merged: str


def plan_shards(layouts: Sequence[Layout], combination: Combination, files: BaseFiles) -> Plan | str:
    """Find the tensors that adapters change among the base's own files, without loading a weight.

    Args:
        layouts: The adapters, laid out over the base.
        combination: How they are combined.
        files: From :func:`find_files`.

    Returns:
        The plan, or why it cannot be done tensor by tensor: then the whole model has to be in memory.

    Raises:
        AdapterError: Two adapters bring a head of their own.
    """
    where = {name: (file, entry["shape"]) for file in files.files for name, entry in read_header(file).items()}
    names: dict[str, str] = {}
    places: dict[str, tuple[Path, str]] = {}
    added: list[str] = []
    for layout in layouts:
        for name, layer in layout.changed.items():
            if name in layout.tied:
                return f"{name} is tied to another weight"
            known = [key for key in names_in_checkpoint(name, layout.prefix) if key in where]
            if not known and not layer:
                added.append(name)
            elif len(known) != 1 or where[known[0]][1] != layout.shapes[name]:
                return f"the base's files hold {name} in another form"
            else:
                names[known[0]] = name
                places[name] = (where[known[0]][0], known[0])
    twice = [name for name, count in Counter(added).items() if count > 1]
    if twice:
        raise AdapterError(
            f"More than one of the adapters brings a {twice[0].rpartition('.')[0]} of its own, and the base has none:"
            " two heads cannot be added up.",
            fix="Merge one adapter, and keep the others beside their base.",
        )
    return Plan(
        files=files.files,
        index=files.index,
        layouts=tuple(layouts),
        combination=combination,
        names=names,
        places=places,
        added=tuple(added),
    )


def size_of(plan: Plan, dtype: torch.dtype | None) -> int:
    """Bytes of the tensors that :func:`write_shards` will write.

    Args:
        plan: From :func:`plan_shards`.
        dtype: As for :func:`write_shards`.
    """
    extra = _added(plan, dtype)
    entries = [*(one for file in plan.files for one in _Reader(plan, file).entries(dtype, {}).values())]
    return sum(one.size for one in entries) + sum(one.numel() * one.element_size() for one in extra.values())


def write_shards(plan: Plan, folder: Path, dtype: torch.dtype | None) -> dict[str, Sums]:
    """Write the merged weights, one file for each file of the base.

    Args:
        plan: From :func:`plan_shards`.
        folder: Where to.
        dtype: Format of all floating-point weights; that of each tensor in the base if None.

    Returns:
        Name in the files of each tensor that an adapter may change to its sums.

    Raises:
        AdapterError: A number of the merged weights is not finite in that format.
    """
    sums: dict[str, Sums] = {}
    total = 0
    extra = _added(plan, dtype)
    for number, file in enumerate(plan.files):
        mine = extra if number == len(plan.files) - 1 else {}
        with (
            _Reader(plan, file) as reader,
            TensorWriter(folder / _name_of(plan, file), reader.entries(dtype, mine)) as to,
        ):
            for name in to.names:
                if name in mine:
                    to.write(name, mine[name])
                    sums[name] = Sums(base=None, merged=tensor_sha256(mine[name]))
                    continue
                tensor, merged = reader.read(name)
                wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
                new = (tensor if merged is None else merged).to(wanted).contiguous()
                if (merged is not None or wanted != tensor.dtype) and not bool(torch.isfinite(new).all()):
                    raise not_finite(name, str(wanted).removeprefix("torch."))
                if merged is not None:
                    sums[name] = Sums(base=tensor_sha256(tensor), merged=tensor_sha256(new))
                to.write(name, new)
            total += to.size
    if plan.index is not None:
        weight_map = {**plan.index["weight_map"], **dict.fromkeys(extra, _name_of(plan, plan.files[-1]))}
        metadata = {**(plan.index.get("metadata") or {}), "total_size": total}
        atomic.write_json(folder / WEIGHTS_INDEX, {**plan.index, "metadata": metadata, "weight_map": weight_map})
    return sums


def write_config(plan: Plan, base: Base, folder: Path, dtype: torch.dtype | None) -> None:
    """Write ``config.json`` of the merged model: the base's, with its class and number format.

    Args:
        plan: From :func:`plan_shards`.
        base: The base.
        folder: Where to.
        dtype: As for :func:`write_shards`.
    """
    values = json.loads(base.config.to_json_string(use_diff=True))
    values["architectures"] = [plan.layouts[0].architecture]
    labels = next((lock.label_names for one in plan.layouts if (lock := one.adapter.lock) and lock.label_names), None)
    if labels:
        values["id2label"] = {str(number): name for number, name in enumerate(labels)}
        values["label2id"] = {name: number for number, name in enumerate(labels)}
    if dtype is not None:
        values.pop("torch_dtype", None)
        values["dtype"] = str(dtype).removeprefix("torch.")
    atomic.write_json(folder / CONFIG["full"], values)


# --------------------------------------------------------------------------------------------------- parts


class _Reader:
    """One of the base's files, and what the adapters make of its tensors."""

    def __init__(self, plan: Plan, file: Path) -> None:
        self._plan, self._file = plan, file
        self._opened: dict[Path, Any] = {}
        self._stack = ExitStack()
        self._ready: dict[tuple[int, str], torch.Tensor] = {}  # merged with another tensor of the same layer

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def entries(self, dtype: torch.dtype | None, more: Mapping[str, torch.Tensor]) -> dict[str, Entry]:
        """What the header of the merged file says."""
        found = {}
        for name, entry in read_header(self._file).items():
            start, end = entry["data_offsets"]
            found[name] = Entry(entry["dtype"], tuple(entry["shape"]), end - start)
            if dtype is not None and entry["dtype"].startswith(("F", "BF")):
                found[name] = Entry.of(entry["shape"], dtype)
        return found | {name: Entry.of(one.shape, one.dtype) for name, one in more.items()}

    def read(self, key: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A tensor, and what the adapters make of it (None: nothing)."""
        tensor = self._open(self._file).get_tensor(key)
        name = self._plan.names.get(key)
        if name is None:
            return tensor, None
        each = [
            (number, new)
            for number, layout in enumerate(self._plan.layouts)
            if (new := _of_one(layout, number, name, self._parameter, self._ready)) is not None
        ]
        return tensor, self._plan.combination.combine(name, tensor, each)

    def _parameter(self, name: str) -> torch.Tensor:
        place, key = self._plan.places[name]
        return self._open(place).get_tensor(key)

    def _open(self, file: Path) -> Any:
        from safetensors import safe_open

        if file not in self._opened:
            self._opened[file] = self._stack.enter_context(safe_open(file, framework="pt"))
        return self._opened[file]


def _of_one(
    layout: Layout,
    number: int,
    name: str,
    read: Callable[[str], torch.Tensor],
    ready: dict[tuple[int, str], torch.Tensor],
) -> torch.Tensor | None:
    """What one adapter makes of a parameter; None if it leaves it."""
    if name in layout.replaced:
        return layout.replaced[name].float()
    layer = layout.changed.get(name)
    if layer is None:
        return None
    if (number, name) not in ready:
        made = layout.merge_layer(layer, {one: read(one) for one in layout.inside(layer)})
        ready |= {(number, one): tensor for one, tensor in made.items()}
    return ready.pop((number, name))


def _added(plan: Plan, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """The parameters that the base's files lack."""
    wanted = dtype or getattr(torch, BaseFiles(files=plan.files, index=plan.index).dtype())
    tensors = {name: layout.replaced[name] for layout in plan.layouts for name in plan.added if name in layout.replaced}
    return {name: tensor.to(wanted).contiguous() for name, tensor in tensors.items()}


def _name_of(plan: Plan, file: Path) -> str:
    # In the Hub's cache a file may be reached by a link, whose own name is the right one.
    return WEIGHTS["full"] if plan.index is None else file.name
