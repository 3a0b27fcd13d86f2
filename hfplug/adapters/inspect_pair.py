r"""Two adapters of one base side by side: did they learn the same?

Of two low-rank updates of one layer, s_1 B_1 A_1 and s_2 B_2 A_2, the inner product is that of small matrices,
trace(A_1^T B_1^T B_2 A_2) = sum((B_1^T B_2) * (A_1 A_2^T)), so the updates are never laid out. Their subspaces are
compared as in Hu et al. 2021, section 7.2 and appendix G: with orthonormal U_1 and U_2 the overlap is
\|U_1^T U_2\|_F^2 / min(r_1, r_2), 0 for subspaces at right angles and 1 where one holds the other. Two random
subspaces of a space of d dimensions have max(r_1, r_2) / d on average, which stands beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.fingerprint import same_tensor
from hfplug.adapters.inspect import (
    INSPECTION_VERSION,
    PROMPT,
    Against,
    Opened,
    check_places,
    open_adapter,
    plain_json,
)
from hfplug.adapters.inspect_change import Change
from hfplug.adapters.inspect_low_rank import Factors, decompose, singular_values
from hfplug.errors import AdapterError, MismatchError

NEGLIGIBLE = 1e-6  # singular values below this share of the largest are no direction


@dataclass(frozen=True, kw_only=True)
class PairLayer:
    """One layer that both adapters update.

    Attributes:
        name: Of the module.
        ranks: Directions that each uses (singular values above a millionth of the largest).
        norms: Frobenius norm of each update.
        cosine: Of the two updates as vectors, -1 to 1: 1 the same up to length, 0 nothing in common.
        overlap_out: Of what they write, the spaces of their columns, 0 to 1. chance_out: That of random ones.
        overlap_in: Of what they read, the spaces of their rows. chance_in: That of random ones.
    """

    name: str
    ranks: tuple[int, int]
    norms: tuple[float, float]
    cosine: float | None
    overlap_out: float | None
    chance_out: float
    overlap_in: float | None
    chance_in: float


@dataclass(frozen=True, kw_only=True)
class PairTensor:
    """One tensor that both adapters changed: its name, role, and the cosine of the two changes; None if one is 0."""

    name: str
    role: str
    norms: tuple[float, float]
    cosine: float | None


@dataclass(frozen=True, kw_only=True)
class PairPrompt:
    """Two soft prompts.

    Attributes:
        counts: Virtual tokens of each.
        same_place: Mean cosine of the virtual tokens at the same place.
        best: Mean, over the first one's virtual tokens, of the cosine with the nearest of the second.
        chance: The same with random vectors instead of the second's.
        overlap: Of the spaces that they span. chance_overlap: That of random ones.
    """

    counts: tuple[int, int]
    same_place: float
    best: float
    chance: float
    overlap: float
    chance_overlap: float


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two adapters side by side.

    Attributes:
        names: Of their folders. paths: The folders. methods: Their methods.
        base: Repo id or folder of the base, if it was looked at.
        layers: Low-rank updates of the same layer. tensors: Other tensors that both changed.
        prompt: Their soft prompts, if both have one.
        only: For each, what the other does not touch.
        notes: What is to be kept in mind.
    """

    names: tuple[str, str]
    paths: tuple[Path, Path]
    methods: tuple[str, str]
    base: str | None
    layers: tuple[PairLayer, ...] = ()
    tensors: tuple[PairTensor, ...] = ()
    prompt: PairPrompt | None = None
    only: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    notes: tuple[str, ...] = ()

    def mean_of(self, what: str) -> float | None:
        """Mean of a number of all layers, e.g. ``"cosine"``; None if there is none."""
        known = [value for one in self.layers if (value := getattr(one, what)) is not None]
        return mean(known) if known else None

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON values; numbers that are not finite are null."""
        return {"inspection_version": INSPECTION_VERSION, **plain_json(dataclasses.asdict(self))}


def inspect_pair(
    first: str | Path,
    second: str | Path,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    against: Against = "base",
    say: Callable[[str], None] | None = None,
    **places: Any,
) -> Pair:
    """Put two adapters of one base side by side, without running them.

    Args:
        first, second: Their folders.
        base: Repo id or folder of the base, if it is not where it was.
        revision: Commit of the base, if it is not the one that they name.
        against: As for :func:`~hfplug.adapters.inspect.inspect_adapter`. Copies of the base's weights can be
            compared with the base at hand only.
        say: Called with what is being looked at.
        places: ``token``, ``offline`` and ``trust_remote_code``, as there.

    Raises:
        MismatchError: They are of different bases.
        AdapterError: They change nothing that is the same, or one of them cannot be read.
    """
    adapters = AdapterDir.open(first), AdapterDir.open(second)
    _check_same_base(adapters)
    opened = tuple(open_adapter(one.path, base=base, revision=revision, against=against, **places) for one in adapters)
    for one in opened:
        check_places(one, one.factors())
    tell = say or (lambda what: None)
    layers, only = _layers(opened[0], opened[1], tell)
    tensors, only_tensors = _tensors(opened[0], opened[1], tell)
    tensors += _mixed(opened[0], opened[1]) + _mixed(opened[1], opened[0], swapped=True)
    prompt = _prompts(opened[0], opened[1])
    if not layers and not tensors and prompt is None:
        held = [f"{one.method.name} of {_what(one)}" for one in opened]
        raise AdapterError(
            f"The two adapters change nothing that is the same: {held[0]} against {held[1]}.",
            fix="Look at each by itself, or pass two that were made with one method on the same layers.",
        )
    held_base = opened[0].base
    return Pair(
        names=_names(adapters[0].path, adapters[1].path),
        paths=(adapters[0].path, adapters[1].path),
        methods=(opened[0].method.name, opened[1].method.name),
        base=held_base.base.name if held_base is not None else None,
        layers=tuple(layers),
        tensors=tuple(tensors),
        prompt=prompt,
        only=((*only[0], *only_tensors[0]), (*only[1], *only_tensors[1])),
        notes=tuple(_notes(opened[0], opened[1])),
    )


def compare_updates(one: Factors, other: Factors) -> PairLayer:
    """Two updates of one layer, of the same shape."""
    (u1, s1, v1), (u2, s2, v2) = (_directions(factors) for factors in (one, other))
    norms = float(s1.norm()), float(s2.norm())
    inner = float(((one.b.T @ other.b) * (one.a @ other.a.T)).sum())
    ranks = len(s1), len(s2)
    most, least = max(ranks), min(ranks)
    return PairLayer(
        name=one.name,
        ranks=ranks,
        norms=norms,
        cosine=inner / (norms[0] * norms[1]) if norms[0] and norms[1] else None,
        overlap_out=_overlap(u1, u2) if least else None,
        chance_out=most / one.b.shape[0],
        overlap_in=_overlap(v1, v2) if least else None,
        chance_in=most / one.a.shape[1],
    )


# --------------------------------------------------------------------------------------------------------- parts


def _check_same_base(adapters: tuple[AdapterDir, AdapterDir]) -> None:
    """Refuse two adapters whose locks were made over other weights, or, without locks, that name other bases."""
    locks = adapters[0].lock, adapters[1].lock
    full = any(one.kind == "full" for one in adapters)
    fix = "Pass two adapters of one base."
    if locks[0] is not None and locks[1] is not None and not full:
        tensors = locks[0].tensors, locks[1].tensors
        shared = sorted(tensors[0].keys() & tensors[1].keys())
        differ = [name for name in shared if not same_tensor(tensors[0][name], tensors[1][name])]
        # Both hold a sample that is chosen by name, so that two bases of one architecture share all of it.
        if differ or (tensors[0] and tensors[1] and not shared):
            why = f"{differ[0]} differs" if differ else "their weights are called by other names"
            raise MismatchError(
                f"The two adapters are of different bases, {locks[0].base!r} and {locks[1].base!r}: {why}.", fix=fix
            )
        return
    names = [one.base_name for one in adapters]
    commits = [one.base_revision for one in adapters]
    if None not in names and names[0] != names[1] and not full:
        raise MismatchError(f"The two adapters are of different bases, {names[0]!r} and {names[1]!r}.", fix=fix)
    if None not in commits and commits[0] != commits[1] and not full:
        raise MismatchError(
            f"The two adapters are of different commits of their base, {commits[0]} and {commits[1]}.", fix=fix
        )


def _layers(first: Opened, second: Opened, tell: Callable[[str], None]) -> tuple[list[PairLayer], Any]:
    one, other = ({(f.name, f.weight): f for f in opened.factors()} for opened in (first, second))
    found = []
    for key, factors in one.items():
        match = other.get(key)
        if match is None:
            continue
        tell(factors.name)
        if (factors.b.shape[0], factors.a.shape[1]) != (match.b.shape[0], match.a.shape[1]):
            raise MismatchError(
                f"{factors.name} is of the shape {factors.b.shape[0]} x {factors.a.shape[1]} in one adapter and "
                f"{match.b.shape[0]} x {match.a.shape[1]} in the other.",
                fix="Pass two adapters of one base.",
            )
        found.append(compare_updates(factors, match))
    left = [name for name, weight in one if (name, weight) not in other]
    right = [name for name, weight in other if (name, weight) not in one]
    return found, (left, right)


def _tensors(first: Opened, second: Opened, tell: Callable[[str], None]) -> tuple[list[PairTensor], Any]:
    """What both changed, one tensor of each at a time, so that two whole models can be compared too."""
    held: dict[tuple[str, str], str] = {}  # to what the file calls it
    for name in second.tensors:
        if (change := second.change(name)) is not None:
            held[change.name, change.role] = name
    found, left, used = [], [], set()
    for name in first.tensors:
        change = first.change(name)
        if change is None:
            continue
        key = (change.name, change.role)
        if key not in held:
            left.append(change.name)
            continue
        used.add(key)
        match = second.change(held[key])
        mine, theirs = difference_of(change), difference_of(match)
        if match is None or mine is None or theirs is None or mine.shape != theirs.shape or change.rows != match.rows:
            continue
        tell(change.name)
        found.append(_pair_tensor(change.name, change.role, mine, theirs))
    right = [name for name, role in held if (name, role) not in used]
    return sorted(found, key=lambda one: first.place(one.name)), (left, right)


def _mixed(first: Opened, second: Opened, *, swapped: bool = False) -> list[PairTensor]:
    """Weights of which one adapter has a low-rank update and the other a whole copy, a fully tuned model, say."""
    copies = {}
    for name in second.tensors:
        if (change := second.change(name)) is not None and change.role == "weight" and change.start is not None:
            copies[change.name] = name
    found = []
    for factors in first.factors():
        if factors.weight not in copies or factors.expert is not None:
            continue
        full = difference_of(second.change(copies[factors.weight]))
        if full is None:
            continue
        full = full.T if second.base is not None and second.base.is_transposed(factors.weight) else full
        full = full.flatten(1)
        inner = float(((factors.b.T @ full) * factors.a).sum())
        norms = float(singular_values(factors).norm()), float(full.norm())
        cosine = inner / (norms[0] * norms[1]) if norms[0] and norms[1] else None
        ordered = (norms[1], norms[0]) if swapped else norms
        found.append(PairTensor(name=factors.weight, role="low rank and full", norms=ordered, cosine=cosine))
    return found


def difference_of(change: Change | None) -> Tensor | None:
    """A tensor less where it started; None if that is not known."""
    return None if change is None or change.start is None else (change.now - change.start).double()


def _pair_tensor(name: str, role: str, mine: Tensor, theirs: Tensor) -> PairTensor:
    norms = float(mine.norm()), float(theirs.norm())
    cosine = float((mine * theirs).sum()) / (norms[0] * norms[1]) if norms[0] and norms[1] else None
    return PairTensor(name=name, role=role, norms=norms, cosine=cosine)


def _prompts(first: Opened, second: Opened) -> PairPrompt | None:
    if PROMPT not in first.tensors or PROMPT not in second.tensors:
        return None
    one, other = first.tensors[PROMPT].double(), second.tensors[PROMPT].double()
    if one.shape[1] != other.shape[1]:
        if first.method.input_kind != second.method.input_kind:
            return None
        raise MismatchError(
            f"One prompt's vectors have {one.shape[1]} numbers, the other's {other.shape[1]}.",
            fix="Pass two adapters of one base.",
        )
    mine, theirs = (torch.nn.functional.normalize(rows, dim=1) for rows in (one, other))
    shared = min(len(mine), len(theirs))
    generator = torch.Generator().manual_seed(0)
    random = torch.nn.functional.normalize(torch.randn(theirs.shape, generator=generator, dtype=torch.float64), dim=1)
    spaces = [_column_space(rows.T) for rows in (one, other)]
    return PairPrompt(
        counts=(len(mine), len(theirs)),
        same_place=float((mine[:shared] * theirs[:shared]).sum(dim=1).mean()),
        best=float((mine @ theirs.T).max(dim=1).values.mean()),
        chance=float((mine @ random.T).max(dim=1).values.mean()),
        overlap=_overlap(*spaces) if all(space.shape[1] for space in spaces) else 0.0,
        chance_overlap=max(space.shape[1] for space in spaces) / one.shape[1],
    )


def _directions(factors: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """Those of an update that have any length."""
    u, values, v = decompose(factors)
    kept = values > NEGLIGIBLE * values.max().clamp_min(1e-300) if len(values) else values > 0
    return u[:, kept], values[kept], v[:, kept]


def _column_space(matrix: Tensor) -> Tensor:
    u, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, values > NEGLIGIBLE * values.max().clamp_min(1e-300)]


def _overlap(one: Tensor, other: Tensor) -> float:
    return float((one.T @ other).square().sum()) / min(one.shape[1], other.shape[1])


def _what(opened: Opened) -> str:
    names = opened.adapter.tensor_names()
    return f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}"


def _names(one: Path, other: Path) -> tuple[str, str]:
    """The folders' names, with as much of the path before them as tells them apart."""
    left, right = one.resolve().parts, other.resolve().parts
    for count in range(1, min(len(left), len(right)) + 1):
        if left[-count:] != right[-count:]:
            return "/".join(left[-count:]), "/".join(right[-count:])
    return str(one), str(other)


def _notes(first: Opened, second: Opened) -> list[str]:
    found = []
    if first.adapter.lock is None or second.adapter.lock is None:
        found.append("Not both have a lock: that they are of one base is read off their configurations only.")
    if any(opened.method.loading(opened.adapter.config) == "into" for opened in (first, second)):
        found.append(
            "An initialisation that moves a part of the base into A and B makes updates alike that did not learn alike."
        )
    return found
