"""What moved, tensor by tensor: everything in an adapter that is no low-rank update and no prompt.

A tensor's name says what it stands for, and with it where it started: IA3's scales at one, BitFit's differences at
zero, a copied layer at the base's own weights. Where the start is not known, the norm is all that is said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hfplug.adapters.inspect_base import BaseTensors
from hfplug.adapters.inspect_low_rank import is_low_rank

MOST_ROWS = 10
_PROMPT = "prompt_embeddings"
_SCALE = re.compile(r"(?P<module>.+)\.ia3_l")
_BIAS = re.compile(r"(?P<module>.+)\.bitfit_bias")
_COPY = re.compile(r"(?P<module>.+)\.ln_tuning_layers(?P<rest>(?:\.\w+)+)")
_ROWS = re.compile(r"(?P<module>.+?)(?:\.token_adapter)?\.trainable_tokens_delta")
_NETWORK = re.compile(r"(?P<module>.+)\.bottleneck_(?:down|up)\.bias")
_ADDED_BIAS = re.compile(r"(?P<module>.+)\.lora_B\.bias")
_WRAPPED = re.compile(r"\.(?:base_layer|original_module|modules_to_save)(?=\.|$)")
# What other kinds of PEFT's adapters call theirs; where these started is not in the file.
_ADDED = re.compile(
    r"\.(?:lora_\w+|hada_\w+|lokr_\w+|oft_\w+|boft_\w+|vera_lambda_\w+|hra_\w+|road_\w+|fourierft_\w+|vblora_\w+|"
    r"randlora_\w+|bone_\w+|miss_\w+|shira_\w+|c3a_\w+|waveft_\w+|delora_\w+|gralora_\w+|adaption_\w+|poly_\w+)"
)


@dataclass(frozen=True)
class Change:
    """A tensor, and where it started.

    Attributes:
        name: Of the parameter or module in the plain base.
        role: ``"scale"`` (IA3), ``"bias"`` (BitFit), ``"weight"`` (a copy of the base's), ``"rows"`` (of an
            embedding), ``"new"`` (a head that the base lacks), ``"part"`` (a bias inside of what was added) or
            ``"other"``.
        now: Its value.
        start: Where it started; None if that is not known.
        rows: For ``"rows"`` the ids of the tokens.
        against: What the change is held against, where that is not the start.
    """

    name: str
    role: str
    now: Tensor
    start: Tensor | None
    rows: Sequence[int] = ()
    against: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class TensorChange:
    """How far one tensor moved.

    Attributes:
        name, role: As in :class:`Change`.
        shape: Of the tensor.
        norm: Its Frobenius norm.
        change_norm: That of the difference to where it started; None if that is not known.
        base_norm: That of what the change is held against.
        relative: Change by base; None if either is not known, or the base is zero.
        largest: The largest difference of one number.
        moved_share: Share of its numbers that are not what they were.
        mean: Mean of its numbers, for scales and the like.
        most_moved: Of an embedding, the rows that moved most: id of the token, and change by norm of its old row.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    norm: float
    change_norm: float | None
    base_norm: float | None
    relative: float | None
    largest: float | None
    moved_share: float | None
    mean: float
    most_moved: tuple[tuple[int, float], ...] = ()


def find_changes(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], base: BaseTensors | None, *, full: bool = False
) -> Iterator[Change]:
    """The tensors of an adapter that are no low-rank update and no prompt, with where each started.

    Args:
        tensors: Name to tensor; read one at a time, so that a mapping may fetch them from files.
        config: Content of ``adapter_config.json``.
        base: The base, or None.
        full: Whether these are a whole model's own weights.
    """
    for name in sorted(tensors):
        if (found := change_of(name, tensors, config, base, full=full)) is not None:
            yield found


def change_of(
    name: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any], base: BaseTensors | None, *, full: bool = False
) -> Change | None:
    """One tensor of an adapter with where it started; None for one that is read as an update or a prompt.

    Args:
        name: Of the tensor.
        tensors, config, base, full: As for :func:`find_changes`.
    """
    if full:
        return _copied(name, tensors[name], base)
    if name == _PROMPT or is_low_rank(name):
        return None
    # Where a prompt is trained PEFT wraps the base once, elsewhere twice.
    outer = "base_model." if _PROMPT in tensors else "base_model.model."
    return _change(name.removeprefix(outer), tensors[name], config, base)


def measure_change(change: Change) -> TensorChange:
    """Look at one tensor."""
    now = change.now.double()
    start = None if change.start is None else change.start.double()
    difference = None if start is None else now - start
    against = change.against if change.against is not None else start
    base_norm = None if against is None else float(against.double().norm())
    moved = None if difference is None else float(difference.norm())
    return TensorChange(
        name=change.name,
        role=change.role,
        shape=tuple(change.now.shape),
        norm=float(now.norm()),
        change_norm=moved,
        base_norm=base_norm,
        relative=moved / base_norm if moved is not None and base_norm else None,
        largest=float(difference.abs().max()) if difference is not None and difference.numel() else None,
        moved_share=float((difference != 0).double().mean()) if difference is not None and now.numel() else None,
        mean=float(now.mean()) if now.numel() else math.nan,
        most_moved=_most_moved(change, difference, start),
    )


def _change(name: str, tensor: Tensor, config: Mapping[str, Any], base: BaseTensors | None) -> Change:
    if match := _SCALE.fullmatch(name):
        return Change(match["module"], "scale", tensor, torch.ones_like(tensor))
    if match := _BIAS.fullmatch(name):
        own = base.get(f"{match['module']}.bias") if base is not None else None
        return Change(f"{match['module']}.bias", "bias", tensor, torch.zeros_like(tensor), against=own)
    if match := _COPY.fullmatch(name):
        return _copied(match["module"] + match["rest"], tensor, base)
    if match := _ROWS.fullmatch(name):
        return _token_rows(match["module"], tensor, config, base)
    if _NETWORK.fullmatch(name) or _ADDED_BIAS.fullmatch(name):
        return Change(name, "part", tensor, torch.zeros_like(tensor) if _ADDED_BIAS.fullmatch(name) else None)
    if _ADDED.search(f".{name}"):
        return Change(name, "other", tensor, None)
    return _copied(_WRAPPED.sub("", name), tensor, base)


def _copied(name: str, tensor: Tensor, base: BaseTensors | None) -> Change:
    start = base.get(name) if base is not None else None
    if start is None:
        return Change(name, "new" if base is not None else "weight", tensor, None)
    if start.shape != tensor.shape:
        if start.ndim == tensor.ndim and start.shape[1:] == tensor.shape[1:]:  # a vocabulary that was resized
            rows = min(len(start), len(tensor))
            return Change(name, "weight", tensor[:rows], start[:rows])
        return Change(name, "new", tensor, None)
    return Change(name, "weight", tensor, start)


def _token_rows(module: str, tensor: Tensor, config: Mapping[str, Any], base: BaseTensors | None) -> Change:
    found = config.get("trainable_token_indices") or config.get("token_indices") or []
    if isinstance(found, Mapping):
        known = [ids for key, ids in found.items() if module == key or module.endswith(f".{key}")]
        found = known[0] if known else next(iter(found.values()), [])
    rows = [int(one) for one in found]
    matrix = base.get(f"{module}.weight") if base is not None else None
    if matrix is None or len(rows) != len(tensor) or matrix.shape[1:] != tensor.shape[1:]:
        return Change(f"{module}.weight", "rows", tensor, None, rows=rows)
    held = [row for row in rows if row < len(matrix)]  # the others are new in a resized vocabulary
    kept = [at for at, row in enumerate(rows) if row < len(matrix)]
    return Change(f"{module}.weight", "rows", tensor[kept], matrix[held], rows=held)


def _most_moved(change: Change, difference: Tensor | None, start: Tensor | None) -> tuple[tuple[int, float], ...]:
    if change.role != "rows" or difference is None or start is None:
        return ()
    relative = difference.norm(dim=1) / start.norm(dim=1).clamp_min(1e-12)
    best = relative.topk(min(MOST_ROWS, len(relative)))
    return tuple(
        (int(change.rows[at]), float(value)) for at, value in zip(best.indices.tolist(), best.values, strict=True)
    )
