"""Soft prompts on decoders that lay out their own inputs for each token they write."""

from __future__ import annotations

import copy

import pytest
import torch

import hfplug
from hfplug.models.soft_writing import lengthened
from hfplug.testing.tiny_models import tiny_model

WORDS = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "num_beams": 1}


def prompted(model_type, ids):
    """A tiny model with a prompt that consists of the embedded ids."""
    model = tiny_model(model_type, "causal")
    tuned = hfplug.apply_method(model, "prompt_tuning", num_virtual_tokens=len(ids)).eval()
    with torch.no_grad():
        tuned.prompt_encoder["default"].embedding.weight.copy_(model.get_input_embeddings()(ids))
    return tuned


# XLNet masks and maps a token that it appends, and hands on what it has seen as mems; XLM gives each its language.
@pytest.mark.parametrize("model_type", ["xlnet", "xlm"])
def test_a_prompt_of_embedded_words_writes_what_the_words_write(model_type):
    ids = torch.arange(20, 32)[None] * torch.tensor([[1], [2]]) % 57 + 5
    ids[1, :5] = ids[0, :5]
    asked = {"output_logits": True, "return_dict_in_generate": True, **WORDS}
    words = tiny_model(model_type, "causal").generate(ids, attention_mask=torch.ones_like(ids), **asked)
    text = ids[:, 5:]
    tuned = prompted(model_type, ids[0, :5])
    for model in (tuned, copy.deepcopy(tuned)):
        found = model.generate(input_ids=text, attention_mask=torch.ones_like(text), **asked)
        assert len(found.logits) == len(words.logits) == 4
        for one, other in zip(found.logits, words.logits, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_vectors_take_part_in_every_step():
    """Not only in the first: XLNet's further tokens come with mems, and XLM's without."""
    ids = torch.arange(10, 17)[None]
    for model_type in ("xlnet", "xlm"):
        tuned = prompted(model_type, torch.arange(30, 35))
        base = tuned.get_base_model()
        asked = {"attention_mask": torch.ones_like(ids), "output_logits": True, "return_dict_in_generate": True}
        with_prompt = tuned.generate(ids, **asked, **WORDS).logits
        without = base.generate(ids, **asked, **WORDS).logits
        assert all(not torch.equal(one, other) for one, other in zip(with_prompt, without, strict=True))


@pytest.mark.slow
def test_a_plugged_model_writes_for_rows_that_are_padded_on_the_left():
    model = tiny_model("xlnet", "causal")
    hfplug.plug(model, "prompt_tuning", num_virtual_tokens=3)
    ids = torch.tensor([[0, 0, 11, 12], [13, 14, 15, 16]])
    mask = (ids != 0).long()
    model.train()
    model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
    written = model.eval().generate(ids, attention_mask=mask, **WORDS)
    assert torch.equal(written[:, :4], ids) and written.shape == (2, 8)


def test_every_dimension_of_the_text_is_lengthened_and_the_others_not():
    sees = torch.zeros(4, 4, 4)
    sees[:, :, -1] = 1.0  # nobody sees the last token, a prompt neither
    longer = lengthened(sees, text=4, extra=2)
    assert longer.shape == (4, 6, 6)
    assert bool((longer[:, :, -1] == 1).all()) and float(longer[:, :, :-1].sum()) == 0
    assert lengthened(torch.ones(4, 1, 3), text=4, extra=2).shape == (4, 1, 3)
