"""The choice of the next token, for each row of a batch by that row's own settings."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from hfplug.errors import ServingError
from hfplug.serving.decoding import Settled

Processor = Callable[[Tensor, Tensor], Tensor]


class RowChoice(LogitsProcessor):
    """Penalties, narrowing and drawing for each row by itself, so that rows of any settings share one ``generate``.

    ``generate`` runs with ``do_sample=False`` and takes the largest score. A row that draws is drawn here: of its
    scores only the drawn token's is left above minus infinity. Each number comes from the row's seed and the
    token's position, and not from torch's global state, so that a row draws the same whoever shares its batch.
    (Padding changes logits in the last bits, so that once in many thousand tokens a draw on the edge between two
    tokens may fall to the other side.)

    A penalty looks at the row's own tokens: for a causal model its prompt and its answer, without padding; for an
    encoder-decoder model what the decoder has written. That is what ``generate`` does with one prompt alone.

    Args:
        prompts: Token ids of each row's prompt; of none for encoder-decoder models.
        settings: Settings of each row.
        prompt_length: Columns of the call's ``input_ids`` that are prompt, padding included.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], settings: Sequence[Settled], prompt_length: int) -> None:
        self.prompts = [torch.tensor(list(prompt), dtype=torch.long) for prompt in prompts]
        self.settings = settings
        self.prompt_length = prompt_length
        self.penalties = [_penalties(row) for row in settings]
        self.warpers = [_warpers(row) for row in settings]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores of shape (rows times beams, vocabulary), with each row's settings applied."""
        beams = scores.shape[0] // len(self.settings)
        step = input_ids.shape[1] - self.prompt_length
        changing = [row for row, one in enumerate(self.settings) if self.penalties[row] or one.temperature > 0]
        if not changing:
            return scores
        found = scores.clone()
        for row in changing:
            settings = self.settings[row]
            own = slice(row * beams, (row + 1) * beams)
            ids = self._own_tokens(row, input_ids[own])
            changed = scores[own]
            for processor in self.penalties[row]:
                changed = processor(ids, changed)
            if settings.temperature > 0:
                for processor in self.warpers[row]:
                    changed = processor(ids, changed)
                changed = _only(changed, _draw(changed[0], settings.seed, step))
            found[own] = changed
        return found

    def __deepcopy__(self, memo: object) -> RowChoice:
        return self  # nothing in it changes

    def _own_tokens(self, row: int, input_ids: Tensor) -> Tensor:
        prompt = self.prompts[row].to(input_ids.device).expand(input_ids.shape[0], -1)
        return torch.cat([prompt, input_ids[:, self.prompt_length :]], dim=1)


def _penalties(settings: Settled) -> list[Processor]:
    from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

    found: list[Processor] = []
    if settings.repetition_penalty != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.no_repeat_ngram_size > 0:
        found.append(NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram_size))
    return found


def _warpers(settings: Settled) -> list[Processor]:
    from transformers import (
        EpsilonLogitsWarper,
        EtaLogitsWarper,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
        TypicalLogitsWarper,
    )

    makers: dict[str, Callable[[Any], Processor]] = {
        "top_k": lambda value: TopKLogitsWarper(int(value)),
        "top_p": lambda value: TopPLogitsWarper(float(value)),
        "min_p": lambda value: MinPLogitsWarper(float(value)),
        "typical_p": lambda value: TypicalLogitsWarper(float(value)),
        "epsilon_cutoff": lambda value: EpsilonLogitsWarper(float(value)),
        "eta_cutoff": lambda value: EtaLogitsWarper(float(value)),
    }
    if settings.temperature == 0:
        return []
    narrowing = [makers[name](value) for name, value in settings.warpers if not (value == 1.0 and name != "top_k")]
    return [TemperatureLogitsWarper(float(settings.temperature)), *narrowing]


def _draw(scores: Tensor, seed: int, step: int) -> Tensor:
    """The index that a seed and a position draw from scores of shape (vocabulary,).

    The inverse of the distribution function in the order of the vocabulary: a change of the logits in their last
    bits moves its steps by as little, whereas an order by probability could swap two neighbours.
    """
    sums = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)
    if not bool(torch.isfinite(sums[-1])):
        raise ServingError(
            "The model's logits are not finite (NaN or infinity), so nothing can be drawn from them.",
            fix="Load the base with dtype='float32'.",
        )
    number = random.Random(f"{seed}/{step}").random()
    index = torch.searchsorted(sums, sums[-1] * number, right=True)
    # By rounding, the product may reach the last sum: then it is the first index that has it.
    return torch.minimum(index, torch.searchsorted(sums, sums[-1]))


def _only(scores: Tensor, index: Tensor) -> Tensor:
    chosen = torch.full_like(scores, -torch.inf)
    chosen[:, index] = 0.0
    return chosen
