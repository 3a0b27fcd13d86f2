"""A prefix under the microscope: the keys and values that stand before those of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hfplug.adapters.inspect_low_rank import effective_rank
from hfplug.adapters.inspect_prompt import DEAD


@dataclass(frozen=True, kw_only=True)
class PrefixLayer:
    """The keys and values of one trained pair.

    Attributes:
        pair: Its number in the adapter.
        layers: The layers of the (decoder's) self-attention that read it; empty if none does.
        key_norm: Mean length of a virtual token's keys, over all heads. value_norm: That of its values.
        value_norms: The length of each virtual token's values.
        dead: Virtual tokens whose values have no length: attention that goes to them brings nothing.
        effective_rank: Of the keys, virtual tokens by numbers: how many different ones they are.
    """

    pair: int
    layers: tuple[int, ...]
    key_norm: float
    value_norm: float
    value_norms: tuple[float, ...]
    dead: tuple[int, ...]
    effective_rank: float


def look_at_prefix(prefix: Tensor, config: Mapping[str, Any], decoder_layers: int | None) -> tuple[PrefixLayer, ...]:
    """Look at what prefix tuning saved.

    PEFT hands layer i of an encoder-decoder the pair 2 i modulo their number, as it lays all pairs out twice
    (``PeftModel.get_prompt``).

    Args:
        prefix: Shape (virtual tokens, pairs * 2 * width of a key), keys and values of a pair one after another.
        config: Content of ``adapter_config.json``.
        decoder_layers: Layers of the base that attend to it; None if that is not known.
    """
    pairs = int(config.get("num_layers") or 1)
    twice = int(config.get("num_transformer_submodules") or 1) == 2
    if prefix.shape[1] % (2 * pairs):
        pairs = 1
    split = prefix.float().reshape(len(prefix), pairs, 2, -1)
    count = decoder_layers if decoder_layers is not None and decoder_layers <= pairs else pairs
    readers: dict[int, list[int]] = {}
    for layer in range(count):
        readers.setdefault((2 * layer) % pairs if twice else layer, []).append(layer)
    if pairs == 1 and decoder_layers:
        readers = {0: list(range(decoder_layers))}  # one row for layers that keep keys of different shapes
    found = []
    for pair in range(pairs):
        keys, values = split[:, pair, 0], split[:, pair, 1]
        lengths = values.norm(dim=1)
        usual = float(lengths.median())
        found.append(
            PrefixLayer(
                pair=pair,
                layers=tuple(readers.get(pair, ())),
                key_norm=float(keys.norm(dim=1).mean()),
                value_norm=float(lengths.mean()),
                value_norms=tuple(lengths.tolist()),
                dead=tuple(at for at, one in enumerate(lengths.tolist()) if one <= DEAD * usual or one == 0),
                effective_rank=effective_rank(torch.linalg.svdvals(keys.double())),
            )
        )
    return tuple(found)
