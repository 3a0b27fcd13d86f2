"""A vocabulary enlarged after loading: its new rows are trained and saved, and no whole embedding with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import hfplug
from hfplug.testing.workbench import logits, train

ROWS, NEW = 64, 3
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def resized(folder: Path, kind: str) -> Any:
    """A base on disk, loaded and given three rows more."""
    torch.manual_seed(0)
    if kind == "gpt2":
        base: Any = GPT2LMHeadModel(GPT2Config(vocab_size=ROWS, n_embd=32, n_layer=1, n_head=2, **ENDS))
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
        base = LlamaForCausalLM(LlamaConfig(vocab_size=ROWS, tie_word_embeddings=kind == "tied", **sizes, **ENDS))
    base.save_pretrained(folder / "base")
    model = type(base).from_pretrained(folder / "base")
    model.resize_token_embeddings(ROWS + NEW)
    return model


def saved(folder: Path) -> dict[str, tuple[int, ...]]:
    return {name: tuple(one.shape) for name, one in load_file(folder / "adapter_model.safetensors").items()}


@pytest.mark.parametrize("method", ["lora", "embeddings"])
@pytest.mark.parametrize(("kind", "places"), [("tied", 1), ("untied", 2), ("gpt2", 1)])
def test_the_new_rows_are_trained_and_saved_and_no_other(kind, places, method, tmp_path):
    settings = {"tokens": ("5",)} if method == "embeddings" else {}
    model = hfplug.apply_method(resized(tmp_path, kind), method, **settings)
    trainer = train(model, "causal", tmp_path / "out")
    shapes = saved(tmp_path / "out" / "adapter")
    rows = {name: shape for name, shape in shapes.items() if "lora_" not in name}
    # An output layer of its own has no row of a token that was asked for by name.
    assert sorted(rows.values()) == [*[(NEW, 32)] * (places - 1), (NEW + len(settings), 32)], rows
    assert saved(tmp_path / "out" / "checkpoint-3") == shapes
    loaded = hfplug.load_adapter(tmp_path / "out" / "adapter")
    assert torch.equal(logits(loaded, "causal"), logits(trainer.model, "causal"))
    assert loaded.get_input_embeddings().weight.shape[0] == ROWS + NEW
    new = torch.full((1, 4), ROWS + 1)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=new).logits, trainer.model(input_ids=new).logits)
    # Plain PEFT: the rows are there as soon as the base has room for them.
    plain = type(model.get_base_model()).from_pretrained(tmp_path / "base")
    plain.resize_token_embeddings(ROWS + NEW, mean_resizing=False)
    by_peft = PeftModel.from_pretrained(plain, str(tmp_path / "out" / "adapter"))
    assert torch.equal(logits(by_peft, "causal"), logits(trainer.model, "causal"))


@pytest.mark.parametrize("method", ["bottleneck", "prompt_tuning"])
def test_a_method_that_trains_no_rows_says_what_it_costs_and_loads_all_the_same(method, tmp_path, caplog):
    model = hfplug.apply_method(resized(tmp_path, "untied"), method)
    assert f"3 rows were added to the vocabulary, and {method} trains no rows" in caplog.text
    assert "0.0 MB. lora trains and saves the new rows alone" in caplog.text
    trainer = train(model, "causal", tmp_path / "out")
    assert sum(shape == (ROWS + NEW, 32) for shape in saved(tmp_path / "out" / "adapter").values()) == 2
    assert torch.equal(
        logits(hfplug.load_adapter(tmp_path / "out" / "adapter"), "causal"), logits(trainer.model, "causal")
    )


def test_an_embedding_of_the_bases_own_size_is_left_alone(tmp_path, caplog):
    model = resized(tmp_path, "tied")
    model.resize_token_embeddings(ROWS)
    tuned = hfplug.apply_method(model, "lora")
    assert tuned.active_peft_config.trainable_token_indices is None
    assert "added to the vocabulary" not in caplog.text
    tuned.save_pretrained(tmp_path / "adapter")
    assert all("lora_" in name for name in saved(tmp_path / "adapter"))
