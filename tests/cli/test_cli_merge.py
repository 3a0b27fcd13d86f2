"""``hfplug merge``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForSeq2SeqLM

from hfplug.cli.main import main


@pytest.fixture
def adapters(small_base: Path, tmp_path: Path) -> list[str]:
    """Two LoRAs of one base, and a soft prompt."""
    configs: list[Any] = [LoraConfig(target_modules=["q", "v"], r=2), LoraConfig(target_modules=["q"], r=4)]
    configs.append(PromptTuningConfig(num_virtual_tokens=2))
    folders = []
    for number, config in enumerate(configs):
        config.task_type = "SEQ_2_SEQ_LM"
        torch.manual_seed(number)
        tuned = get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(small_base), config)
        with torch.no_grad():
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        folders.append(str(tmp_path / f"adapter-{number}"))
        tuned.save_pretrained(folders[-1])
    return folders


def test_it_says_what_it_will_do_does_it_and_says_how_far_the_answers_are_off(adapters, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["merge", adapters[0], "--out", str(out), "--dtype", "bfloat16"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(
        "plan     adapter-0 (lora) into the unquantised base base; 6 tensors change; written in bf"
    )
    assert "tensor by tensor; then the answers are compared (needs" in said[0]
    assert said[1].startswith(f"Wrote {out} (")
    assert said[3].startswith("checked  the largest difference to the logits of base and adapter is ")
    assert f"  model = AutoModelForSeq2SeqLM.from_pretrained({json.dumps(str(out))})" in said
    assert AutoModelForSeq2SeqLM.from_pretrained(out).dtype == torch.bfloat16


def test_several_as_json(adapters, tmp_path, capsys):
    words = ["merge", *adapters[:2], "--out", str(tmp_path / "out"), "--weights", "0.7,0.3", "--json"]
    assert main([*words, "--combination", "ties", "--density", "0.5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["folder"] == str(tmp_path / "out") and found["way"] == "shards"
    assert found["combination"] == {"kind": "ties", "weights": [0.7, 0.3], "density": 0.5, "seed": 0}
    assert found["check"]["base_and_adapter"]["verdict"] == "same"


def test_a_dry_run_writes_nothing(adapters, tmp_path, capsys):
    assert main(["merge", *adapters[:2], "--out", str(tmp_path / "out"), "--check", "off", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "adapter-0 (lora), adapter-1 (lora) by linear, weights 0.5, 0.5 into" in said
    assert "the answers are not compared" in said
    assert main(["merge", adapters[0], "--out", str(tmp_path / "out"), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["way"], plan["files"], plan["changed"], plan["dtype"]) == ("shards", 1, 6, "float32")
    assert not (tmp_path / "out").exists()


def test_the_size_that_is_announced_is_the_size_that_is_written(adapters, tmp_path, capsys):
    for dtype in ("auto", "float16"):
        out = tmp_path / dtype
        words = ["merge", adapters[0], "--out", str(out), "--dtype", dtype, "--check", "off"]
        assert main([*words, "--dry-run", "--json"]) == 0
        size = json.loads(capsys.readouterr().out)["size"]
        assert main(words) == 0
        capsys.readouterr()
        assert 0 <= (out / "model.safetensors").stat().st_size - size < 20_000  # its header


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["PROMPT", "--out", "OUT"], "soft prompt is an input"),
        (["LORA", "--out", "LORA"], "nothing is overwritten"),
        (["LORA", "--out", "LORA/model"], "which is only read"),
        (["LORA", "--out", "BASE/model"], "which is only read"),
        (["BASE", "--out", "OUT"], "hfplug extract"),
        (["LORA", "--out", "OUT", "--weights", "a,b"], "numbers separated by commas"),
        (["LORA", "--out", "OUT", "--weights", "0.5,0.5"], "1 adapters and 2 weights"),
        (["LORA", "--out", "OUT", "--combination", "tie"], "Did you mean 'ties'"),
        (["LORA", "--out", "OUT", "--into", "dequantised"], "not trained over a base in 4 bits"),
        (["LORA", "--out", "OUT", "--base", "nowhere/at/all"], "nowhere/at/all"),
        (["nothing-here", "--out", "OUT"], "nothing-here"),
    ],
)
def test_what_cannot_be_merged_is_one_sentence_and_leaves_nothing(
    adapters, small_base, tmp_path, capsys, monkeypatch, words, said
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    named = {"PROMPT": adapters[2], "LORA": adapters[0], "BASE": str(small_base), "OUT": str(tmp_path / "out")}

    def filled(word: str) -> str:
        first, slash, rest = word.partition("/")
        return named.get(first, first) + slash + rest

    before = sorted(Path(small_base).iterdir())
    assert main(["merge", *map(filled, words)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter-0", "adapter-1", "adapter-2"]
    assert sorted(Path(small_base).iterdir()) == before
