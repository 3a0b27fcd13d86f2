"""Generate texts for many prompts, and measure what that costs."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hfplug.errors import MethodError
from hfplug.serving.decoding import make_generation_config
from hfplug.serving.prompts import plain_batch

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

    from hfplug.methods import TuningMethod

FIRST_TOKEN_PROMPTS = 8


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What was generated.

    Attributes:
        texts: One text a prompt, in the order of the prompts, special tokens left out.
        tokens: New tokens of each text, the end token counted, padding not.
        seconds: Seconds in ``generate`` for all batches.
        tokens_per_second: New tokens by seconds, at the batch size used.
        first_token_seconds: Median seconds from a prompt to its first new token, one prompt at a time.
    """

    texts: list[str]
    tokens: list[int]
    seconds: float
    tokens_per_second: float
    first_token_seconds: float


def generate_texts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    method: TuningMethod | None = None,
    decoding: Mapping[str, Any] | None = None,
    stop_token_ids: Sequence[int] = (),
    batch_size: int = 8,
    on_batch: Callable[[int], object] | None = None,
) -> Generation:
    """Ask a model many prompts.

    Prompts are sorted by length, so that little is padding, and the texts come back in the given order.

    Args:
        model: A base or a tuned model. It is put into eval mode for the time of the call.
        tokenizer: Its tokenizer; read only.
        prompts: Token ids of each prompt.
        method: The method on the model, or None for a base.
        decoding: Keyword arguments of ``generate``.
        stop_token_ids: Ids that end an answer, beside the model's own.
        batch_size: Prompts a batch (1 or more).
        on_batch: Called with the number of prompts done, after each batch.

    Returns:
        The texts and what they cost.

    Raises:
        MethodError: if the model cannot generate.
    """
    if not hasattr(model, "generate"):
        raise MethodError(f"A {type(model).__name__} does not generate text.", fix="Load a causal or seq2seq model.")
    was_training = model.training
    model.eval()
    asker = _Asker(model, tokenizer, method, decoding or {}, tuple(stop_token_ids))
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: list[list[int]] = [[] for _ in prompts]
    try:
        start_seconds = [asker.first_token([prompts[index]]) for index in _spread(order, FIRST_TOKEN_PROMPTS)]
        seconds = 0.0
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            began = time.perf_counter()
            for index, answer in zip(rows, asker.ask([prompts[index] for index in rows]), strict=True):
                answers[index] = answer
            seconds += time.perf_counter() - began
            if on_batch is not None:
                on_batch(len(rows))
    finally:
        model.train(was_training)
    tokens = [len(answer) for answer in answers]
    return Generation(
        texts=[text.strip() for text in tokenizer.batch_decode(answers, skip_special_tokens=True)],
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=sum(tokens) / seconds if seconds else 0.0,
        first_token_seconds=statistics.median(start_seconds) if start_seconds else 0.0,
    )


class _Asker:
    """One model, asked in batches with fixed settings."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        method: TuningMethod | None,
        decoding: Mapping[str, Any],
        stop_token_ids: tuple[int, ...],
    ) -> None:
        self.model = model
        self.method = method
        self.encoder_decoder = bool(model.config.is_encoder_decoder)  # type: ignore[union-attr]
        self.config = make_generation_config(model.generation_config, tokenizer, decoding, stop_token_ids)  # type: ignore[arg-type]
        self.stops = set(self.config.eos_token_id or ())  # type: ignore[arg-type]

    def ask(self, prompts: Sequence[Sequence[int]], config: GenerationConfig | None = None) -> list[list[int]]:
        """Token ids of the answers, each up to and with its end token."""
        batch = plain_batch(prompts, self.model, pad=self.config.pad_token_id)  # type: ignore[arg-type]
        target, inputs = self.model, batch.inputs
        if self.method is not None:
            target, inputs = self.method.generation_inputs(self.model, inputs["input_ids"], inputs["attention_mask"])
        with torch.inference_mode():
            output = target.generate(**inputs, generation_config=config or self.config)  # type: ignore[operator]
        if self.encoder_decoder:
            output = output[:, 1:]  # the decoder's start token
        elif "input_ids" in inputs:
            output = output[:, batch.prompt_length :]
        return [self._answer(row) for row in output.tolist()]

    def first_token(self, prompts: Sequence[Sequence[int]]) -> float:
        """Seconds to the first new token."""
        config = copy.deepcopy(self.config)
        config.max_new_tokens, config.min_new_tokens = 1, None
        began = time.perf_counter()
        self.ask(prompts, config)
        return time.perf_counter() - began

    def _answer(self, row: list[int]) -> list[int]:
        for position, token in enumerate(row):
            if token in self.stops:
                return row[: position + 1]
        return row


def _spread(order: Sequence[int], most: int) -> list[int]:
    """At most ``most`` items, evenly spread over ``order``."""
    if len(order) <= most:
        return list(order)
    return [order[round(step * (len(order) - 1) / (most - 1))] for step in range(most)]
