"""A base in memory: variants come, go and are replaced while others are asked, and what cannot be is refused."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaptionPromptConfig, LilyConfig, LoraConfig, PolyConfig, get_peft_model
from residents import (
    NEW_TOKENS,
    PROMPTS,
    adapter_of,
    alone,
    ask,
    ask_plain,
    load_plain,
    make_adapter,
    off_by,
    save_base,
    shake,
)
from transformers import BartConfig, BartForCausalLM, RwkvConfig, RwkvForCausalLM

from hfplug.adapters.load import load_adapter
from hfplug.errors import AdapterError, MismatchError, ServingError
from hfplug.serving.resident import Resident

TOLERANCE = 5e-4
NAMES = ("lora", "ia3", "prompt", "prefix", "layer_norm", "full")


@pytest.fixture
def resident(base_folder: Callable[[str], Path]) -> Callable[..., Resident]:
    """``resident("llama", "lora", "prompt")``: a fresh resident base with these variants on it."""

    def make(kind: str, *variants: str) -> Resident:
        base = base_folder(kind)
        made = Resident.load(base)
        for variant in variants:
            folder = adapter_of(base, kind, variant)
            assert folder is not None
            made.attach(variant, folder, verify="lock")
        return made

    return make


def answer(resident: Resident, name: str, prompt: list[int]) -> tuple[list[int], torch.Tensor]:
    with resident.ready([name], [prompt]) as ready:
        tokens, logits = ask(ready.model, ready.inputs, ready.prompt_length)
    return tokens[0, -NEW_TOKENS:].tolist(), logits[0]


def test_a_variant_that_is_replaced_is_the_new_one_at_once_and_a_pass_in_flight_keeps_the_old(resident, base_folder):
    made = resident("llama", "lora", "ia3")
    base = str(base_folder("llama"))
    with made.ready(["lora", "ia3"], [PROMPTS[0], PROMPTS[1]]) as ready:
        made.attach("lora", adapter_of(base_folder("llama"), "llama", "dora"), verify="lock")
        made.detach("ia3")
        _, logits = ask(ready.model, ready.inputs, ready.prompt_length)
    assert off_by(logits[0], alone(base, "llama", "lora", tuple(PROMPTS[0]))[1]) < TOLERANCE
    assert off_by(logits[1], alone(base, "llama", "ia3", tuple(PROMPTS[1]))[1]) < TOLERANCE
    assert off_by(answer(made, "lora", PROMPTS[0])[1], alone(base, "llama", "dora", tuple(PROMPTS[0]))[1]) < TOLERANCE
    assert set(made.attached) == {"lora"}
    with pytest.raises(ServingError, match="no variant 'ia3'"):
        made.group_of("ia3")


def test_an_attach_that_fails_leaves_everything_as_it_was(resident, tmp_path):
    made = resident("llama", "lora")
    before = dict(made.attached)
    with pytest.raises(AdapterError):
        made.attach("lora", tmp_path / "nothing")
    assert dict(made.attached) == before
    assert made.prove_base().verdict == "proved"


def test_an_adapter_of_another_base_is_refused(resident, base_folder):
    made = resident("gpt2")
    with pytest.raises(MismatchError):
        made.attach("lora", adapter_of(base_folder("llama"), "llama", "lora"), verify="lock")
    with pytest.raises(MismatchError, match="LlamaForCausalLM"):
        made.attach("full", adapter_of(base_folder("llama"), "llama", "full"), verify="lock")
    assert made.attached == {}


@pytest.mark.parametrize("name", ["base", "mixed", " "])
def test_a_variant_cannot_take_a_name_that_means_something_else(resident, base_folder, name):
    made = resident("llama")
    with pytest.raises(ServingError, match="cannot be called"):
        made.attach(name, adapter_of(base_folder("llama"), "llama", "lora"))


def test_rows_that_must_not_share_a_pass_are_refused(resident):
    made = resident("llama", "lora", "full")
    assert made.group_of("base") != made.group_of("lora") != made.group_of("full") != made.group_of("base")
    with pytest.raises(ServingError, match="cannot share a pass"), made.ready(["lora", "full"], PROMPTS[:2]):
        pass
    with pytest.raises(ServingError, match="cannot share a pass"), made.ready(["lora", "base"], PROMPTS[:2]):
        pass


@pytest.mark.parametrize(("names", "prompts"), [([], []), (["base"], [[]]), (["base"], [[1], [2]])])
def test_a_batch_needs_a_name_and_a_token_for_each_row(resident, names, prompts):
    with pytest.raises(ServingError, match="each row needs"), resident("llama").ready(names, prompts):
        pass


def test_a_choice_that_is_misspelt_is_refused_with_the_choices(resident, base_folder):
    folder = adapter_of(base_folder("llama"), "llama", "lora")
    with pytest.raises(ServingError, match="merge must be one of never, always, not 'yes'"):
        resident("llama").attach("lora", folder, merge="yes")


def test_a_classifier_is_no_base_to_be_asked(tmp_path):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "classifier")
    with pytest.raises(ServingError, match="does not generate text"):
        Resident.load(tmp_path / "classifier")


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_threads_that_ask_different_variants_at_once_do_not_see_each_other(resident, base_folder, kind):
    made = resident(kind, *NAMES)
    mixed = [name for name in NAMES if made.attached[name].batching == "mixed"]
    assert len(mixed) == 5
    wrong: list[str] = []

    def work(names: list[str]) -> None:
        prompts = [PROMPTS[number % 3] for number in range(len(names))]
        for _ in range(3):
            with made.ready(names, prompts) as ready:
                _, logits = ask(ready.model, ready.inputs, ready.prompt_length)
            for row, (name, prompt) in enumerate(zip(names, prompts, strict=True)):
                expected = alone(str(base_folder(kind)), kind, name, tuple(prompt))[1]
                if not off_by(logits[row], expected) < TOLERANCE:
                    wrong.append(name)

    for name in (*NAMES, "base"):  # the references, before the threads start
        for prompt in PROMPTS:
            alone(str(base_folder(kind)), kind, name, tuple(prompt))
    batches = [mixed, mixed[::-1], ["prompt"], ["prefix"], ["full"], ["base"], ["lora", "lora"]]
    threads = [threading.Thread(target=work, args=(names,)) for names in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert made.prove_base().verdict == "proved"


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_beam_search_over_rows_of_several_variants_is_that_of_each_alone(resident, base_folder, kind):
    names = ["lora", "prompt", "prefix", "ia3"]
    made = resident(kind, *names)
    prompts = [PROMPTS[number % 3] for number in range(len(names))]
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    with torch.inference_mode(), made.ready(names, prompts, beams=3) as ready:
        found = ready.model.generate(**ready.inputs, **settings)
    for row, (name, prompt) in enumerate(zip(names, prompts, strict=True)):
        ids = torch.tensor([prompt])
        tuned = load_adapter(adapter_of(base_folder(kind), kind, name), base=base_folder(kind))
        expected = tuned.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
        assert found[row, -4:].tolist() == expected[0, -4:].tolist(), name


def test_a_model_that_counts_positions_past_the_padding_gets_rows_of_one_length(tmp_path):
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=96, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=48, init_std=0.3,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=1, pad_token_id=0, forced_eos_token_id=None,
    )  # fmt: skip
    BartForCausalLM(config).save_pretrained(tmp_path / "decoder")
    made = Resident.load(tmp_path / "decoder")
    assert made.passes(["base"] * 3, [[5, 6], [7, 8, 9], [11, 12]]) == [[0, 2], [1]]
    with pytest.raises(ServingError, match="cannot share a pass"), made.ready(["base"] * 2, [[5, 6], [7, 8, 9]]):
        pass
    plain = BartForCausalLM.from_pretrained(tmp_path / "decoder").eval()
    with made.ready(["base"] * 2, [[5, 6], [11, 12]]) as ready:
        tokens, _ = ask(ready.model, ready.inputs, ready.prompt_length)
    for row, prompt in enumerate([[5, 6], [11, 12]]):
        assert tokens[row].tolist() == ask_plain(plain, prompt)[0]


def test_a_model_that_mixes_up_the_rows_of_a_batch_gets_one_row_a_pass(tmp_path):
    torch.manual_seed(0)
    config = RwkvConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, intermediate_size=64,
        bos_token_id=0, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    shake(RwkvForCausalLM(config), 3).save_pretrained(tmp_path / "rwkv")
    made = Resident.load(tmp_path / "rwkv")
    assert made.passes(["base"] * 2, [[5, 6], [11, 12]]) == [[0], [1]]
    with pytest.raises(ServingError, match="cannot share a pass"), made.ready(["base"] * 2, [[5, 6], [11, 12]]):
        pass


def test_a_variant_says_how_far_its_answers_are_from_its_authors(make_shop, tmp_path):
    shop = make_shop("llama")
    made = Resident.load(shop.base)
    same = made.attach("lora", shop.adapters["lora"]).probe
    assert same is not None
    assert same.verdict == "same"
    changed = shutil.copytree(shop.adapters["lora"], tmp_path / "changed")
    lock = json.loads((changed / "hfplug_lock.json").read_text())
    lock["probe"]["inputs"][0]["values"][0][0] += 10
    (changed / "hfplug_lock.json").write_text(json.dumps(lock))
    other = made.attach("other", changed).probe  # it is attached: whoever shows it has to say so
    assert other is not None
    assert other.verdict == "different"
    assert made.attach("unasked", changed, verify="lock").probe is None


def test_an_adapter_whose_weights_were_changed_since_its_export_is_refused(make_shop, tmp_path):
    shop = make_shop("llama")
    changed = shutil.copytree(shop.adapters["lora"], tmp_path / "changed")
    weights = changed / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(AdapterError, match="not the file that was exported"):
        Resident.load(shop.base).attach("lora", changed)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_rows_of_several_variants_share_a_pass_in_bfloat16_too(base_folder, kind):
    base = base_folder(kind)
    made = Resident.load(base, dtype="bfloat16")
    names = ["lora", "prompt", "layer_norm"]
    for name in names:
        assert made.attach(name, adapter_of(base, kind, name), verify="lock").batching == "mixed"
    with made.ready(names, PROMPTS) as ready:
        _, logits = ask(ready.model, ready.inputs, ready.prompt_length)
    for row, (name, prompt) in enumerate(zip(names, PROMPTS, strict=True)):
        _, expected = ask_plain(load_adapter(adapter_of(base, kind, name), base=base, dtype="bfloat16"), prompt)
        assert off_by(logits[row, 0].float(), expected[0].float()) < 0.1


def save_tuned(base: Path, config: Any, folder: Path) -> Path:
    torch.manual_seed(1)
    shake(get_peft_model(load_plain(base), config), 5, 0.2).save_pretrained(folder)
    return folder


def test_a_method_whose_answers_depend_on_the_other_rows_gets_one_row_a_pass(base_folder, tmp_path):
    # Lily's router looks at the whole batch.
    base = base_folder("llama")
    config = LilyConfig(task_type="CAUSAL_LM", r=2, target_modules=["down_proj"])
    made = Resident.load(base)
    variant = made.attach("lily", save_tuned(base, config, tmp_path / "lily"), verify="lock")
    assert variant.batching == "alone"
    assert made.passes(["lily"] * 3, PROMPTS) == [[0], [1], [2]]
    with pytest.raises(ServingError, match="cannot share a pass"), made.ready(["lily"] * 2, PROMPTS[:2]):
        pass
    fresh = load_adapter(tmp_path / "lily", base=base)
    for prompt in PROMPTS:
        tokens, logits = answer(made, "lily", prompt)
        expected_tokens, expected = ask_plain(fresh, prompt)
        assert off_by(logits, expected) < TOLERANCE
        assert tokens == expected_tokens


def test_a_method_that_changes_whole_attention_layers_does_not_take_the_batch_from_others(base_folder, tmp_path):
    base = base_folder("llama")
    config = AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=2)
    made = Resident.load(base)
    whole = made.attach("attention", save_tuned(base, config, tmp_path / "attention"), verify="lock")
    part = made.attach("lora", adapter_of(base, "llama", "lora"), verify="lock")
    assert (whole.batching, part.batching) == ("alone", "mixed")
    assert "cannot be cut by rows" in whole.batching_reason
    fresh = load_adapter(tmp_path / "attention", base=base)
    with made.ready(["attention"] * 3, PROMPTS) as ready:
        _, logits = ask(ready.model, ready.inputs, ready.prompt_length)
    for row, prompt in enumerate(PROMPTS):
        assert off_by(logits[row], ask_plain(fresh, prompt)[1]) < TOLERANCE


def test_a_variant_that_changes_a_whole_block_shares_a_pass_with_one_that_changes_a_part_of_it(base_folder, tmp_path):
    base = base_folder("llama")
    whole = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], modules_to_save=["mlp"])
    names = {"part": LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["down_proj"]), "whole": whole}
    made = Resident.load(base)
    for name, config in names.items():
        assert made.attach(name, save_tuned(base, config, tmp_path / name), verify="lock").batching == "mixed"
    rows = ["whole", "part", "whole"]
    with made.ready(rows, PROMPTS) as ready:
        _, logits = ask(ready.model, ready.inputs, ready.prompt_length)
    for row, (name, prompt) in enumerate(zip(rows, PROMPTS, strict=True)):
        expected = ask_plain(load_adapter(tmp_path / name, base=base), prompt)[1]
        assert off_by(logits[row], expected) < TOLERANCE


def test_an_adapter_that_needs_more_than_a_prompt_is_refused_with_words(base_folder, tmp_path):
    base = base_folder("llama")
    config = PolyConfig(task_type="CAUSAL_LM", r=2, n_tasks=2, n_skills=2, target_modules=["q_proj"])
    made = Resident.load(base)
    with pytest.raises(ServingError, match="poly adapter cannot be asked: task_ids"):
        made.attach("poly", save_tuned(base, config, tmp_path / "poly"), verify="lock")
    assert made.prove_base().verdict == "proved"


def test_an_adapter_that_grows_the_vocabulary_does_not_grow_the_bases(tmp_path):
    base = save_base("llama", tmp_path / "llama")
    model = load_plain(base)
    model.resize_token_embeddings(100)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=["q_proj"],
        r=2,
        trainable_token_indices={"embed_tokens": [96, 97, 98, 99]},
    )
    shake(get_peft_model(model, config), 5).save_pretrained(tmp_path / "grown", save_embedding_layers=False)
    made = Resident.load(base)
    variant = made.attach("grown", tmp_path / "grown", verify="lock")
    assert made.model.get_input_embeddings().weight.shape[0] == 96
    assert made.prove_base().verdict == "proved"
    prompt = [5, 97, 40]
    expected = load_adapter(tmp_path / "grown", base=base)
    ids = torch.tensor([prompt])
    _, logits = ask(expected, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert off_by(answer(made, "grown", prompt)[1], logits[0]) < TOLERANCE
    assert variant.batching_reason


def test_a_second_base_of_another_seed_gives_other_answers(tmp_path):
    # So that the comparisons above could fail.
    base = save_base("llama", tmp_path / "llama")
    one = make_adapter(base, "llama", "lora", tmp_path / "lora")
    made = Resident.load(base)
    made.attach("lora", one, verify="lock")
    assert off_by(answer(made, "lora", PROMPTS[0])[1], answer(made, "base", PROMPTS[0])[1]) > 100 * TOLERANCE
