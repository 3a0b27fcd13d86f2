"""Prompts of different lengths as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Side = Literal["left", "right"]


def padded(prompts: Sequence[Sequence[int]], *, side: Side, pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask of a batch.

    Args:
        prompts: Token ids of each row, at least one a row.
        side: Where shorter rows are filled up: ``"left"`` for a decoder, whose answer starts where the prompt ends;
            ``"right"`` for an encoder, whose positions count from its first token.
        pad: The id to fill with.
        device: Where the tensors are to be.

    Returns:
        Ids and mask (1 for tokens), both of shape (rows, longest).
    """
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        place = slice(longest - len(prompt), longest) if side == "left" else slice(0, len(prompt))
        ids[row, place] = torch.tensor(list(prompt), dtype=torch.long)
        mask[row, place] = 1
    return ids.to(device), mask.to(device)
