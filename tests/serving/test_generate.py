"""Many prompts to one model, against one prompt at a time."""

from __future__ import annotations

import pytest
import torch
from residents import make_base
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import hfplug
from hfplug.models.factory import applied_to, apply_method
from hfplug.serving.generate import generate_texts

PROMPTS = [[5, 9, 20], [7, 8, 30, 31, 32, 33, 11], [40], [12, 13, 14, 15]]
DECODING = {"max_new_tokens": 6, "do_sample": False, "num_beams": 1}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word for each id."""
    words = {f" w{number}": number for number in range(96)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words)))


@pytest.mark.parametrize("kind", ["t5", "bart", "llama", "gpt2"])
@pytest.mark.parametrize("method", [None, "lora", "prompt_tuning"])
def test_what_a_prompt_is_answered_does_not_depend_on_the_prompts_beside_it(kind, method):
    model, tokenizer = make_base(kind), make_tokenizer()
    put_on = None
    if method is not None:
        settings = {"prompt_tuning": {"num_virtual_tokens": 4, "prompt_init": "random"}}.get(method, {})
        model = apply_method(model, method, **settings)
        put_on = applied_to(model).method
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
    together = generate_texts(model, tokenizer, PROMPTS, method=put_on, decoding=DECODING, batch_size=4)
    alone = generate_texts(model, tokenizer, PROMPTS, method=put_on, decoding=DECODING, batch_size=1)
    assert together.texts == alone.texts
    assert together.tokens == alone.tokens
    assert len(set(alone.texts)) > 1  # or it would show nothing


def test_what_cannot_generate_is_refused():
    with pytest.raises(hfplug.MethodError, match="does not generate"):
        generate_texts(torch.nn.Linear(2, 2), make_tokenizer(), PROMPTS)
