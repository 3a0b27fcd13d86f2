"""The difference between two models, one tensor at a time from their files, and its best approximation of a low rank.

For a matrix D of shape (out, in) with the singular values s, the nearest matrix of rank r keeps the r largest of them
(Eckart and Young 1936), and with them the share sum(s[:r]^2) / sum(s^2) of D's squared Frobenius norm, which is called
its energy here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hfplug.adapters.base_files import BaseFiles, names_in_checkpoint
from hfplug.adapters.safetensors_header import read_header
from hfplug.errors import AdapterError, MismatchError
from hfplug.models.base import Base, auto_class

# Up to this many rows or columns the decomposition is exact; beyond, that of a random projection, refined by
# iterations (Halko et al. 2011, algorithm 5.1), which takes seconds where the exact one takes many minutes.
_EXACT = 1024
_MORE, _ITERATIONS = 32, 8


@dataclass(frozen=True, kw_only=True)
class Place:
    """One parameter of the full model.

    Attributes:
        name: Of the parameter.
        module: Name of the module that holds it.
        kind: ``"matrix"``: of a linear layer, which LoRA can go beside. ``"conv1d"``: the same, held as (in, out).
            ``"tied"``: shared with another module. ``"other"``: norms, biases, embeddings, stacked experts.
        is_embedding: ``"yes"`` for rows of the vocabulary.
    """

    name: str
    module: str
    kind: str
    is_embedding: str


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is known of the full model without its weights.

    Attributes:
        model: It, on the ``meta`` device.
        places: Its parameters; one that has two names is there once.
        prefix: What a class with a head puts before the names of the rest, with the dot; or empty.
    """

    model: nn.Module
    places: tuple[Place, ...]
    prefix: str


def shape_of(full: Base, task_type: str) -> Shape:
    """The parameters of a model, without loading one.

    Args:
        full: The model. task_type: PEFT's name of its task.
    """
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        auto: Any = auto_class(task_type, full.config)
        model = auto.from_config(copy.deepcopy(full.config), trust_remote_code=full.trust_remote_code)
    holders: dict[int, int] = {}
    for _, one in model.named_parameters(remove_duplicate=False):
        holders[id(one)] = holders.get(id(one), 0) + 1
    places = []
    for name, one in model.named_parameters():
        module = name.rpartition(".")[0]
        owner = model.get_submodule(module)
        kind = "other"
        if name.endswith(".weight") and one.ndim == 2:
            kind = "matrix" if type(owner) is nn.Linear else "conv1d" if isinstance(owner, Conv1D) else "other"
        kind = "tied" if holders[id(one)] > 1 else kind
        embedding = "yes" if isinstance(owner, nn.Embedding) else "no"
        places.append(Place(name=name, module=module, kind=kind, is_embedding=embedding))
    prefix = getattr(model, "base_model_prefix", "")
    return Shape(model=model, places=tuple(places), prefix=f"{prefix}." if prefix else "")


def differences(
    shape: Shape, full: BaseFiles, base: BaseFiles
) -> Iterator[tuple[Place, torch.Tensor, torch.Tensor | None]]:
    """Each parameter of the full model with its difference to the base, both in float32; one at a time.

    Args:
        shape: Of the full model. full: Its files. base: Those of the base.

    Yields:
        The parameter, the full model's tensor, and the difference; None where the base's files hold no such parameter.

    Raises:
        MismatchError: A tensor has another shape in the base.
        AdapterError: The full model's files lack a parameter.
    """
    with ExitStack() as stack:
        read_full, read_base = (_reader(files, shape.prefix, stack) for files in (full, base))
        for place in shape.places:
            new, old = read_full(place.name), read_base(place.name)
            if new is None:
                raise AdapterError(
                    f"The files of the full model hold no {place.name}, or hold it in another form.",
                    fix="Load it with transformers and save it again with save_pretrained.",
                )
            if old is None:
                yield place, new.float(), None
                continue
            if new.shape != old.shape:
                _refuse_shape(place, new, old)
            yield place, new.float(), new.float() - old.float()


def low_rank(difference: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A matrix as B @ A.

    Args:
        difference: Of shape (out, in), float32, not all zero.
        rank: 1 or more, and not above the smaller side.

    Returns:
        A of shape (rank, in), B of shape (out, rank), and the share of the energy that B @ A keeps, 0 to 1.
    """
    least = min(difference.shape)
    if least <= _EXACT or rank + _MORE >= least:
        left, values, right = torch.linalg.svd(difference, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            left, values, turned = torch.svd_lowrank(difference, q=rank + _MORE, niter=_ITERATIONS)
        right = turned.T
    root = values[:rank].sqrt()
    a, b = root[:, None] * right[:rank], left[:, :rank] * root
    rest = energy(difference - b @ a) / energy(difference)
    return a.contiguous(), b.contiguous(), min(1.0, max(0.0, 1.0 - rest))


def energy(tensor: torch.Tensor) -> float:
    """The sum of squares.

    Args:
        tensor: Of any shape.
    """
    return float(tensor.double().square().sum())


def _reader(files: BaseFiles, prefix: str, stack: ExitStack) -> Callable[[str], torch.Tensor | None]:
    from safetensors import safe_open

    where: Mapping[str, Path] = {name: file for file in files.files for name in read_header(file)}
    opened: dict[Path, Any] = {}

    def read(name: str) -> torch.Tensor | None:
        key = next((one for one in names_in_checkpoint(name, prefix) if one in where), None)
        if key is None:
            return None
        if where[key] not in opened:
            opened[where[key]] = stack.enter_context(safe_open(where[key], framework="pt"))
        return opened[where[key]].get_tensor(key)

    return read


def _refuse_shape(place: Place, new: torch.Tensor, old: torch.Tensor) -> None:
    shapes = f"{place.name} has the shape {tuple(new.shape)} there and {tuple(old.shape)} in the base"
    if (place.is_embedding == "yes" or place.kind == "tied") and new.shape[1:] == old.shape[1:]:
        raise MismatchError(
            f"The full model has another vocabulary than the base: {shapes}.",
            fix="Pass the base with the same vocabulary: tokens that were added have no difference to anything.",
        )
    raise MismatchError(
        f"The full model is not of the base's shape: {shapes}.", fix="Pass the base that it was tuned from: --base."
    )
