"""The built-in base: small, whole, safe to load, and its tokenizer loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hfplug.demo.base import base_path
from hfplug.demo.tasks import TASKS, load_demo_data
from hfplug.demo.world import generate

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_path())


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(base_path())


def test_the_base_fits_into_the_wheel_and_holds_no_pickle():
    files = {file.name: file.stat().st_size for file in base_path().iterdir()}
    assert sum(files.values()) <= 20_000_000
    assert set(files) == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "pretraining.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_base_is_a_t5_of_three_to_ten_million_parameters(model):
    assert model.config.model_type == "t5"
    assert 3_000_000 <= model.num_parameters() <= 10_000_000
    assert model.dtype == torch.float32
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def test_the_card_has_a_licence_and_the_numbers_of_the_run():
    card = (base_path() / "README.md").read_text(encoding="utf-8")
    facts = json.loads((base_path() / "pretraining.json").read_text(encoding="utf-8"))
    assert "license: apache-2.0" in card
    assert f"{facts['parameters']:,} parameters" in card and f"{facts['seconds'] / 60:.1f} minutes" in card
    assert facts["steps_done"] == facts["steps"]


@pytest.mark.parametrize("split", ["pretrain", "train", "test"])
def test_the_tokenizer_gives_every_dialogue_back_as_it_was(tokenizer, split):
    for row in generate(split, 100):
        for text in (row["dialogue"], row["summary"], f"{row['title']}\n\n{row['action_items']}"):
            assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("text", ["Zoë: ça va?\nBo: 👍 100 %", "a\n\n\nb", "tabs\tand  two blanks", "日本語"])
def test_the_tokenizer_gives_foreign_text_back_as_it_was(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_a_name_is_the_same_tokens_wherever_it_stands(tokenizer):
    alone = tokenizer("Hannah", add_special_tokens=False).input_ids
    for text in ("Ask Hannah", "Hi.\nHannah"):
        assert tokenizer(text, add_special_tokens=False).input_ids[-len(alone) :] == alone


def test_no_prompt_or_target_of_the_demo_is_cut(tokenizer):
    for rows in load_demo_data().values():
        for task in TASKS.values():
            prompts = tokenizer([task.render(row["dialogue"]) for row in rows]).input_ids
            targets = tokenizer([row[task.target_column] for row in rows]).input_ids
            assert max(map(len, prompts)) <= task.max_input_tokens
            assert max(map(len, targets)) <= task.max_target_tokens
            assert max(map(len, targets)) <= task.decoding["max_new_tokens"]


def test_the_base_answers_a_question_about_a_dialogue_with_unseen_names(model, tokenizer):
    prompt = "Read the following conversation.\n\nNadia: Repeat after me.\nOwen: Gladly.\n\nWho speaks?"
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    answer = tokenizer.decode(model.generate(input_ids=ids)[0], skip_special_tokens=True)
    assert "Nadia" in answer and "Owen" in answer


def test_the_package_and_its_path_do_not_import_torch():
    code = (
        "import sys, hfplug.demo, hfplug.demo.base, hfplug.demo.tasks\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False False"
