"""Prompt tuning where it cannot work."""

from __future__ import annotations

import pytest
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
def test_a_classifier_that_takes_ids_only_is_refused_before_it_is_trained(model):
    with pytest.raises(hfplug.MethodError, match="takes token ids only. Use lora"):
        hfplug.apply_method(model, "prompt_tuning")
    assert hfplug.apply_method(model, "lora").peft_config["default"].task_type == "SEQ_CLS"
