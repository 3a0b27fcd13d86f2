"""Text that grows token by token."""

from __future__ import annotations

from pathlib import Path

import pytest
from service_parts import byte_level_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hfplug.demo.base import base_path
from hfplug.serving.streaming import GrowingText

TEXTS = [
    "Anna: Is the report ready?\nBen: Almost, 20 more minutes.",
    "Grüße aus Köln 🙂👩‍👩‍👧 日本語 — “naïve”\t end",
    "  two  spaces   and a trailing one ",
    "don't stop, they 've won't . Right ?",
]


def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """One that closes gaps when it decodes."""
    words = ["[UNK]", "do", "n", "'", "t", "stop", ",", "they", "ve", "won", ".", "right", "?", "##s", "it"]
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=True)


def tokenizers():
    yield "byte-level", byte_level_tokenizer()
    yield "byte fallback with blanks", AutoTokenizer.from_pretrained(base_path())
    yield "word pieces", wordpiece_tokenizer()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name, tokenizer", list(tokenizers()), ids=lambda value: value if type(value) is str else "")
def test_each_state_begins_with_the_one_before_and_the_last_is_what_the_whole_decodes_to(name, tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    growing, shown = GrowingText(tokenizer), [""]
    for token in ids:
        shown.append(growing.extend([token]))
    whole = tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert growing.whole() == whole
    assert whole.startswith(shown[-1])
    assert all(later.startswith(earlier) for earlier, later in zip(shown, shown[1:], strict=False))
    assert "\ufffd" not in shown[-1]


def test_half_a_character_is_held_back_until_it_is_whole():
    tokenizer = byte_level_tokenizer()
    ids = tokenizer("a🙂b")["input_ids"]
    growing = GrowingText(tokenizer)
    states = [growing.extend([token]) for token in ids]
    assert states == ["a", "a", "a", "a", "a🙂", "a🙂b"]


def test_text_comes_as_soon_as_it_is_sure():
    tokenizer = AutoTokenizer.from_pretrained(base_path())
    growing = GrowingText(tokenizer)
    states = [growing.extend([token]) for token in tokenizer("Anna will move", add_special_tokens=False)["input_ids"]]
    assert states[-1] == "Anna will move"
    assert len(set(states)) >= 3


def test_special_tokens_are_no_text(tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(base_path())
    growing = GrowingText(tokenizer)
    growing.extend(tokenizer("Ben")["input_ids"])  # with the end token
    assert growing.whole() == "Ben"
