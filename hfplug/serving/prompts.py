"""Prompts of different lengths and variants as one batch: padding, virtual tokens, prefixes.

A row of a decoder is ``[prefix | padding | vectors | prompt]``: the prefix is in the cache already, the vectors take
the place of placeholder ids when they are embedded, and the mask tells the model where the row's own positions are.
A row of an encoder is ``[vectors | prompt | padding]``, and a prefix stands before the decoder's first token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hfplug.errors import ServingError
from hfplug.serving.routing import CannotRoute, Pass

Prefix = tuple[tuple[Tensor, Tensor] | None, ...]


@dataclass(frozen=True, kw_only=True)
class Seat:
    """What a row of a variant needs in a batch.

    Attributes:
        name: The variant's name in a router; None for the base's own modules.
        tree: The base model with the variant's modules in it.
        changed: Names of those modules (:func:`~hfplug.serving.routing.changed_modules`).
        vectors: What stands before its prompts, shape (virtual tokens, width), or None.
        prefix: Keys and values that stand before those of each layer, or None.
    """

    name: str | None
    tree: nn.Module
    changed: tuple[str, ...] = ()
    vectors: Tensor | None = None
    prefix: Prefix | None = None

    @property
    def has_input(self) -> bool:
        """Whether it changes what goes into the model."""
        return self.vectors is not None or self.prefix is not None

    @property
    def virtual(self) -> int:
        """Positions that its vectors take."""
        return 0 if self.vectors is None else int(self.vectors.shape[0])

    @property
    def prefixed(self) -> int:
        """Positions of the cache that its prefix takes."""
        pair = next((pair for pair in self.prefix or () if pair is not None), None)
        return 0 if pair is None else int(pair[0].shape[1])


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows in one shape.

    Attributes:
        rows: For a router.
        inputs: Keyword arguments of ``generate``.
        prompt_length: Positions to cut from the front of the output; of an encoder-decoder's those before its start
            token.
    """

    rows: Pass
    inputs: dict[str, Any]
    prompt_length: int


def make_batch(
    seats: Sequence[Seat], prompts: Sequence[Sequence[int]], model: nn.Module, *, pad: int, beams: int = 1
) -> Batch:
    """Put rows into one shape.

    Args:
        seats: Of each row.
        prompts: Token ids of each row, at least one a row.
        model: The base, for its device and its configuration.
        pad: The id for padding and placeholders.
        beams: Beams of each row.

    Raises:
        CannotRoute: A prefix does not reach all layers.
    """
    config: Any = model.config
    device = next(model.parameters()).device
    encoder_decoder = bool(config.is_encoder_decoder)
    lengths = [seat.virtual + len(prompt) for seat, prompt in zip(seats, prompts, strict=True)]
    width, prefixed = max(lengths), max(seat.prefixed for seat in seats)
    starts = [0 if encoder_decoder else width - length for length in lengths]
    ids = torch.full((len(seats), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (seat, prompt, start, length) in enumerate(zip(seats, prompts, starts, lengths, strict=True)):
        ids[row, start + seat.virtual : start + length] = torch.tensor(list(prompt), dtype=torch.long)
        mask[row, start : start + length] = 1
    before = torch.zeros((len(seats), prefixed), dtype=torch.long)
    for row, seat in enumerate(seats):
        before[row, prefixed - seat.prefixed :] = 1
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if prefixed and encoder_decoder:
        # generate puts a start token before a decoder's ids unless they begin with one.
        start = _start_token(model)
        inputs["decoder_input_ids"] = torch.full((len(seats), prefixed + 1), start, dtype=torch.long)
        inputs["decoder_attention_mask"] = torch.cat([before, before.new_ones(len(seats), 1)], dim=1)
    elif prefixed:
        inputs["input_ids"] = torch.cat([torch.full_like(before, pad), ids], dim=1)
        inputs["attention_mask"] = torch.cat([before, mask], dim=1)
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    if prefixed:
        # generate repeats tensors for beams, and a cache not.
        repeated = [seat for seat in seats for _ in range(beams)]
        inputs["past_key_values"] = _filled_cache(repeated, prefixed, encoder_decoder)
    vectors = [seat.vectors for seat in seats]
    rows = Pass([seat.name for seat in seats], vectors=vectors, starts=starts, width=width, beams=beams)
    return Batch(rows=rows, inputs=inputs, prompt_length=prefixed + (0 if encoder_decoder else width))


def plain_batch(prompts: Sequence[Sequence[int]], model: nn.Module, *, pad: int) -> Batch:
    """Rows of the base's own modules, or of a variant that sees to its input itself. Arguments of :func:`make_batch`.

    They are padded on the left for a decoder, so that every prompt ends where its answer starts, and on the right for
    an encoder, which counts positions (BART) and the distance to a soft prompt (T5) from the front.
    """
    return make_batch([Seat(name=None, tree=model)] * len(prompts), prompts, model, pad=pad)


def _filled_cache(seats: Sequence[Seat], length: int, encoder_decoder: bool) -> Any:
    """A cache that holds each row's prefix, right-aligned; rows without one have zeros there, which are masked."""
    from transformers import DynamicCache, EncoderDecoderCache

    layers = max(len(seat.prefix) for seat in seats if seat.prefix is not None)
    pairs = []
    for layer in range(layers):
        found = [seat.prefix[layer] if seat.prefix and layer < len(seat.prefix) else None for seat in seats]
        if any(seat.prefix is not None and one is None for seat, one in zip(seats, found, strict=True)):
            raise CannotRoute("its prefix does not reach every layer")
        example = next(pair for pair in found if pair is not None)
        pair = []
        for part in range(2):
            heads, _, size = example[part].shape
            filled = example[part].new_zeros((len(seats), heads, length, size))
            for row, one in enumerate(found):
                if one is not None:
                    filled[row, :, length - one[part].shape[1] :] = one[part]
            pair.append(filled)
        pairs.append((pair[0], pair[1]))
    cache = DynamicCache(pairs)
    return EncoderDecoderCache(cache, DynamicCache()) if encoder_decoder else cache


def _start_token(model: nn.Module) -> int:
    config: Any = model.generation_config
    for one in (config.decoder_start_token_id, config.bos_token_id):
        if isinstance(one, int):
            return one
    raise ServingError(
        "This encoder-decoder does not say which token its answers start with.",
        fix="Set decoder_start_token_id in the base's generation_config.json.",
    )
