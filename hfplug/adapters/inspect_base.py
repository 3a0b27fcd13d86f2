"""The base that an adapter is held against: its tensors one at a time, from its files.

A base of 70 billion numbers is not loaded for the norm of one of its matrices. Only where a file calls things by names
that transformers changes when it loads them (stacked experts, say), or holds them quantised, is the model loaded, once,
on the CPU.
"""

from __future__ import annotations

import copy
import functools
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.base_files import find_files, names_in_checkpoint
from hfplug.adapters.card_front import task_type as stated_task_type
from hfplug.adapters.fingerprint import fingerprint_tensor, same_tensor
from hfplug.adapters.load import find_base
from hfplug.adapters.safetensors_header import FLOATS, read_header
from hfplug.errors import MismatchError
from hfplug.methods import get_method
from hfplug.models.base import Base, auto_class, read_task_type
from hfplug.models.ends import input_embedding
from hfplug.models.factory import load_base

if TYPE_CHECKING:
    from hfplug.adapters.lock import Lock

logger = logging.getLogger(__name__)


@dataclass
class BaseTensors:
    """A base whose tensors are read when they are asked for.

    Attributes:
        base: The base.
        task_type: PEFT's name of what it is loaded for.
        files: Its safetensors files on this machine.
        token: For a private or gated base.
        offline: ``"on"`` asks no Hub.
        read: ``"files"``, or ``"model"`` once it had to be loaded.
    """

    base: Base
    task_type: str
    files: tuple[Path, ...]
    token: str | None = None
    offline: str = "auto"
    read: str = field(default="files", init=False)

    def get(self, name: str) -> Tensor | None:
        """A parameter in float32 on the CPU; None if the base has none of this name, or holds it in no numbers.

        Args:
            name: As in the plain base's ``named_parameters``.
        """
        tensor = self.stored(name)
        return None if tensor is None else tensor.to(torch.float32)

    def stored(self, name: str) -> Tensor | None:
        """The same in the format that it is stored in."""
        for one in (name, *self._aliases.get(name, ())):
            key = self._key(one)
            if key is not None:
                return self._from_file(key)
        if not self.has(name) or not self._unclaimed:
            return None  # another base, or a head that this one's checkpoint lacks
        return self._loaded.get(name)

    def has(self, name: str) -> bool:
        """Whether the model has a parameter of this name, be it in the files or not."""
        return name in self.parameters

    def row_major(self, name: str) -> Tensor | None:
        """A weight as ``get`` gives it, as (out, in) also for GPT-2's layers, which hold it the other way round."""
        weight = self.get(name)
        return weight.T if weight is not None and self.is_transposed(name) else weight

    def is_transposed(self, name: str) -> bool:
        """Whether a weight is held as (in, out)."""
        return type(self._module(name.rpartition(".")[0])).__name__ == "Conv1D"

    @functools.cached_property
    def skeleton(self) -> nn.Module:
        """The model without numbers."""
        with torch.device("meta"):
            auto: Any = auto_class(self.task_type, self.base.config)
            config = copy.deepcopy(self.base.config)
            if getattr(config, "quantization_config", None) is not None:
                del config.quantization_config
            model: nn.Module = auto.from_config(config, trust_remote_code=self.base.trust_remote_code)
        return model

    @functools.cached_property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Name to shape of every parameter, tied ones under each name."""
        named = self.skeleton.named_parameters(remove_duplicate=False)
        return {name: tuple(one.shape) for name, one in named}

    def embedding(self) -> tuple[Tensor, float] | None:
        """The input embedding, shape (tokens, width), and what the model multiplies its rows by; None without one."""
        module = input_embedding(self.skeleton)
        weight = getattr(module, "weight", None)
        named = self.skeleton.named_parameters(remove_duplicate=False)
        name = next((name for name, one in named if one is weight), None)
        matrix = None if name is None else self.get(name)
        scale = getattr(module, "scalar_embed_scale", getattr(module, "embed_scale", 1.0))
        return None if matrix is None else (matrix, 1.0 if isinstance(scale, Tensor) else float(scale))

    # --------------------------------------------------------------------------------------------------- parts

    @functools.cached_property
    def _where(self) -> dict[str, Path]:
        return {
            key: file
            for file in self.files
            for key, entry in read_header(file).items()
            if entry["dtype"] in FLOATS  # packed 4-bit numbers are whole ones
        }

    def _key(self, name: str) -> str | None:
        """What the file calls a parameter."""
        prefix = getattr(self.skeleton, "base_model_prefix", "")
        names = names_in_checkpoint(name, f"{prefix}." if prefix else "")
        return next((one for one in names if one in self._where), None)

    @functools.cached_property
    def _aliases(self) -> dict[str, tuple[str, ...]]:
        """Other names of each tied parameter."""
        holders: dict[int, list[str]] = {}
        for name, one in self.skeleton.named_parameters(remove_duplicate=False):
            holders.setdefault(id(one), []).append(name)
        tied = [names for names in holders.values() if len(names) > 1]
        return {name: tuple(other for other in names if other != name) for names in tied for name in names}

    @functools.cached_property
    def _unclaimed(self) -> bool:
        """Whether the files hold anything that no parameter or buffer of the model is called after."""
        known = {self._key(name) for name in self.parameters}
        known |= {self._key(name) for name, _ in self.skeleton.named_buffers()}
        every = {key for file in self.files for key in read_header(file)}
        return bool(every - known)

    def _module(self, name: str) -> nn.Module | None:
        try:
            return self.skeleton.get_submodule(name)
        except AttributeError:
            return None

    def _from_file(self, key: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(self._where[key], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(key)
        return tensor

    @functools.cached_property
    def _loaded(self) -> dict[str, Tensor]:
        """Every parameter that the checkpoint holds, as the loaded model has it; quantised ones as full numbers."""
        logger.info("The base's files call its weights by other names, so it is loaded")
        # Any method that leaves the base as it is stored.
        places: Any = {"token": self.token, "offline": self.offline}
        model, missing = load_base(self.base, self.task_type, get_method("prompt_tuning")(), **places)
        self.read = "model"
        held = model.named_parameters(remove_duplicate=False)
        whole = {name: _in_full(one) for name, one in held if name not in missing}
        return {name: one for name, one in whole.items() if one is not None}


def open_base(
    adapter: AdapterDir,
    base: str | Path | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    offline: Any = "auto",
    trust_remote_code: bool = False,
) -> BaseTensors:
    """The base of an adapter, compared with the adapter's lock if there is one.

    Args:
        adapter: The adapter's folder.
        base: Repo id or folder of the base, if it is not where it was.
        revision: Commit of the base, if it is not the one that the adapter names.
        token: Access token for a private or gated base.
        offline: ``"on"`` asks no Hub.
        trust_remote_code: Run modelling code from the base's repo.

    Raises:
        AdapterError: The adapter does not say which base it is for.
        BaseModelError: The base cannot be found.
        MismatchError: It is not the one that the adapter was trained on.
    """
    places: dict[str, Any] = {"token": token, "offline": offline}
    found = find_base(adapter, base, revision, trust_remote_code=trust_remote_code, **places)
    kind = read_task_type(found.config, stated_task_type(adapter))
    tensors = BaseTensors(found, kind, find_files(found, token, offline).files, token=token, offline=offline)
    if adapter.lock is not None and adapter.kind == "peft":
        _check(adapter.lock, tensors)
    return tensors


def _check(lock: Lock, tensors: BaseTensors) -> None:
    """Compare the tensors that the lock holds a sample of, one at a time."""
    wrong = []
    for name, expected in lock.tensors.items():
        tensor = tensors.stored(name)
        if tensor is None and tensors.has(name):
            continue  # quantised, or new after every load
        found = None if tensor is None else fingerprint_tensor(tensor)
        rows = None if tensor is None or not tensor.ndim else tensor.shape[0]
        resized = rows != lock.vocab_size and list(expected.get("shape", ()))[:1] == [lock.vocab_size]
        if tensor is None or (found is not None and not resized and not same_tensor(expected, found)):
            wrong.append(name)
    if wrong:
        commit = f" at commit {lock.base_commit}" if lock.base_commit else ""
        raise MismatchError(
            f"{tensors.base.name!r} is not the base that this adapter was trained on: {len(wrong)} of "
            f"{len(lock.tensors)} sampled tensors differ, the first is {wrong[0]!r}.",
            fix=f"Pass {lock.base!r}{commit} with --base, or --against nothing to look at the adapter alone.",
        )


def _in_full(parameter: Any) -> Tensor | None:
    """A parameter as numbers; None if it is quantised in a way that is not known here."""
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        from bitsandbytes.functional import dequantize_4bit

        full: Tensor = dequantize_4bit(parameter.data, state)
        return full
    return parameter.data if parameter.is_floating_point() else None
