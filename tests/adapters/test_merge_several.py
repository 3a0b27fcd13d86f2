"""Several adapters of one base become one model, by the mathematics that PEFT has for it, whatever made them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LNTuningConfig, LoraConfig, PeftModel, get_peft_model
from peft.utils import merge_utils
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import hfplug
from hfplug.adapters.merge import merge_adapter, merge_adapters

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=False, **SIZES))


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=64))


def bert() -> Any:
    return BertForSequenceClassification(BertConfig(vocab_size=64, num_labels=3, **SIZES))


def lora(*targets: str, task_type: str = "CAUSAL_LM", **more: Any) -> LoraConfig:
    return LoraConfig(task_type=task_type, target_modules=list(targets), **{"r": 4, **more})


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., list[Path]]:
    """``make(configs, model)``: a base in ``base`` and an adapter for each configuration, made with PEFT alone."""

    def made(*configs: Any, model: Callable[[], Any] = llama) -> list[Path]:
        torch.manual_seed(0)
        base = model().eval()
        base.save_pretrained(tmp_path / "base", max_shard_size="20kB")
        folders = []
        for number, config in enumerate(configs):
            plain = type(base).from_pretrained(tmp_path / "base")
            tuned = get_peft_model(plain, copy.deepcopy(config))
            torch.manual_seed(number + 1)
            with torch.no_grad():
                for parameter in tuned.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.2 * torch.randn_like(parameter))
            folders.append(tmp_path / f"adapter-{number}")
            tuned.save_pretrained(folders[-1])
        return folders

    return made


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: one for file in folder.glob("*.safetensors") for name, one in load_file(file).items()}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([[3, 9, 27, 50, 11, 2]])).logits


def differences(folders: list[Path], tmp_path: Path, name: str) -> list[torch.Tensor]:
    """What each adapter alone does to one weight, by PEFT."""
    found = []
    for folder in folders:
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        before = plain.get_parameter(name).detach().clone()
        found.append(PeftModel.from_pretrained(plain, folder).merge_and_unload().get_parameter(name) - before)
    return found


@pytest.mark.parametrize("model", [llama, gpt2])
def test_weighted_loras_answer_as_pefts_own_weighted_adapter(tmp_path, make, model):
    targets = ("q_proj", "v_proj") if model is llama else ("c_attn",)
    turned = {"fan_in_fan_out": model is gpt2}
    folders = make(lora(*targets, **turned), lora(targets[0], r=2, lora_alpha=16, **turned), model=model)
    merged = merge_adapters(folders, tmp_path / "out", weights=[0.7, -0.4])
    assert (merged.way, merged.difference.verdict, merged.author) == ("shards", "same", None)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), folders[0], "a")
    plain.load_adapter(folders[1], "b")
    plain.add_weighted_adapter(["a", "b"], [0.7, -0.4], "both", combination_type="cat")
    plain.set_adapter("both")
    before = logits(plain)
    after = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    assert torch.allclose(after, before, atol=2e-5 * before.abs().max().item())


@pytest.mark.parametrize("kind", ["magnitude_prune", "ties", "dare_linear", "dare_ties"])
def test_differences_are_combined_by_pefts_functions_on_whole_matrices(tmp_path, make, kind):
    folders = make(lora("q_proj"), lora("q_proj"))
    merged = merge_adapters(folders, tmp_path / "out", combination=kind, density=0.5, weights=[0.6, 0.4], seed=3)
    assert merged.difference.verdict == "same"
    name = "model.layers.0.self_attn.q_proj.weight"
    found = weights(tmp_path / "out")[name] - weights(tmp_path / "base")[name]
    each = differences(folders, tmp_path, name)
    if kind.startswith("dare"):  # drawn: what is left of each difference was doubled
        alone = merge_adapters(folders[:1], tmp_path / "one", combination="dare_linear", density=0.5, weights=[1.0])
        assert alone.difference.verdict == "same"
        left = weights(tmp_path / "one")[name] - weights(tmp_path / "base")[name]
        kept = left.abs() > 1e-6
        assert 0.3 < kept.float().mean() < 0.7
        assert torch.allclose(left[kept], 2 * each[0][kept], atol=1e-5)
    else:
        expected = getattr(merge_utils, kind)(each, torch.tensor([0.6, 0.4]), 0.5)
        assert torch.allclose(found, expected, atol=1e-6)


def test_a_seed_gives_the_same_draws_again_and_another_seed_others(tmp_path, make):
    folders = make(lora("q_proj"), lora("v_proj"))
    made = [
        merge_adapters(folders, tmp_path / f"out-{n}", combination="dare_linear", density=0.5, seed=seed, check="off")
        for n, seed in enumerate([1, 1, 2])
    ]
    sums = [one.adapter.path for one in made]
    name = "model.layers.1.self_attn.v_proj.weight"
    first, again, other = (weights(folder)[name] for folder in sums)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_adapters_of_different_methods_are_combined(tmp_path, make):
    norms = LNTuningConfig(task_type="CAUSAL_LM", target_modules=["input_layernorm"])
    folders = make(lora("q_proj", use_dora=True), IA3Config(task_type="CAUSAL_LM"), norms)
    merged = merge_adapters(folders, tmp_path / "out", weights=[1, 1, 1])
    assert merged.difference.verdict == "same"
    base, found = weights(tmp_path / "base"), weights(tmp_path / "out")
    for name in ("self_attn.q_proj", "self_attn.k_proj", "input_layernorm"):
        name = f"model.layers.0.{name}.weight"
        changes = differences(folders, tmp_path, name)
        assert torch.allclose(found[name] - base[name], sum(changes), atol=1e-6)
    assert merged.adapter.record.method == "dora+ia3+ln_tuning"  # hfplug's norms are all of them


def test_without_weights_the_mean_is_taken(tmp_path, make):
    folders = make(lora("q_proj"), lora("q_proj"))
    merged = merge_adapters(folders, tmp_path / "out")
    assert merged.combination.weights == (0.5, 0.5)
    name = "model.layers.0.self_attn.q_proj.weight"
    found = weights(tmp_path / "out")[name] - weights(tmp_path / "base")[name]
    assert torch.allclose(found, sum(differences(folders, tmp_path, name)) / 2, atol=1e-6)


def test_one_adapter_can_be_given_a_weight(tmp_path, make):
    (folder,) = make(lora("q_proj"))
    merge_adapters([folder], tmp_path / "out", weights=[0.25])
    name = "model.layers.0.self_attn.q_proj.weight"
    found = weights(tmp_path / "out")[name] - weights(tmp_path / "base")[name]
    assert torch.allclose(found, 0.25 * differences([folder], tmp_path, name)[0], atol=1e-6)


def test_report_and_card_say_how_it_was_made(tmp_path, make):
    folders = make(lora("q_proj"), IA3Config(task_type="CAUSAL_LM"))
    (tmp_path / "base" / "README.md").write_text("---\nlicense: mit\n---\n# A base\n")
    merged = merge_adapters(
        folders, tmp_path / "out", combination="ties", density=0.5, weights=[1, 0.5], names=["alice/a", "bob/b"]
    )
    report = json.loads((tmp_path / "out" / "hfplug_merge.json").read_text())
    assert report["combination"] == {"kind": "ties", "weights": [1.0, 0.5], "density": 0.5, "seed": 0}
    assert [(one["name"], one["method"]) for one in report["adapters"]] == [("alice/a", "lora"), ("bob/b", "ia3")]
    assert report["base"] == {"name": "base", "commit": None, "licence": "mit"}
    assert report["check"]["base_and_adapter"]["largest"] == merged.difference.largest
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card and "by ties, density 0.5" in card and "bob/b (ia3) with weight 0.5" in card
    assert str(tmp_path) not in card + json.dumps(report)


def test_a_head_that_one_adapter_brings_is_kept_and_two_are_refused(tmp_path, make):
    heads = lora("query", task_type="SEQ_CLS"), lora("value", task_type="SEQ_CLS")
    folders = make(*heads, model=bert)
    bare = BertForSequenceClassification.from_pretrained(tmp_path / "base").bert
    bare.save_pretrained(tmp_path / "bare")
    merged = merge_adapter(folders[0], tmp_path / "out", base=tmp_path / "bare")
    assert (merged.way, merged.difference.verdict) == ("shards", "same")
    head = weights(folders[0])["base_model.model.classifier.weight"]
    assert torch.equal(weights(tmp_path / "out")["classifier.weight"], head)
    with pytest.raises(hfplug.AdapterError, match="two heads cannot be added up"):
        merge_adapters(folders, tmp_path / "both", base=tmp_path / "bare")
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"weights": [1.0]}, "2 adapters and 1 weights"),
        ({"weights": [0, 0]}, "not all of them 0"),
        ({"weights": [1, float("nan")]}, "must be numbers"),
        ({"combination": "tiess"}, "Did you mean 'ties'"),
        ({"combination": "ties"}, "needs a density.*None"),
        ({"combination": "dare_linear", "density": 0}, "needs a density"),
        ({"combination": "ties", "density": 1.5}, "needs a density"),
        ({"density": 0.5}, "linear has no density"),
        ({"into": "dequantised"}, "not trained over a base in 4 bits"),
    ],
)
def test_a_combination_that_cannot_be_meant_is_refused(tmp_path, make, options, why):
    with pytest.raises(hfplug.AdapterError, match=why):
        merge_adapters(make(lora("q_proj"), lora("v_proj")), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_adapters_of_two_bases_are_refused(tmp_path, make):
    folders = make(lora("q_proj"), lora("v_proj"))
    config = json.loads((folders[1] / "adapter_config.json").read_text())
    (folders[1] / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "else/where"}))
    with pytest.raises(hfplug.MismatchError, match=r"not of one base.*else/where.*--base"):
        merge_adapters(folders, tmp_path / "out")
    assert merge_adapters(folders, tmp_path / "out", base=tmp_path / "base").difference.verdict == "same"


def test_the_same_adapter_twice_is_refused(tmp_path, make):
    (folder,) = make(lora("q_proj"))
    with pytest.raises(hfplug.AdapterError, match="passed twice"):
        merge_adapters([folder, folder], tmp_path / "out")


def test_tied_weights_of_several_are_refused_with_what_to_do(tmp_path, make):
    def tied() -> Any:
        return LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=True, **SIZES))

    folders = make(lora("q_proj"), lora("lm_head"), model=tied)
    with pytest.raises(hfplug.MethodError, match=r"lm_head.*is tied.*--base"):
        merge_adapters(folders, tmp_path / "out")
    # What the message says to do.
    merge_adapter(folders[0], tmp_path / "first")
    second = merge_adapter(folders[1], tmp_path / "both", base=tmp_path / "first")
    assert second.difference.verdict == "same"
