"""An export is what its engine takes, or is refused with what to do instead."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from service_parts import write_adapter, write_base
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import hfplug
from hfplug.adapters.lock import Lock
from hfplug.models.base import Base
from hfplug.serving.export import export_adapter
from hfplug.serving.vllm import MAX_LORA_RANKS, VllmFit, check_vllm, serve_command

COMMIT = "a" * 40


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: write_base(kind, folder / kind) for kind in ("llama", "t5", "gpt2")}


@pytest.fixture
def adapter(tmp_path: Path, bases: dict[str, Path]) -> Callable[..., Path]:
    """``adapter(kind, **settings)``: a LoRA that PEFT alone wrote; another configuration if one is given."""

    def make(kind: str = "llama", config: Any = None, **settings: Any) -> Path:
        auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
        targets = {"llama": ["q_proj", "v_proj"], "t5": ["q", "v"], "gpt2": ["c_attn"]}[kind]
        task = "SEQ_2_SEQ_LM" if kind == "t5" else "CAUSAL_LM"
        settings = {"r": 4, "target_modules": targets, "fan_in_fan_out": kind == "gpt2", **settings}
        model = get_peft_model(
            auto.from_pretrained(bases[kind]), copy.deepcopy(config) or LoraConfig(task_type=task, **settings)
        )
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
        return tmp_path / "adapter"

    return make


def logits(base: Path, folder: Path) -> torch.Tensor:
    """Of plain transformers and PEFT."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 12)[None]).logits


# ------------------------------------------------------------------------------------------------------- vLLM


def test_the_command_names_base_rank_name_and_folder(tmp_path, adapter, bases):
    exported = export_adapter(adapter(), "vllm", tmp_path / "out")
    assert exported.command == (
        f"vllm serve {bases['llama']} --enable-lora --max-lora-rank 8 --lora-modules out={tmp_path / 'out'}"
    )
    assert torch.equal(logits(bases["llama"], tmp_path / "out"), logits(bases["llama"], tmp_path / "adapter"))


@pytest.mark.parametrize(("rank", "limit"), [(1, 1), (2, 8), (8, 8), (9, 16), (17, 32), (300, 320), (512, 512)])
def test_the_smallest_limit_that_vllm_knows_and_that_holds_the_rank(tmp_path, adapter, rank, limit):
    exported = export_adapter(adapter(r=rank), "vllm", tmp_path / "out")
    assert f"--max-lora-rank {limit} " in exported.command and limit in MAX_LORA_RANKS


def test_a_rank_beyond_all_limits_is_refused(tmp_path, adapter):
    with pytest.raises(hfplug.MethodError, match="rank 513.*up to 512.*--for merged"):
        export_adapter(adapter(r=513), "vllm", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rslora", [False, True])
def test_layers_with_ranks_and_scales_of_their_own_get_one_and_answer_the_same(tmp_path, adapter, bases, rslora):
    patterns = {"rank_pattern": {"v_proj": 12}, "alpha_pattern": {"layers.0.self_attn.q_proj": 40}}
    source = adapter(use_rslora=rslora, **patterns)
    exported = export_adapter(source, "vllm", tmp_path / "out")
    assert "--max-lora-rank 16 " in exported.command and any("one rank, 12" in note for note in exported.notes)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"], config["alpha_pattern"]) == (12, {}, {})
    shapes = {
        tensor.shape[0]
        for name, tensor in load_file(tmp_path / "out" / "adapter_model.safetensors").items()
        if "lora_A" in name
    }
    assert shapes == {12}
    before, after = logits(bases["llama"], source), logits(bases["llama"], tmp_path / "out")
    assert torch.allclose(after, before, atol=1e-5 * before.abs().max().item())


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"use_dora": True}, "use_dora is set"),
        ({"bias": "lora_only"}, "trained biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"trainable_token_indices": [3, 4]}, "trainable_token_indices is set"),
        ({"init_lora_weights": "pissa"}, "changes the base when it is loaded"),
        ({"lora_bias": True}, "lora_bias is set"),
    ],
)
def test_what_vllm_does_not_take_is_refused_and_can_be_merged_instead(tmp_path, adapter, settings, why):
    with pytest.raises(hfplug.MethodError, match=why) as refused:
        export_adapter(adapter(**settings), "vllm", tmp_path / "out")
    assert "--for merged" in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "why"), [("t5", "encoder-decoder"), ("gpt2", "Conv1D")])
def test_a_base_that_vllm_cannot_put_a_lora_on_is_refused(tmp_path, adapter, kind, why):
    with pytest.raises(hfplug.MethodError, match=f"{why}.*--for merged"):
        export_adapter(adapter(kind), "vllm", tmp_path / "out")


def test_a_soft_prompt_is_refused_without_the_advice_to_merge_it(tmp_path, adapter):
    source = adapter(config=PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(hfplug.MethodError, match="PROMPT_TUNING, and vLLM takes LoRA only") as refused:
        export_adapter(source, "vllm", tmp_path / "out")
    assert "hfplug.Service" in str(refused.value) and "--for merged" not in str(refused.value)


def test_a_tensor_that_is_no_part_of_a_lora_is_refused(tmp_path, adapter):
    source = adapter()
    file = source / "adapter_model.safetensors"
    more = {"base_model.model.model.embed_tokens.weight": torch.zeros(4, 4)}
    save_file({**load_file(file), **more}, file, metadata={"format": "pt"})
    with pytest.raises(hfplug.MethodError, match=r"embed_tokens.weight' is no part of a LoRA"):
        export_adapter(source, "vllm", tmp_path / "out")


def test_a_base_whose_class_takes_no_lora_in_vllm_is_served_through_transformers(tmp_path, adapter, bases):
    source, file = adapter(), bases["llama"] / "config.json"
    before = file.read_text()
    try:
        file.write_text(json.dumps(json.loads(before) | {"architectures": ["StableLmForCausalLM"]}))
        exported = export_adapter(source, "vllm", tmp_path / "out")
    finally:
        file.write_text(before)
    assert "--model-impl transformers --enable-lora" in exported.command
    assert any("StableLmForCausalLM is not among" in note for note in exported.notes)


def test_the_commit_of_a_base_on_the_hub_is_in_the_command(tmp_path, adapter, bases):
    base = Base(name="owner/base", commit=COMMIT, config=AutoConfig.from_pretrained(bases["llama"]))
    fit = check_vllm(hfplug.AdapterDir.open(adapter()), base)
    assert fit == VllmFit(rank=4, max_lora_rank=8, backend="auto")
    command = serve_command(tmp_path / "it's here, see", base, fit, name="a")
    words = shlex.split(command)
    assert words[2:5] == ["owner/base", "--revision", COMMIT]
    assert json.loads(words[-1]) == {"name": "a", "path": str(tmp_path / "it's here, see")}


def test_over_four_bits_the_command_says_both_ways(tmp_path, adapter, bases):
    lock = Lock(base=str(bases["llama"]), quantization={"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"})
    hfplug.AdapterDir.write(tmp_path / "locked", source=adapter(), lock=lock)
    exported = export_adapter(tmp_path / "locked", "vllm", tmp_path / "out")
    assert "bitsandbytes" not in exported.command
    assert any("--quantization bitsandbytes" in note for note in exported.notes)


def test_a_tokenizer_of_its_own_goes_along_and_is_named(tmp_path, adapter, bases):
    source = adapter()
    tokenizer = AutoTokenizer.from_pretrained(bases["llama"])
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(source)
    exported = export_adapter(source, "vllm", tmp_path / "out", name="mine")
    assert f"--tokenizer {tmp_path / 'out'} " in exported.command and " mine=" in exported.command
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == len(tokenizer)


# ------------------------------------------------------------------------------------------------------- PEFT


def test_plain_peft_takes_the_folder_and_the_code_that_is_printed_runs(tmp_path, adapter, bases):
    source = adapter()
    (source / "training_args.bin").write_bytes(b"\x80never")
    exported = export_adapter(source, "peft", tmp_path / "out")
    names: dict[str, Any] = {}
    exec(exported.command, names)  # what a user is told to run
    with torch.no_grad():
        found = names["model"].eval()(input_ids=torch.arange(3, 12)[None]).logits
    assert torch.equal(found, logits(bases["llama"], source))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip


def test_no_place_of_this_machine_is_left_and_others_are_told_the_base(tmp_path, adapter, bases):
    lock = Lock(base=str(bases["llama"]), base_commit=COMMIT)
    hfplug.AdapterDir.write(tmp_path / "locked", source=adapter(), lock=lock)
    exported = export_adapter(tmp_path / "locked", "peft", tmp_path / "out", base="owner/base")
    config = PeftConfig.from_pretrained(str(tmp_path / "out"))
    assert (config.base_model_name_or_path, config.revision) == ("owner/base", COMMIT)
    text = "".join(path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix != ".safetensors")
    assert str(tmp_path) not in text and str(bases["llama"]) not in text and "load_from_hub" not in text
    assert f'from_pretrained("owner/base", revision="{COMMIT}")' in exported.command
    without = export_adapter(tmp_path / "locked", "peft", tmp_path / "local")
    assert PeftConfig.from_pretrained(str(tmp_path / "local")).base_model_name_or_path is None
    assert any("--base OWNER/NAME" in note for note in without.notes)


def test_any_method_of_peft_may_be_exported_for_peft(tmp_path, adapter, bases):
    source = adapter(config=PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    export_adapter(source, "peft", tmp_path / "out")
    assert torch.equal(logits(bases["llama"], tmp_path / "out"), logits(bases["llama"], source))


def test_the_weights_are_stored_in_the_format_that_is_asked_for(tmp_path, adapter):
    export_adapter(adapter(), "peft", tmp_path / "out", dtype="bfloat16")
    assert hfplug.AdapterDir.open(tmp_path / "out").weight_dtype == "bfloat16"
    with pytest.raises(hfplug.AdapterError, match="float16"):
        export_adapter(tmp_path / "adapter", "peft", tmp_path / "other", dtype="float16")


def test_a_kind_of_adapter_that_peft_does_not_have_is_refused(tmp_path, adapter):
    source = adapter()
    file = source / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"peft_type": "HFPLUG_BITFIT"}))
    with pytest.raises(
        hfplug.MethodError, match="PEFT itself has no adapters of type HFPLUG_BITFIT.*hfplug.load_adapter"
    ):
        export_adapter(source, "peft", tmp_path / "out")


# ----------------------------------------------------------------------------------------------------- merged


def test_a_merged_decoder_is_served_by_vllm_and_an_encoder_decoder_by_transformers(tmp_path, adapter):
    decoder = export_adapter(adapter(), "merged", tmp_path / "decoder")
    assert decoder.command == f"vllm serve {tmp_path / 'decoder'} --served-model-name decoder"
    assert decoder.merged is not None and decoder.merged.difference.verdict == "same"
    other = export_adapter(adapter("t5"), "merged", tmp_path / "t5", dtype="float32")
    names: dict[str, Any] = {}
    exec(other.command, names)
    assert type(names["model"]).__name__ == "T5ForConditionalGeneration"
    assert any("vLLM does not serve" in note for note in other.notes)


@pytest.mark.parametrize("method", [name for name in hfplug.method_names() if name != "full"])
def test_every_method_is_merged_and_answers_the_same_or_is_refused_with_what_to_do(tmp_path, bases, method):
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    folder = write_adapter(bases["gpt2"], method, tmp_path / "adapter")
    if hfplug.get_method(method).merging.startswith("no"):
        with pytest.raises(hfplug.MethodError, match="cannot be merged.*hfplug.Service"):
            export_adapter(folder, "merged", tmp_path / "out")
        assert not (tmp_path / "out").exists()
    else:
        merged = export_adapter(folder, "merged", tmp_path / "out").merged
        assert merged is not None and merged.difference.verdict == "same"
        assert merged.author is not None and (merged.author.verdict == "same" or method == "qlora")


# --------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("engine", ["vllm", "peft", "merged"])
def test_a_fully_tuned_model_needs_no_export(tmp_path, bases, engine):
    with pytest.raises(hfplug.MethodError, match=r"whole model already.*AutoModelForCausalLM.from_pretrained"):
        export_adapter(bases["llama"], engine, tmp_path / "out")


def test_an_engine_that_there_is_not(tmp_path, adapter):
    with pytest.raises(hfplug.AdapterError, match="no export for 'vlm'. Did you mean 'vllm'"):
        export_adapter(adapter(), "vlm", tmp_path / "out")


@pytest.mark.parametrize("engine", ["vllm", "peft", "merged"])
def test_a_folder_with_something_in_it_is_left_alone(tmp_path, adapter, engine):
    source = adapter()
    with pytest.raises(hfplug.AdapterError, match="nothing is overwritten"):
        export_adapter(source, engine, source)
    assert hfplug.AdapterDir.open(source).kind == "peft"


@pytest.mark.parametrize("engine", ["vllm", "merged"])
def test_an_adapter_that_names_no_base(tmp_path, adapter, engine):
    source = adapter()
    file = source / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": None}))
    with pytest.raises(hfplug.AdapterError, match="does not say which base"):
        export_adapter(source, engine, tmp_path / "out")


def test_weights_with_nan_are_not_exported(tmp_path, adapter):
    source = adapter()
    file = source / "adapter_model.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(file).items()}, file)
    for engine in ("vllm", "peft"):
        with pytest.raises(hfplug.AdapterError, match="NaN"):
            export_adapter(source, engine, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


# ------------------------------------------------------------------------------------------------ command line


def test_the_command_line_writes_prints_and_refuses(tmp_path, adapter, bases, capsys):
    from hfplug.cli.main import main

    source = adapter()
    assert main(["export", str(source), "--for", "merged", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"checked +the largest difference to the logits of base and adapter is \d", out)
    assert f"\n  vllm serve {tmp_path / 'out'} --served-model-name out\n" in out
    assert main(["export", str(source), "--for", "peft", "--out", str(tmp_path / "out")]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "adaptr"), "--for", "peft", "--out", str(tmp_path / "x")]) == 2
    assert "Did you mean 'adapter'?" in capsys.readouterr().err
    assert main(["export", str(source), "--for", "tgi", "--out", str(tmp_path / "x")]) == 2
    assert "invalid choice: 'tgi'" in capsys.readouterr().err
