"""Several adapters into one base: what becomes of a weight that more than one of them changes.

Each adapter's own difference to the base is taken, for every kind of adapter alike, and the differences are combined by
PEFT's functions, on the whole matrices. (PEFT's ``add_weighted_adapter`` does the same on A and B apart, or on their
product cut down to a rank again, because it has to end as a LoRA. Here it does not, and nothing is cut.)

* ``linear``: the weighted sum of the differences (task arithmetic: Ilharco et al. 2022,
  https://arxiv.org/abs/2212.04089).
* ``magnitude_prune``: the same, of each difference only the share ``density`` that is largest.
* ``ties``: of each difference the largest share; of those, per number, only the ones that have the sign of the sum,
  and the weighted mean of these (Yadav et al. 2023, https://arxiv.org/abs/2306.01708).
* ``dare_linear`` and ``dare_ties``: of each difference a share ``density`` drawn at random and scaled up by its
  inverse, then as ``linear`` and ``ties`` (Yu et al. 2023, https://arxiv.org/abs/2311.03099).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hfplug.errors import AdapterError, did_you_mean

COMBINATIONS = ("linear", "magnitude_prune", "ties", "dare_linear", "dare_ties")
_WITHOUT_DENSITY = ("linear",)
# These end in a mean over the adapters, so that weights of one keep the size of a difference.
_MEANS = ("ties", "dare_ties")


@dataclass(frozen=True, kw_only=True)
class Combination:
    """How adapters are combined.

    Attributes:
        kind: One of ``COMBINATIONS``.
        weights: One an adapter.
        density: Share of each difference that is kept; None for ``linear``.
        seed: Of the draws of DARE.
    """

    kind: str
    weights: tuple[float, ...]
    density: float | None = None
    seed: int = 0

    @property
    def is_one(self) -> str:
        """``"yes"`` if it is one adapter as it is."""
        return "yes" if self.weights == (1.0,) and self.kind == "linear" else "no"

    def combine(self, name: str, base: torch.Tensor, merged: Sequence[tuple[int, torch.Tensor]]) -> torch.Tensor:
        """One weight of the base, with what the adapters make of it.

        Args:
            name: Of the parameter in the plain base; DARE draws by it.
            base: The weight.
            merged: Number of each adapter that changes it, and the weight as that adapter alone makes it.
        """
        if self.is_one == "yes":
            return merged[0][1]
        exact = base.to(merged[0][1].dtype)
        differences = [new - exact for _, new in merged]
        weights = torch.tensor([self.weights[number] for number, _ in merged], dtype=exact.dtype)
        return exact + self._combined(name, differences, weights)

    def _combined(self, name: str, differences: list[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
        from peft.utils import merge_utils

        density = self.density if self.density is not None else 1.0
        if self.kind == "linear":
            return merge_utils.task_arithmetic(differences, weights)
        if density >= 1.0 and self.kind in ("magnitude_prune", "dare_linear"):
            return merge_utils.task_arithmetic(differences, weights)  # PEFT would warn that nothing is left out
        function: Any = getattr(merge_utils, self.kind)
        with torch.random.fork_rng(devices=[]):
            # By the name, so that the draws do not depend on the order of the files.
            torch.manual_seed(self.seed * 1_000_003 + zlib.crc32(name.encode()))
            return function(differences, weights, density)

    def __str__(self) -> str:
        kept = "" if self.density is None else f", density {self.density:g}"
        draws = f", seed {self.seed}" if self.kind.startswith("dare") else ""
        return f"{self.kind}{kept}{draws}"

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        return {"kind": self.kind, "weights": list(self.weights), "density": self.density, "seed": self.seed}


def make_combination(
    kind: str, count: int, weights: Sequence[float] | None, density: float | None, seed: int
) -> Combination:
    """Check what was asked for.

    Args:
        kind: One of ``COMBINATIONS``.
        count: How many adapters there are.
        weights: One an adapter; if None, 1 for one adapter and for those that end in a mean, else 1 / count.
        density: Share of each difference that is kept, above 0 and up to 1.
        seed: Of the draws.

    Raises:
        AdapterError: Something is missing, too much, or out of its range.
    """
    if kind not in COMBINATIONS:
        guess = did_you_mean(str(kind), COMBINATIONS)
        fix = f"{guess} Pass one of: {', '.join(COMBINATIONS)}.".strip()
        raise AdapterError(f"There is no combination {kind!r}.", fix=fix)
    if weights is not None and len(weights) != count:
        raise AdapterError(
            f"There are {count} adapters and {len(weights)} weights.",
            fix="Pass one weight an adapter, in the same order: --weights 0.7,0.3 (weights= in Python).",
        )
    chosen = tuple(float(one) for one in weights) if weights is not None else (_default(kind, count),) * count
    if not all(math.isfinite(one) for one in chosen) or not any(chosen):
        raise AdapterError(f"The weights must be numbers, and not all of them 0; they are {list(chosen)}.")
    if kind in _WITHOUT_DENSITY:
        if density is not None:
            raise AdapterError("linear has no density.", fix=f"Pass one of: {', '.join(COMBINATIONS[1:])}.")
    elif density is None or not 0 < density <= 1:
        raise AdapterError(
            f"{kind} needs a density, the share of each difference that is kept, above 0 and up to 1; it is {density}.",
            fix="For example --density 0.5 (density= in Python).",
        )
    if kind not in _WITHOUT_DENSITY and count == 1 and kind in _MEANS:
        raise AdapterError(f"{kind} combines two adapters or more.", fix="Leave it out, or pass more adapters.")
    return Combination(kind=kind, weights=chosen, density=density, seed=seed)


def _default(kind: str, count: int) -> float:
    return 1.0 if kind in _MEANS else 1.0 / count
