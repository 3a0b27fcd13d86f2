"""A base that can be read as far as these tests go: a configuration and a tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 with a tokenizer, as a ``from_pretrained`` folder."""
    from transformers import T5Config, T5ForConditionalGeneration

    from hfplug.demo.vocabulary import train_tokenizer

    folder = tmp_path_factory.mktemp("small") / "base"
    tokenizer = train_tokenizer(["A: hello there, how are you today? summarize the following conversation."] * 4, 300)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
