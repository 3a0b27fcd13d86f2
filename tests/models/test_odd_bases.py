"""Bases that are loaded, fed or trained in a way of their own."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

import hfplug
from hfplug.models.tryout import labelled
from hfplug.testing.tiny_models import tiny_model

IDS = torch.tensor([[5, 9, 17, 23, 5, 8]])


def test_the_text_half_of_a_model_of_pictures_is_loaded_by_the_class_that_it_names(tmp_path):
    tiny_model("mllama", "causal").save_pretrained(tmp_path)  # no Auto class knows its configuration
    model = hfplug.build_model(tmp_path, "bottleneck")
    assert type(model.get_base_model()).__name__ == "MllamaForCausalLM"
    assert hfplug.methods_for(tmp_path)["lora"] is None


def test_a_soft_prompt_is_put_on_a_model_that_has_a_gradient_in_training_only():
    model = hfplug.apply_method(tiny_model("rwkv", "causal"), "prompt_tuning").train()
    model(input_ids=IDS, labels=IDS).loss.backward()
    grown = [one.grad for one in model.parameters() if one.requires_grad]
    assert len(grown) == 1 and bool((grown[0] != 0).all(dim=1).all())


def test_a_decoders_ids_are_made_of_the_labels_and_not_of_the_input():
    model = tiny_model("fsmt", "seq2seq")
    loss = model(input_ids=IDS, **labelled(model, IDS[:, :3])).loss
    assert bool(torch.isfinite(loss))


def test_a_classifier_that_embeds_twice_trains_and_saves_the_tables_that_are_called(tmp_path):
    model = hfplug.apply_method(tiny_model("t5", "classification"), "embeddings", tokens=("5",))
    model.save_pretrained(tmp_path)
    tables = [name for name in load_file(tmp_path / "adapter_model.safetensors") if "token_adapter" in name]
    assert len(tables) == 2 and not any("shared" in name for name in tables)


def test_an_embedding_that_normalises_what_it_looked_up_still_does_with_trained_rows(tmp_path):
    base = tiny_model("inkling_text", "causal")
    with torch.no_grad():
        before = base(input_ids=IDS).logits
        model = hfplug.apply_method(base, "embeddings").eval()
        torch.testing.assert_close(model(input_ids=IDS).logits, before)
        next(one for one in model.parameters() if one.requires_grad).mul_(3.0).add_(0.1)
        moved = model(input_ids=IDS).logits
        torch.testing.assert_close(model.merge_and_unload()(input_ids=IDS).logits, moved, atol=1e-5, rtol=1e-4)


def test_a_soft_prompt_finds_an_embedding_with_more_rows_than_the_vocabulary_has(tmp_path):
    tiny_model("mllama", "causal").save_pretrained(tmp_path / "base")
    model = hfplug.build_model(tmp_path / "base", "prompt_tuning").eval()
    assert not hasattr(model.get_base_model(), "embeddings")
    model.save_pretrained(tmp_path / "adapter")
    loaded = hfplug.load_adapter(tmp_path / "adapter", task_type="causal")
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)
