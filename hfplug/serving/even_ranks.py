"""A LoRA whose layers differ in rank or alpha, written as one of a single rank and a single scale.

Engines read one ``r`` and one ``lora_alpha``; the patterns that override them for some layers are known to few. A of
shape (r, in) gets rows of zeros and B of shape (out, r) columns of zeros up to the highest rank, and B takes in the
factor between the layer's own scale and the common one: B A stays what it was, times what it was.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from hfplug.adapters.adapter_dir import AdapterDir

_PAIRS = {".lora_A.weight": ".lora_B.weight", ".lora_embedding_A": ".lora_embedding_B"}


def even_ranks(adapter: AdapterDir, folder: Path) -> tuple[AdapterDir, list[str]]:
    """An adapter without patterns.

    Args:
        adapter: A LoRA.
        folder: Where a changed copy may be written.

    Returns:
        ``adapter`` itself if its layers are alike, else the copy; and what was done, in words.
    """
    config = adapter.config
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    if not ranks and not alphas:
        return adapter, []
    from peft.utils.other import get_pattern_key
    from safetensors.torch import load_file

    tensors = {name: tensor for file in adapter.weights for name, tensor in load_file(file).items()}
    rslora = bool(config.get("use_rslora"))
    highest = max(tensors[name].shape[0] for name in tensors if name.endswith(tuple(_PAIRS)))
    common = _scale(float(config["lora_alpha"]), highest, rslora)
    for name in [name for name in tensors if name.endswith(tuple(_PAIRS))]:
        ending = next(one for one in _PAIRS if name.endswith(one))
        module = name.removesuffix(ending).removeprefix("base_model.model.")
        other = name.removesuffix(ending) + _PAIRS[ending]
        a, b = tensors[name], tensors[other]
        rank = a.shape[0]
        alpha = alphas.get(get_pattern_key(alphas, module), config["lora_alpha"])
        factor = _scale(float(alpha), rank, rslora) / common
        # Scaled in float32: a half-precision B would be rounded on the way.
        scaled = (b.float() * factor).to(b.dtype)
        tensors[name] = torch.nn.functional.pad(a, (0, 0, 0, highest - rank))
        tensors[other] = torch.nn.functional.pad(scaled, (0, highest - rank))
    changed: dict[str, Any] = {**config, "r": highest, "rank_pattern": {}, "alpha_pattern": {}}
    note = f"Its layers had ranks or scales of their own; it was written with one rank, {highest}, for all of them."
    return AdapterDir.write(folder, source=adapter.path, config=changed, weights=tensors), [note]


def _scale(alpha: float, rank: int, rslora: bool) -> float:
    return alpha / (math.sqrt(rank) if rslora else rank)
