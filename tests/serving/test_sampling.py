"""The choice of a token, row by row, against what transformers does."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from hfplug.errors import ServingError
from hfplug.serving.decoding import Decoding, settle
from hfplug.serving.sampling import RowChoice


def settled(**decoding: Any):
    return settle(Decoding(**decoding), {}, GenerationConfig(), most_new_tokens=64)


def choose(rows, scores, input_ids, prompts=None, prompt_length=0):
    choice = RowChoice(prompts or [()] * len(rows), rows, prompt_length)
    return choice(input_ids, scores)


def test_a_greedy_row_is_left_as_it_is_beside_one_that_is_drawn():
    scores = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    found = choose([settled(), settled(temperature=1.0)], scores, torch.zeros(2, 1, dtype=torch.long))
    assert torch.equal(found[0], scores[0])
    assert torch.isfinite(found[1]).sum() == 1


def test_what_is_drawn_depends_on_the_seed_and_the_position_and_not_on_the_other_rows():
    scores = torch.randn(1, 200, generator=torch.Generator().manual_seed(0))
    ids = torch.zeros(1, 4, dtype=torch.long)
    alone = choose([settled(temperature=1.0, seed=7)], scores, ids)
    torch.rand(3)  # the state of torch's own generator is of no effect
    rows = [settled(temperature=1.0, seed=1), settled(temperature=1.0, seed=7), settled()]
    together = choose(rows, scores.expand(3, -1), ids.expand(3, -1))
    assert torch.equal(together[1], alone[0])
    other = {int(choose([settled(temperature=1.0, seed=s)], scores, ids).argmax()) for s in range(20)}
    later = {int(choose([settled(temperature=1.0)], scores, ids.expand(1, -1)[:, :n]).argmax()) for n in range(1, 5)}
    assert len(other) > 5
    assert len(later) > 1


def test_what_is_drawn_follows_the_probabilities_within_what_top_k_and_top_p_leave():
    logits = torch.tensor([[2.0, 1.5, 1.0, 0.5, -9.0]])
    ids = torch.zeros(1, 1, dtype=torch.long)
    draws = [int(choose([settled(temperature=0.8, seed=s, top_k=3)], logits, ids).argmax()) for s in range(3000)]
    expected = torch.softmax(logits[0, :3] / 0.8, dim=-1)
    counts = Counter(draws)
    assert set(counts) == {0, 1, 2}
    assert [counts[i] / 3000 for i in range(3)] == pytest.approx(expected.tolist(), abs=0.03)
    few = {int(choose([settled(temperature=0.8, seed=s, top_p=0.4)], logits, ids).argmax()) for s in range(100)}
    assert few == {0}


def test_penalties_look_at_a_rows_own_prompt_and_answer_and_not_at_its_padding():
    scores = torch.randn(2, 30, generator=torch.Generator().manual_seed(0))
    pad, prompts = 9, [[3, 4, 5], [6]]
    padded = torch.tensor([[3, 4, 5, 11], [pad, pad, 6, 12]])
    found = choose([settled(repetition_penalty=1.7)] * 2, scores, padded, prompts, prompt_length=3)
    alone = RepetitionPenaltyLogitsProcessor(1.7)
    assert torch.equal(found[0:1], alone(torch.tensor([[3, 4, 5, 11]]), scores[0:1]))
    assert torch.equal(found[1:2], alone(torch.tensor([[6, 12]]), scores[1:2]))
    assert found[1, pad] == scores[1, pad]


def test_an_ngram_that_was_written_is_not_written_again():
    scores = torch.zeros(1, 10)
    found = choose([settled(no_repeat_ngram_size=2)], scores, torch.tensor([[1, 2, 3, 1]]))
    assert found[0].isinf().nonzero().flatten().tolist() == [2]


def test_scores_that_are_not_finite_are_an_error_when_drawing():
    scores = torch.full((1, 5), float("nan"))
    with pytest.raises(ServingError, match="not finite"):
        choose([settled(temperature=1.0)], scores, torch.zeros(1, 1, dtype=torch.long))


def test_it_is_one_processor_among_those_of_generate():
    scores = torch.randn(1, 20)
    everything = LogitsProcessorList([RowChoice([()], [settled()], 0)])
    assert torch.equal(everything(torch.zeros(1, 1, dtype=torch.long), scores), scores)
