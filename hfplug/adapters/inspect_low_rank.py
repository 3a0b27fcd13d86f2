r"""Low-rank updates under the microscope: LoRA's matrices, and the networks of bottleneck adapters.

Of an update s * B A, with B of shape (out, r) and A of shape (r, in), the singular values are those of the small
matrix s * R_B R_A^T, where B = Q_B R_B and A^T = Q_A R_A are thin QR decompositions: Q_B and Q_A have orthonormal
columns and change no singular value. So a layer costs r^2 * (out + in) operations, and out * in numbers are never laid
out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

USED_SHARE = 0.99  # of the squared norm, which the directions that count as used hold together
_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.(?P<part>lora_(?:A|B|E|embedding_A|embedding_B))(?:\.weight)?")
_MAGNITUDE = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_magnitude_vector(?:\.weight)?")
_NETWORK = re.compile(r"base_model\.model\.(?P<module>.+)\.bottleneck_(?P<part>down|up)\.weight")


@dataclass(frozen=True)
class Factors:
    """One update as it lies in the adapter.

    Attributes:
        name: Of the weight's module in the plain base; of one expert of a stack with its number, ``experts.w[3]``.
        weight: Name of the base's parameter, empty for a network, which stands beside all weights.
        b: Shape (out, r), with the scale multiplied in. a: Shape (r, in).
        scale: The scale that ``b`` holds.
        expert: Number of the expert in a stacked parameter, or None.
        magnitude: DoRA's trained lengths of the weight's rows, or None.
    """

    name: str
    weight: str
    b: Tensor
    a: Tensor
    scale: float
    expert: int | None = None
    magnitude: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class LowRankLayer:
    """What an update does to one layer.

    Attributes:
        name: Of the module.
        kind: ``"update"`` of a weight, or ``"network"`` beside or after a module.
        shape: (out, in) of what is updated.
        rank: r.
        scale: What B A is multiplied by.
        update_norm: Frobenius norm of s * B A.
        weight_norm: That of W; of a network the norm of the identity, sqrt(width), as it is added to what goes
            through. None if there is no base to hold it against.
        relative: The first by the second.
        singular_values: Of s * B A, the largest first; as many as min(r, out, in).
        effective_rank: exp of the entropy of the singular values (Roy and Vetterli 2007), 1 to r; 0 if all are 0.
        used_rank: The fewest directions that hold 99 % of the squared norm.
        change_norm: Of DoRA, the norm of the whole change, with the trained lengths; None elsewhere or without base.
    """

    name: str
    kind: str
    shape: tuple[int, int]
    rank: int
    scale: float
    update_norm: float
    weight_norm: float | None
    relative: float | None
    singular_values: tuple[float, ...]
    effective_rank: float
    used_rank: int
    change_norm: float | None = None

    @property
    def unused_rank(self) -> int:
        """Directions beyond those that hold 99 % of the squared norm."""
        return self.rank - self.used_rank


def find_factors(tensors: Mapping[str, Tensor], config: Mapping[str, Any], parameters: Any = ()) -> Iterator[Factors]:
    """The updates among an adapter's tensors, in the order of their names.

    Args:
        tensors: Name to tensor of the adapter.
        config: Content of ``adapter_config.json``.
        parameters: Names of the base's parameters in the model's order, which tell the parameters of one stack of
            experts apart; empty if there is no base.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _LORA.fullmatch(name)
        if match is not None:
            pairs.setdefault(match["module"], {})[match["part"].replace("embedding_", "e")] = tensor
        elif (match := _MAGNITUDE.fullmatch(name)) is not None:
            pairs.setdefault(match["module"], {})["m"] = tensor
    for module in sorted(pairs):
        parts = pairs[module]
        if {"lora_A", "lora_B"} <= parts.keys():
            yield from _linear(module, parts, config, parameters)
        elif {"lora_eA", "lora_eB"} <= parts.keys():
            # An embedding of shape (tokens, width) is changed by (B A)^T: its rows are A's columns.
            a, b = parts["lora_eA"], parts["lora_eB"]
            scale = scale_of(module, a.shape[0], config)
            yield Factors(module, f"{module}.weight", scale * a.double().T, b.double().T, scale)
    networks: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if (match := _NETWORK.fullmatch(name)) is not None:
            networks.setdefault(match["module"], {})[match["part"]] = tensor
    for module, halves in sorted(networks.items()):
        if {"down", "up"} <= halves.keys():
            scale = float(config.get("scale") or 1.0)
            yield Factors(module, "", scale * halves["up"].double(), halves["down"].double(), scale)


def is_low_rank(name: str) -> bool:
    """Whether :func:`find_factors` reads the tensor of this name."""
    return any(pattern.fullmatch(name) for pattern in (_LORA, _MAGNITUDE, _NETWORK))


def scale_of(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """What PEFT multiplies B A by: lora_alpha / r, or lora_alpha / sqrt(r) if it is rank-stabilised.

    Args:
        module: Its name, which a pattern may give its own alpha.
        rank: r.
        config: Content of ``adapter_config.json``.
    """
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(list(patterns), module), config.get("lora_alpha") or rank))
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def measure(factors: Factors, weight: Tensor | None) -> LowRankLayer:
    """Look at one update.

    Args:
        factors: The update.
        weight: Of the base, shape (out, in), or None.
    """
    values = singular_values(factors)
    norm = float(values.norm())
    out, inner = factors.b.shape[0], factors.a.shape[1]
    own = None if weight is None else float(weight.double().norm())
    against = own if factors.weight else math.sqrt(out)
    change = None
    if factors.magnitude is not None and weight is not None:
        change = _whole_change(factors, weight)
    moved = norm if change is None else change
    return LowRankLayer(
        name=factors.name,
        kind="update" if factors.weight else "network",
        shape=(out, inner),
        rank=factors.a.shape[0],
        scale=factors.scale,
        update_norm=norm,
        weight_norm=against,
        relative=moved / against if against else None,
        singular_values=tuple(values.tolist()),
        effective_rank=effective_rank(values),
        used_rank=used_rank(values),
        change_norm=change,
    )


def decompose(factors: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """The thin singular value decomposition of an update.

    Returns:
        U of shape (out, k), the singular values, shape (k,), and V of shape (in, k); k = min(r, out, in).
    """
    q_b, r_b = torch.linalg.qr(factors.b)
    q_a, r_a = torch.linalg.qr(factors.a.T)
    u, values, v = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return q_b @ u, values, q_a @ v.T


def singular_values(factors: Factors) -> Tensor:
    """Those of an update, the largest first."""
    r_b = torch.linalg.qr(factors.b, mode="r").R
    r_a = torch.linalg.qr(factors.a.T, mode="r").R
    return torch.linalg.svdvals(r_b @ r_a.T)


def effective_rank(values: Tensor) -> float:
    """exp of the entropy of the singular values as shares of their sum (Roy and Vetterli 2007, section 2)."""
    total = float(values.sum())
    if total <= 0:
        return 0.0
    shares = values[values > 0] / total
    return float(torch.exp(-(shares * shares.log()).sum()))


def used_rank(values: Tensor, share: float = USED_SHARE) -> int:
    """The fewest directions that hold this share of the squared norm."""
    energy = values.square().cumsum(0)
    if not len(energy) or float(energy[-1]) <= 0:
        return 0
    return int((energy < share * float(energy[-1])).sum()) + 1


def _linear(module: str, parts: Mapping[str, Tensor], config: Mapping[str, Any], parameters: Any) -> Iterator[Factors]:
    a, b = parts["lora_A"].double().flatten(1), parts["lora_B"].double().flatten(1)
    if "lora_E" in parts:  # AdaLoRA: B diag(E) A
        a = a * parts["lora_E"].double().reshape(-1, 1)
    name, parameter = _stacked(module, config, parameters)
    if parameter is None:
        scale = scale_of(module, a.shape[0], config)
        yield Factors(module, f"{module}.weight", scale * b, a, scale, magnitude=parts.get("m"))
        return
    rank = _configured_rank(name, config)
    experts = max(1, a.shape[0] // rank)
    scale = scale_of(name, rank, config)
    # As PEFT's ParamWrapper lays them out: A by experts first, B by experts last.
    by_a, by_b = a.reshape(experts, rank, -1), b.reshape(b.shape[0], rank, experts)
    for number in range(experts):
        place = f"{parameter}[{number}]"
        yield Factors(place, parameter, scale * by_b[:, :, number], by_a[number], scale, expert=number)


def _configured_rank(module: str, config: Mapping[str, Any]) -> int:
    from peft.utils.other import get_pattern_key

    patterns = config.get("rank_pattern") or {}
    return int(patterns.get(get_pattern_key(list(patterns), module), config.get("r") or 1))


def _stacked(module: str, config: Mapping[str, Any], parameters: Any) -> tuple[str, str | None]:
    """The module without PEFT's wrappers, and the parameter of it that is updated; None for an ordinary layer.

    Wrappers of several parameters of one module lie around one another, the first parameter's innermost.
    """
    plain = module.replace(".base_layer", "")
    targets = config.get("target_parameters") or []
    wanted = [t for t in targets if plain == t.rpartition(".")[0] or plain.endswith(f".{t.rpartition('.')[0]}")]
    if not wanted:
        return module, None
    own = [name for name in parameters if name.rpartition(".")[0] == plain]
    own = [name for name in own if any(name == t or name.endswith(f".{t}") for t in wanted)]
    depth = module.count(".base_layer")
    if not own:
        return plain, f"{plain}.{'parameter' if len(wanted) > 1 else wanted[0].rpartition('.')[2]}" + (
            f"_{len(wanted) - depth}" if len(wanted) > 1 else ""
        )
    return plain, own[max(0, len(own) - 1 - depth)]


def _whole_change(factors: Factors, weight: Tensor) -> float:
    """Norm of DoRA's change, m * (W + s B A) / |W + s B A| - W, a block of rows at a time."""
    total = 0.0
    magnitude = factors.magnitude
    assert magnitude is not None
    lengths = magnitude.double().reshape(-1, 1)
    for start in range(0, weight.shape[0], 1024):
        rows = slice(start, start + 1024)
        old = weight[rows].double()
        new = old + factors.b[rows] @ factors.a
        new = lengths[rows] * new / new.norm(dim=1, keepdim=True).clamp_min(1e-30)
        total += float((new - old).square().sum())
    return math.sqrt(total)
