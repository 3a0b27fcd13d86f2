"""What variants hold beside the base: adapters next to nothing, full models as a difference, merged weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from residents import (
    NEW_TOKENS,
    PROMPTS,
    adapter_of,
    alone,
    ask,
    load_plain,
    make_adapter,
    off_by,
    save_base,
    shake,
)  # fmt: skip
from safetensors.torch import load_file

from hfplug.adapters.load import load_adapter
from hfplug.errors import ServingError
from hfplug.serving.clones import give_own, memory_of, same_bits, share, share_again
from hfplug.serving.resident import Resident

TOLERANCE = 5e-4


def answer(resident: Resident, name: str, prompt: list[int]) -> tuple[list[int], torch.Tensor]:
    with resident.ready([name], [prompt]) as ready:
        tokens, logits = ask(ready.model, ready.inputs, ready.prompt_length)
    return tokens[0, -NEW_TOKENS:].tolist(), logits[0]


def numbers_in(folder: Path) -> int:
    return sum(tensor.nbytes for file in folder.glob("*.safetensors") for tensor in load_file(file).values())


# ------------------------------------------------------------------------------------------------ clones


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "bart"])
def test_a_clone_holds_no_memory_of_its_own_and_answers_bit_for_bit_the_same(base_folder, kind):
    model = load_plain(base_folder(kind))
    clone = share(model)
    assert set(memory_of([clone])) == set(memory_of([model]))
    assert {id(module) for module in clone.modules()} & {id(module) for module in model.modules()} == set()
    ids = torch.tensor([PROMPTS[0]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(ask(clone, inputs)[1], ask(model, inputs)[1])


def test_weights_that_are_tied_in_a_model_are_tied_in_its_clone(base_folder):
    clone = share(load_plain(base_folder("llama")))
    assert clone.get_input_embeddings().weight is clone.get_output_embeddings().weight
    give_own(clone, {"lm_head.weight"})
    assert clone.get_input_embeddings().weight is clone.get_output_embeddings().weight


def test_own_parameters_are_written_into_and_only_unchanged_ones_are_shared_again(base_folder):
    model = load_plain(base_folder("llama"))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    clone = share(model)
    given = give_own(clone)
    with torch.no_grad():
        clone.model.norm.weight.add_(1)
    share_again(clone, given)
    assert all(same_bits(parameter, before[name]) for name, parameter in model.named_parameters())
    held = sum(size for place, size in memory_of([clone]).items() if place not in memory_of([model]))
    assert held == model.model.norm.weight.nbytes
    assert torch.equal(clone.model.norm.weight, model.model.norm.weight + 1)


# ---------------------------------------------------------------------------------------------- adapters


def test_a_base_with_eight_adapters_holds_the_base_and_the_adapters_within_five_per_cent(tmp_path):
    base = save_base("llama", tmp_path / "llama")
    resident = Resident.load(base)
    variants = ("lora", "rslora", "lora_bias", "ia3", "prompt", "prefix", "layer_norm", "oft")
    folders = [make_adapter(base, "llama", variant, tmp_path / variant) for variant in variants]
    for variant, folder in zip(variants, folders, strict=True):
        resident.attach(variant, folder, verify="lock")
    assert [resident.attached[variant].batching for variant in variants] == ["mixed"] * 8
    routers = [place.router for place in resident._table.places.values()] + [resident._table.router]
    everything = [resident.model, *(one.model for one in resident.attached.values())]
    everything += [router.model for router in routers if router is not None]
    held = sum(memory_of(everything).values())
    least = resident.base_bytes + sum(map(numbers_in, folders))
    assert least <= held <= 1.05 * least
    assert held == pytest.approx(resident.base_bytes + sum(one.held_bytes for one in resident.attached.values()))


def test_an_adapter_that_is_taken_off_leaves_nothing_behind(base_folder):
    import gc
    import weakref

    resident = Resident.load(base_folder("llama"))
    resident.attach("kept", adapter_of(base_folder("llama"), "llama", "ia3"), verify="lock")
    resident.attach("lora", adapter_of(base_folder("llama"), "llama", "lora"), verify="lock")
    gone = weakref.ref(resident.attached["lora"].model)
    answer(resident, "lora", PROMPTS[0])
    resident.detach("lora")
    gc.collect()
    assert gone() is None


# --------------------------------------------------------------------------------------------------- full


def test_a_full_model_shares_what_training_left_alone(tmp_path):
    base = save_base("llama", tmp_path / "llama")
    model = load_plain(base)
    for parameter in model.requires_grad_(False).model.layers[1].parameters():
        parameter.requires_grad_(True)
    shake(model, 1).save_pretrained(tmp_path / "full")
    resident = Resident.load(base)
    held = resident.attach("full", tmp_path / "full", verify="lock").held_bytes
    assert held == sum(parameter.nbytes for parameter in model.model.layers[1].parameters())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "bart"])
def test_a_full_model_as_a_difference_takes_fewer_bytes_and_says_how_far_it_is_off(base_folder, tmp_path, kind):
    base = base_folder(kind)
    shake(load_plain(base).requires_grad_(True), 1, 0.02).save_pretrained(tmp_path / "full")
    resident = Resident.load(base)
    whole = resident.attach("copy", tmp_path / "full", verify="lock").held_bytes
    variant = resident.attach("difference", tmp_path / "full", verify="lock", full="difference")
    assert variant.held_bytes < 0.45 * whole  # a byte a number, a factor a row, and rows are short here
    note = next(note for note in variant.notes if "difference" in note)
    said = float(re.search(r"differ from the copy's by (\S+)", note)[1])
    assert 0 < said < 0.1
    for prompt in PROMPTS:
        expected, found = (answer(resident, name, prompt)[1] for name in ("copy", "difference"))
        assert 0 < off_by(found[:1], expected[:1]) < 10 * said
        assert off_by(found[:1], answer(resident, "base", prompt)[1][:1]) > 0.02
    assert resident.prove_base().verdict == "proved"


# -------------------------------------------------------------------------------------------------- merged


@pytest.mark.parametrize(("kind", "variant"), [("llama", "lora"), ("gpt2", "lora"), ("t5", "dora"), ("bart", "ia3")])
def test_a_merged_adapter_answers_as_it_did_and_unmerged_the_base_is_bit_equal(base_folder, kind, variant):
    base = base_folder(kind)
    resident = Resident.load(base)
    folder = adapter_of(base, kind, variant)
    before = {name: parameter.detach().clone() for name, parameter in resident.model.named_parameters()}
    plain = resident.attach("it", folder, verify="lock")
    merged = resident.attach("it", folder, verify="lock", merge="always")
    assert merged.batching == "alone"
    assert "merged" in merged.batching_reason
    assert merged.held_bytes > plain.held_bytes
    for prompt in PROMPTS:
        expected_tokens, expected = alone(str(base), kind, variant, tuple(prompt))
        tokens, found = answer(resident, "it", prompt)
        assert off_by(found, expected) < TOLERANCE
        assert tokens == expected_tokens
    assert all(same_bits(parameter, before[name]) for name, parameter in resident.model.named_parameters())
    unmerged = resident.attach("it", folder, verify="lock")
    assert unmerged.held_bytes == plain.held_bytes
    assert torch.equal(answer(resident, "it", PROMPTS[0])[1], alone(str(base), kind, variant, tuple(PROMPTS[0]))[1])
    assert resident.prove_base().verdict == "proved"


@pytest.mark.parametrize("variant", ["prompt", "prefix"])
def test_what_cannot_be_merged_is_refused_with_the_reason(base_folder, variant):
    resident = Resident.load(base_folder("llama"))
    with pytest.raises(ServingError, match=r"cannot be merged: no: .*merge='never'"):
        resident.attach("it", adapter_of(base_folder("llama"), "llama", variant), verify="lock", merge="always")


def test_a_merged_variant_is_what_plain_peft_merges_too(base_folder):
    base = base_folder("llama")
    resident = Resident.load(base)
    resident.attach("it", adapter_of(base, "llama", "lora"), verify="lock", merge="always")
    plain = load_adapter(adapter_of(base, "llama", "lora"), base=base).merge_and_unload()
    ids = torch.tensor([PROMPTS[0]])
    expected = ask(plain, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})[1][0]
    assert off_by(answer(resident, "it", PROMPTS[0])[1], expected) < 1e-5
