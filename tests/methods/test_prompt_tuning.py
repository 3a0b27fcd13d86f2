"""Prompt tuning on models that take ids only."""

from __future__ import annotations

import pytest
import torch
from transformers import BartConfig, BartForSequenceClassification, T5Config, T5ForSequenceClassification

import hfplug

T5 = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
SIDES = {f"{side}_{part}": 2 for side in ("encoder", "decoder") for part in ("layers", "attention_heads", "ffn_dim")}
BART = BartConfig(vocab_size=32, d_model=16, max_position_embeddings=32, **SIDES)


@pytest.mark.parametrize(
    "model",
    [T5ForSequenceClassification(T5), BartForSequenceClassification(BART)],
    ids=lambda model: model.config.model_type,
)
def test_a_classifier_that_takes_ids_only_is_given_them_with_placeholders(model):
    ids = torch.tensor([[5, 6, 7, model.config.eos_token_id], [8, 9, 5, model.config.eos_token_id]])
    with torch.no_grad():
        plain = model.eval()(input_ids=ids).logits
    tuned = hfplug.apply_method(model, "prompt_tuning").eval()
    with torch.no_grad():
        prompted = tuned(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        tuned.prompt_encoder["default"].embedding.weight.data.normal_(std=3.0)
        moved = tuned(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        assert torch.equal(tuned.get_base_model()(input_ids=ids).logits, plain)
    assert not torch.equal(prompted, plain) and not torch.equal(moved, prompted)
