"""A full model's difference to its base becomes a plain PEFT LoRA, and what it loses is said."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

import hfplug
from hfplug.adapters.extract_layers import low_rank
from hfplug.cli.main import main
from hfplug.testing.tiny_models import tiny_model

AUTO = {
    "causal": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
    "classification": AutoModelForSequenceClassification,
}
SHAPES = {
    "t5": "seq2seq",
    "bart": "seq2seq",
    "llama": "causal",
    "gpt2": "causal",
    "bert": "classification",
}


class Pair:
    """A base and a full model, tuned by a change of rank 2 of each matrix and of whatever is named."""

    def __init__(self, folder: Path, model_type: str, also: str = "", bare: str = "no") -> None:
        self.base, self.full, self.out = folder / "base", folder / "full", folder / "out"
        self.auto = AUTO[SHAPES[model_type]]
        self.task = SHAPES[model_type]
        model: Any = tiny_model(model_type, self.task)
        (model.base_model if bare == "yes" else model).save_pretrained(self.base)
        tied = {
            id(p) for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m for p in m.parameters()
        }
        torch.manual_seed(1)
        with torch.no_grad():
            for name, one in model.named_parameters():
                owner = model.get_submodule(name.rpartition(".")[0])
                linear = type(owner).__name__ in ("Linear", "Conv1D")
                if one.ndim == 2 and linear and id(one) not in tied and "classifier" not in name:
                    one.add_(0.3 * torch.randn(one.shape[0], 2) @ torch.randn(2, one.shape[1]))
                elif (also and also in name) or "classifier" in name:
                    one.add_(0.3 * torch.randn_like(one))
        model.save_pretrained(self.full)

    def logits(self, model: Any) -> torch.Tensor:
        ids = torch.tensor([[3, 9, 27, 50, 11, 2]])
        more = {"decoder_input_ids": ids[:, :4]} if self.task == "seq2seq" else {}
        with torch.no_grad():
            return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits

    def plain(self) -> Any:
        """The adapter on its base in plain PEFT."""
        return PeftModel.from_pretrained(self.auto.from_pretrained(self.base), self.out)


@pytest.mark.parametrize("model_type", SHAPES)
def test_a_change_of_low_rank_comes_out_whole_and_opens_in_plain_peft(tmp_path, model_type):
    pair = Pair(tmp_path, model_type)
    made = hfplug.extract_adapter(pair.full, pair.out, base=pair.base, rank=2)
    assert made.kept > 0.9999 and made.lost == {} and all(one["kept"] > 0.9999 for one in made.layers.values())
    assert sum(one["share"] for one in made.layers.values()) <= 1.0001
    assert made.difference < 1e-3 < made.base_difference
    full, found = pair.logits(pair.auto.from_pretrained(pair.full)), pair.logits(pair.plain())
    assert torch.allclose(found, full, atol=1e-4 * full.abs().max().item() + 1e-6)
    assert hfplug.verify_adapter(pair.out).verdict == "same"
    assert (
        made.adapter.record.method == "lora"
        and made.adapter.weight_bytes < (pair.full / "model.safetensors").stat().st_size
    )
    back = hfplug.merge_adapter(pair.out, tmp_path / "merged")
    assert back.way == "shards"
    before, after = (load_file(folder / "model.safetensors") for folder in (pair.full, tmp_path / "merged"))
    assert all(torch.allclose(after[name], before[name], atol=1e-4) for name in before)


def test_a_smaller_rank_keeps_the_share_that_the_singular_values_say(tmp_path):
    pair = Pair(tmp_path, "llama")
    made = hfplug.extract_adapter(pair.full, pair.out, base=pair.base, rank=1, check="off")
    name = "model.layers.0.self_attn.q_proj"
    new, old = (load_file(folder / "model.safetensors")[f"{name}.weight"] for folder in (pair.full, pair.base))
    energies = torch.linalg.svdvals((new - old).double()).square()
    assert made.layers[name]["kept"] == pytest.approx(float(energies[0] / energies.sum()), abs=1e-4)
    assert 0.4 < made.kept < 0.99
    report = json.loads((pair.out / "hfplug_extract.json").read_text())
    assert report["layers"][name]["kept"] == made.layers[name]["kept"] and report["base"]["name"] == "base"
    card = (pair.out / "README.md").read_text()
    assert f"keeps {100 * made.kept:.1f} % of the difference" in card and str(tmp_path) not in card
    assert made.adapter.lock is None and made.difference is None


def test_a_rank_above_a_layers_size_is_cut_to_it_with_a_word(tmp_path):
    pair = Pair(tmp_path, "llama")
    made = hfplug.extract_adapter(pair.full, pair.out, base=pair.base, rank=1000)
    least = {
        name: min(pair.auto.from_pretrained(pair.base).get_parameter(f"{name}.weight").shape) for name in made.layers
    }
    assert {name: one["rank"] for name, one in made.layers.items()} == least
    assert "smaller than the rank" in (pair.out / "README.md").read_text() and made.difference < 1e-3


@pytest.mark.parametrize("others", ["lost", "saved"])
def test_norms_are_lost_with_their_share_or_saved_whole(tmp_path, others):
    pair = Pair(tmp_path, "llama", also="norm")
    made = hfplug.extract_adapter(pair.full, pair.out, base=pair.base, rank=2, others=others)
    if others == "lost":
        assert "model.norm.weight" in made.lost and made.saved == () and made.difference > 1e-3
        assert made.kept + sum(made.lost.values()) == pytest.approx(1, abs=1e-3)
        assert f"{len(made.lost)} tensors with" in (pair.out / "README.md").read_text()
    else:
        assert made.lost == {} and "model.norm" in made.saved and made.difference < 1e-3
        full = pair.logits(pair.auto.from_pretrained(pair.full))
        assert torch.allclose(pair.logits(pair.plain()), full, atol=1e-4 * full.abs().max().item())


def test_biases_and_tied_embeddings_are_said_to_be_lost(tmp_path):
    pair = Pair(tmp_path, "gpt2", also="bias")
    made = hfplug.extract_adapter(pair.full, pair.out, base=pair.base, rank=2, check="off")
    assert "transformer.h.0.attn.c_attn.bias" in made.lost
    (tmp_path / "tied").mkdir()
    pair = Pair(tmp_path / "tied", "gpt2", also="wte")
    made = hfplug.extract_adapter(pair.full, pair.out, base=pair.base, rank=2, others="saved", check="off")
    assert "transformer.wte.weight" in made.lost


def test_a_head_that_the_base_lacks_is_saved(tmp_path):
    pair = Pair(tmp_path, "bert", bare="yes")
    made = hfplug.extract_adapter(pair.full, pair.out, base=pair.base, rank=2)
    assert "classifier" in made.saved and made.base_difference is None and made.difference < 1e-3
    head = load_file(pair.out / "adapter_model.safetensors")["base_model.model.classifier.weight"]
    assert torch.equal(head, load_file(pair.full / "model.safetensors")["classifier.weight"])


def test_a_large_matrix_is_decomposed_by_projection_and_the_share_is_that_of_the_exact_one():
    torch.manual_seed(0)
    matrix = torch.randn(1500, 40) @ torch.randn(40, 1200) + 0.5 * torch.randn(1500, 1200)
    a, b, kept = low_rank(matrix, 16)
    energies = torch.linalg.svdvals(matrix).double().square()
    assert (a.shape, b.shape) == ((16, 1200), (1500, 16))
    assert kept == pytest.approx(float(energies[:16].sum() / energies.sum()), abs=1e-4)


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["FULL", "--base", "BASE", "--rank", "0"], "rank must be a whole number of 1 or more"),
        (["FULL", "--base", "FULL"], "nothing to extract"),
        (["FULL", "--base", "WIDE"], "not of the base's shape"),
        (["FULL", "--base", "MORE"], "another vocabulary"),
        (["FULL", "--base", "OTHER"], "of the type llama, the base of the type gpt2"),
        (["FULL", "--base", "FOUR"], "stored quantised"),
        (["FULL", "--base", "nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_what_cannot_be_extracted_is_one_sentence_and_leaves_nothing(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pair = Pair(tmp_path, "llama")
    base = AutoModelForCausalLM.from_pretrained(pair.base)
    wide = type(base.config)(**{**base.config.to_dict(), "intermediate_size": 48})
    type(base)(wide).save_pretrained(tmp_path / "wide")
    tiny_model("gpt2", "causal").save_pretrained(tmp_path / "other")
    base.save_pretrained(tmp_path / "four")
    config = json.loads((tmp_path / "four" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "four" / "config.json").write_text(json.dumps(config))
    base.resize_token_embeddings(base.config.vocab_size + 3)
    base.save_pretrained(tmp_path / "more")
    before = sorted(path.name for path in tmp_path.iterdir())
    named = {name.upper(): str(tmp_path / name) for name in before}
    capsys.readouterr()  # bars of save_pretrained
    assert main(["extract", *(named.get(word, word) for word in words), "--out", str(pair.out)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_adapter_a_taken_folder_and_one_inside_the_base_are_refused(tmp_path):
    pair = Pair(tmp_path, "llama")
    hfplug.extract_adapter(pair.full, pair.out, base=pair.base, rank=2, check="off")
    with pytest.raises(hfplug.AdapterError, match="nothing is overwritten"):
        hfplug.extract_adapter(pair.full, pair.out, base=pair.base)
    with pytest.raises(hfplug.AdapterError, match="which is only read"):
        hfplug.extract_adapter(pair.full, pair.base / "inside", base=pair.base)
    with pytest.raises(hfplug.AdapterError, match="holds an adapter, not a full model"):
        hfplug.extract_adapter(pair.out, tmp_path / "again", base=pair.base)


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(tmp_path):
    pair = Pair(tmp_path, "llama")
    words = [
        sys.executable,
        "-m",
        "hfplug",
        "extract",
        str(pair.full),
        "--base",
        str(pair.base),
        "--out",
        str(pair.out),
    ]
    limit = (4000, 4000)
    done = subprocess.run(
        words, capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    assert done.returncode == 2 and "cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "full"]


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    from hfplug.adapters import extract

    pair = Pair(tmp_path, "llama")

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(extract, "render_card", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hfplug.extract_adapter(pair.full, pair.out, base=pair.base, check="off")
    assert sorted(os.listdir(tmp_path)) == ["base", "full"]


def test_the_command_says_what_each_layer_keeps(tmp_path, capsys):
    pair = Pair(tmp_path, "llama", also="norm")
    words = ["extract", str(pair.full), "--base", str(pair.base), "--rank", "1"]
    assert main([*words, "--out", str(pair.out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"Wrote {pair.out} (") and "% of the difference to the base" in said
    assert "self_attn.q_proj" in said and "Checked: its logits are at most" in said
    assert main([*words, "--out", str(tmp_path / "two"), "--json", "--check", "off"]) == 0
    assert json.loads(capsys.readouterr().out)["rank"] == 1
