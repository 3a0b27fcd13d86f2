"""A very small base with a tokenizer of its own, and dialogues, for studies that take seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 of some 50,000 parameters, with a tokenizer, as a ``from_pretrained`` folder."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    from hfplug.demo.vocabulary import train_tokenizer
    from hfplug.demo.world import generate

    folder = tmp_path_factory.mktemp("small") / "base"
    texts = [text for row in generate("train", 60) for text in (row["dialogue"], row["summary"])]
    tokenizer = train_tokenizer(texts, 400)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 24 dialogues to train on and 8 to score, two references each."""
    from hfplug.demo.world import generate

    folder = tmp_path_factory.mktemp("dialogues")
    for split, rows in (("train", generate("train", 24)), ("test", generate("test", 8))):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder
