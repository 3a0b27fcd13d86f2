"""Whether different variants should share a pass: timed on this machine, with these variants."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from hfplug.serving.decoding import make_generation_config
from hfplug.serving.info import BatchingDecision

if TYPE_CHECKING:
    from hfplug.serving.resident import Resident

logger = logging.getLogger(__name__)

PROMPT_TOKENS = 96
NEW_TOKENS = 8
ROUNDS = 8  # at most
SECONDS = 4.0  # after which no new round begins
MOST = 8


def not_timed() -> BatchingDecision:
    """What holds before there is anything to time."""
    return BatchingDecision(mode="mixed", reason="not timed yet: fewer than two variants can share a pass")


def time_batching(resident: Resident, names: Sequence[str]) -> BatchingDecision:
    """Answer one prompt for each of several variants, in one pass and one after the other, and take the faster.

    The two take turns, several times while that is quick, and the best time of each counts, so that a busy moment
    decides nothing.

    Args:
        resident: The base.
        names: Variants that can share a pass; the first eight are used. The caller has a turn at computing.
    """
    names = list(names)[:MOST]
    try:
        _round(resident, names, 1)  # warms up
        began, rounds = time.perf_counter(), [_round(resident, names, NEW_TOKENS)]
        while len(rounds) < ROUNDS and time.perf_counter() - began < SECONDS:
            rounds.append(_round(resident, names, NEW_TOKENS))
    except Exception as error:  # a mixed pass that fails is a reason against mixing, not against serving
        logger.warning("A mixed pass failed, so variants are served one by one.", exc_info=True)
        return BatchingDecision(mode="one_by_one", reason=f"a mixed pass failed: {type(error).__name__}: {error}")
    mixed, apart = (min(seconds) for seconds in zip(*rounds, strict=True))
    faster = "one mixed pass is" if mixed <= apart else "one variant after the other is"
    ratio = max(mixed, apart) / max(min(mixed, apart), 1e-9)
    return BatchingDecision(
        mode="mixed" if mixed <= apart else "one_by_one",
        reason=f"{faster} {ratio:.2f} times as fast for {len(names)} variants ({PROMPT_TOKENS} tokens of prompt,"
        f" {NEW_TOKENS} new ones): {mixed:.3f} s mixed, {apart:.3f} s one by one",
        variants=len(names),
        mixed_seconds=mixed,
        one_by_one_seconds=apart,
    )


def _round(resident: Resident, names: list[str], new_tokens: int) -> tuple[float, float]:
    """Seconds mixed, and seconds one by one."""
    began = time.perf_counter()
    _generate(resident, names, new_tokens)
    between = time.perf_counter()
    for name in names:
        _generate(resident, [name], new_tokens)
    return between - began, time.perf_counter() - between


def _generate(resident: Resident, names: list[str], new_tokens: int) -> None:
    # What the tokens are does not change what they cost.
    vocabulary = int(resident.model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    prompt = [(31 * position) % vocabulary for position in range(1, PROMPT_TOKENS + 1)]
    with torch.inference_mode(), resident.ready(names, [prompt] * len(names)) as ready:
        model: Any = ready.model
        length = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "num_beams": 1}
        config = make_generation_config(model.generation_config, resident.tokenizer, length)
        output = model.generate(**ready.inputs, generation_config=config)
        output.cpu()  # an accelerator is done only when its result is here
