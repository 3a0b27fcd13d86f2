"""A base in 4 bits: its variants share its packed weights, and rows of several share a pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from residents import NEW_TOKENS, PROMPTS, ask, ask_plain, off_by, shake
from transformers import LlamaConfig, LlamaForCausalLM

import hfplug
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.foreign import method_of, recipe_of
from hfplug.adapters.load import load_adapter
from hfplug.adapters.lock import make_lock
from hfplug.errors import ServingError
from hfplug.serving.clones import memory_of, share
from hfplug.serving.resident import Resident

pytest.importorskip("bitsandbytes")
FOUR_BITS = 0.1  # of the root mean square, as for a probe: one row and several are unpacked to other formats


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.2, bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("quantised") / "base"
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path) -> dict[str, Path]:
    """Two QLoRAs with locks, and a LoRA that was trained over 32 bits."""
    made = {}
    for seed, name in enumerate(("qlora", "qlora-2")):
        tuned = shake(hfplug.build_model(base, "qlora", r=4), seed, 0.2)
        tuned.save_pretrained(base.parent / f"{name}-checkpoint")
        lock = make_lock(tuned, base_name=str(base))
        AdapterDir.write(base.parent / name, source=base.parent / f"{name}-checkpoint", lock=lock)
        made[name] = base.parent / name
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["down_proj"], r=2)
    shake(get_peft_model(LlamaForCausalLM.from_pretrained(base), config), 9, 0.2).save_pretrained(base.parent / "lora")
    return {**made, "lora": base.parent / "lora"}


@pytest.fixture
def resident(base: Path, adapters: dict[str, Path]) -> Resident:
    adapter = AdapterDir.open(adapters["qlora"])
    return Resident.load(base, quantization=recipe_of(adapter, method_of(adapter)))


def test_a_clone_of_a_quantised_base_shares_its_packed_weights_and_what_unpacks_them(resident):
    clone = share(resident.model)
    assert set(memory_of([clone])) == set(memory_of([resident.model]))
    assert resident.base_bytes < sum(parameter.nbytes for parameter in resident.model.parameters()) * 1.5
    ids = torch.tensor([PROMPTS[0]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(ask(clone, inputs)[1], ask(resident.model, inputs)[1])


def test_each_row_of_a_mixed_request_over_four_bits_is_that_of_the_variant_alone(resident, base, adapters):
    for name, folder in adapters.items():
        variant = resident.attach(name, folder, verify="lock")
        assert variant.batching == "mixed"
        assert variant.held_bytes < 0.5 * resident.base_bytes
    names = ["qlora", "lora", "qlora-2"]
    with resident.ready(names, PROMPTS) as ready:
        _, logits = ask(ready.model, ready.inputs, ready.prompt_length)
    for row, (name, prompt) in enumerate(zip(names, PROMPTS, strict=True)):
        ids = torch.tensor([prompt])
        with resident.ready([name], [prompt]) as ready:
            tokens, alone = ask(ready.model, ready.inputs, ready.prompt_length)
        assert off_by(logits[row, :1], alone[0, :1]) < FOUR_BITS
        if name != "lora":  # on a fresh base in four bits, the ordinary way
            expected, fresh = ask_plain(load_adapter(adapters[name], base=base), prompt)
            assert torch.equal(alone[0], fresh)
            assert tokens[0, -NEW_TOKENS:].tolist() == expected
        with resident.ready(["base"], [prompt]) as ready:
            assert off_by(ask(ready.model, ready.inputs)[1][0, :1], alone[0, :1]) > 3 * FOUR_BITS
        assert ids.shape == (1, len(prompt))
    assert resident.prove_base().verdict == "proved"


def test_nothing_is_merged_into_four_bits_and_no_full_model_is_held_over_them(resident, base, adapters):
    with pytest.raises(ServingError, match="quantised base"):
        resident.attach("it", adapters["qlora"], verify="lock", merge="always")
    with pytest.raises(ServingError, match="quantised base"):
        resident.attach("it", base, verify="lock")


def test_the_proof_sees_what_packed_weights_are_unpacked_with(resident):
    state = resident.model.model.layers[0].self_attn.q_proj.weight.quant_state
    state.absmax[0] += 1
    proof = resident.prove_base()
    assert proof.verdict == "failed"
    assert "q_proj" in str(proof)
