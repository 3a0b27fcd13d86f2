"""Which setting holds: the request's, the task's or the model's."""

from __future__ import annotations

import pytest
from transformers import GenerationConfig

from hfplug.errors import ServingError
from hfplug.serving.decoding import Decoding, settle

OWN = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.8, top_k=20, repetition_penalty=1.1)


def settled(decoding=None, task=None, own=OWN, most=256):
    return settle(decoding, task or {}, own, most_new_tokens=most)


def test_an_answer_is_greedy_although_the_models_own_file_asks_for_chance():
    assert settled().temperature == 0
    assert settled().warpers == ()


def test_a_request_goes_before_the_task_and_the_task_before_the_model():
    task = {"max_new_tokens": 40, "repetition_penalty": 1.2, "do_sample": True, "temperature": 0.9, "top_k": 5}
    found = settled(Decoding(temperature=0.5), task)
    assert (found.max_new_tokens, found.temperature, found.repetition_penalty) == (40, 0.5, 1.2)
    assert found.warpers == (("top_k", 5), ("top_p", 0.8))


def test_a_request_for_chance_turns_off_the_beams_of_the_task():
    assert settled(Decoding(temperature=0.7), {"num_beams": 4}).num_beams == 1
    assert settled(Decoding(num_beams=4), {"do_sample": True}).temperature == 0


def test_beams_with_chance_are_refused():
    with pytest.raises(ServingError, match="exclude each other"):
        Decoding(num_beams=2, temperature=0.5)
    with pytest.raises(ServingError, match="exclude each other"):
        settled(None, {"num_beams": 2, "do_sample": True})


def test_a_request_beyond_the_limit_is_refused_and_a_tasks_wish_is_cut():
    with pytest.raises(ServingError, match="more than the 100"):
        settled(Decoding(max_new_tokens=101), most=100)
    assert settled(None, {"max_new_tokens": 101}, most=100).max_new_tokens == 100


def test_a_setting_that_is_not_served_is_named_with_the_one_that_was_meant():
    with pytest.raises(ServingError, match="'max_new_token'.*max_new_tokens"):
        settled(None, {"max_new_token": 4})


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1},
        {"max_new_tokens": 0}, {"max_new_tokens": True}, {"num_beams": 0}, {"seed": 1.5}, {"seed": None},
        {"repetition_penalty": 0}, {"no_repeat_ngram_size": 1.0}, {"max_new_tokens": "9"},
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_its_name(wrong):
    with pytest.raises(ServingError, match=next(iter(wrong))):
        Decoding(**wrong)


def test_rows_share_a_pass_unless_they_search_with_beams_or_differ_in_what_a_call_has_once():
    greedy, drawn = settled(), settled(Decoding(temperature=1.0, seed=3, max_new_tokens=5))
    assert greedy.sharing_key() == drawn.sharing_key()
    assert settled(None, {"min_new_tokens": 3}).sharing_key() != greedy.sharing_key()
    assert settled(Decoding(num_beams=2)).sharing_key() != settled(Decoding(num_beams=2)).sharing_key()
