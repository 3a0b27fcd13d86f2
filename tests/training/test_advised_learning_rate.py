"""The learning rate that hfplug advises for a method on a model."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM

import hfplug
from hfplug.demo.chat_base import write_chat_base
from hfplug.training.guard import learning_rate_warning


@pytest.mark.parametrize("method", ["full", "lora", "prompt_tuning"])
def test_the_advised_rate_is_within_its_range_and_draws_no_warning(method, tmp_path):
    model = hfplug.build_model(write_chat_base(tmp_path / "base"), method)
    advice = hfplug.advised_learning_rate(model)
    assert advice.low <= advice.value <= advice.high and advice.source
    assert learning_rate_warning(model, advice.value) is None
    assert f"use learning_rate={advice.value:g}" in learning_rate_warning(model, advice.low / 10)


def test_a_model_without_a_method_has_no_advice_and_the_error_says_what_to_pass(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(write_chat_base(tmp_path / "base"))
    with pytest.raises(hfplug.TrainingError, match="put no method on this LlamaForCausalLM") as caught:
        hfplug.advised_learning_rate(model)
    assert "build_model" in caught.value.fix
