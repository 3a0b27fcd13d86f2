"""The tiny chat model of the examples."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import hfplug
from hfplug.demo.chat_base import write_chat_base


def test_the_same_seed_writes_the_same_model_and_leaves_the_callers_random_state_alone(tmp_path):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, second = write_chat_base(tmp_path / "a"), write_chat_base(tmp_path / "b")
    assert torch.equal(torch.get_rng_state(), state)
    weights, again = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert sum(tensor.numel() for tensor in weights.values()) < 1_000_000


def test_a_model_that_is_there_is_left_as_it_is(tmp_path):
    write_chat_base(tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    before = (file.stat().st_mtime_ns, file.read_bytes())
    write_chat_base(tmp_path / "base", seed=1)
    assert (file.stat().st_mtime_ns, file.read_bytes()) == before


def test_a_question_keeps_its_tokens_whatever_answer_follows(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(write_chat_base(tmp_path / "base"))
    task = hfplug.Task(name="summary", prompt="Summarize.\n\n{dialogue}")
    preprocessor = hfplug.Preprocessor(task, tokenizer, encoder_decoder=False)
    for answer in ("Thea calls.", "the van", "7 pm", "'quoted'"):
        messages = [{"role": "user", "content": task.render("Hi.")}, {"role": "assistant", "content": answer}]
        whole = tokenizer.apply_chat_template(messages, return_dict=False)
        question = preprocessor.prompt("Hi.").input_ids
        assert whole[: len(question)] == question
        assert preprocessor.train_example("Hi.", answer)["input_ids"] == whole
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert model.config.eos_token_id == tokenizer.eos_token_id == whole[-1]
