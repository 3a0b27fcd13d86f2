"""What a soft prompt is near, beside what chance gives."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.inspect_words import has_soft_prompt, look_up_soft_prompt, read_soft_prompt
from hfplug.errors import AdapterError

WORDS = ["<pad>", "</s>", *(f"w{number}" for number in range(60))]


@pytest.fixture(scope="module")
def tokenizer():
    backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<pad>")


@pytest.fixture(scope="module")
def vocabulary():
    return torch.randn(len(WORDS) + 2, 48, generator=torch.Generator().manual_seed(3))  # two rows of padding


def test_a_prompt_made_of_words_is_near_them_and_nearer_than_chance(tokenizer, vocabulary):
    found = look_up_soft_prompt(3 * vocabulary[[5, 9, 30]], vocabulary, tokenizer, nearest=2)
    assert [token.neighbours[0].text for token in found.tokens] == ["w3", "w7", "w28"]
    assert all(token.neighbours[0].cosine == pytest.approx(1, abs=1e-5) for token in found.tokens)
    assert all(len(token.neighbours) == 2 for token in found.tokens)
    assert found.nearer_than_chance == 3
    assert found.tokens[0].norm == pytest.approx(3 * float(vocabulary[5].norm()), rel=1e-5)


def test_random_vectors_are_nearer_than_chance_about_as_often_as_chance_says(tokenizer, vocabulary):
    prompt = torch.randn(400, 48, generator=torch.Generator().manual_seed(11))
    found = look_up_soft_prompt(prompt, vocabulary, tokenizer, nearest=1)
    assert 0.01 < found.nearer_than_chance / 400 < 0.12  # 0.05, known from 200 draws
    assert 0 < found.control_mean < found.control_high < 1


def test_special_tokens_and_padding_of_the_matrix_are_no_words(tokenizer, vocabulary):
    found = look_up_soft_prompt(vocabulary[[0, 1, 62, 63]], vocabulary, tokenizer, nearest=60)
    seen = {word.token_id for token in found.tokens for word in token.neighbours}
    assert seen == set(range(2, 62))


def test_the_control_is_the_same_for_the_same_seed(tokenizer, vocabulary):
    first, again, other = (look_up_soft_prompt(vocabulary[:4], vocabulary, tokenizer, seed=seed) for seed in (1, 1, 2))
    assert first == again and first.control_high != other.control_high


def test_a_prompt_of_another_base_is_refused(tokenizer, vocabulary):
    with pytest.raises(AdapterError, match=r"of shape \(virtual tokens, 48\) was expected, \(4, 32\) came"):
        look_up_soft_prompt(torch.zeros(4, 32), vocabulary, tokenizer)


def test_the_prompt_of_an_adapter_is_read_and_one_without_is_refused(tmp_path):
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for name, config in (
        ("prompt", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
        ("lora", LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])),
    ):
        model = get_peft_model(LlamaForCausalLM(LlamaConfig(vocab_size=20, **shape)), config)
        model.save_pretrained(tmp_path / name)
        if name == "prompt":
            expected = model.get_prompt_embedding_to_save("default")
    prompt, lora = AdapterDir.open(tmp_path / "prompt"), AdapterDir.open(tmp_path / "lora")
    assert has_soft_prompt(prompt) and not has_soft_prompt(lora)
    assert torch.equal(read_soft_prompt(prompt), expected.float())
    with pytest.raises(AdapterError, match="holds no soft prompt"):
        read_soft_prompt(lora)
