"""A merged model answers as base and adapter did, on every shape of model, or it is not kept."""

from __future__ import annotations

import copy
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    TrainableTokensConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import hfplug
from hfplug.adapters.merge import Merged, merge_adapter
from hfplug.adapters.merge_check import compare_merged
from hfplug.adapters.probe import make_probe
from hfplug.demo.base import base_path
from hfplug.testing.tiny_models import tiny_model

CAUSAL, SEQ2SEQ, CLASSES = "CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS"
AUTO = {CAUSAL: AutoModelForCausalLM, SEQ2SEQ: AutoModelForSeq2SeqLM, CLASSES: AutoModelForSequenceClassification}


def _t5() -> Any:
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(vocab_size=64, decoder_start_token_id=0, **sizes))


def _bart() -> Any:
    layers = {f"{part}_{what}": 1 if what == "layers" else 2 for part in ("encoder", "decoder") for what in
              ("layers", "attention_heads")}  # fmt: skip
    sizes = {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 16, "max_position_embeddings": 64, **layers}
    return BartForConditionalGeneration(BartConfig(vocab_size=64, decoder_start_token_id=2, **sizes))


def _llama(tied: bool = False) -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=tied, **sizes))


def _gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=64))


def _bert() -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(vocab_size=64, num_labels=3, **sizes))


def lora(task_type: str, *targets: str, **more: Any) -> LoraConfig:
    return LoraConfig(task_type=task_type, r=4, target_modules=list(targets), **more)


EXPERTS = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
BY_FILE = {
    "t5": (_t5, lora(SEQ2SEQ, "q", "k", "v", "o", "wi", "wo")),
    "bart": (_bart, lora(SEQ2SEQ, "q_proj", "fc1")),
    "llama": (_llama, lora(CAUSAL, "q_proj", "down_proj")),
    "llama, tied": (lambda: _llama(tied=True), lora(CAUSAL, "q_proj")),
    "gpt2": (_gpt2, lora(CAUSAL, "c_attn", "c_proj", fan_in_fan_out=True)),
    "rsLoRA with patterns": (
        _llama,
        lora(CAUSAL, "q_proj", "v_proj", use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 32}),
    ),
    "rank above the layer's size": (_llama, LoraConfig(task_type=CAUSAL, r=40, target_modules=["q_proj"])),
    "embedding": (_llama, lora(CAUSAL, "embed_tokens")),
    "classifier": (_bert, lora(CLASSES, "query")),
    "trained head": (_llama, lora(CAUSAL, "q_proj", modules_to_save=["lm_head"])),
    "biases": (_bart, lora(SEQ2SEQ, "q_proj", bias="lora_only")),
    "DoRA": (_llama, lora(CAUSAL, "q_proj", use_dora=True)),
    "DoRA on gpt2": (_gpt2, lora(CAUSAL, "c_attn", use_dora=True, fan_in_fan_out=True)),
    "IA3": (_llama, IA3Config(task_type=CAUSAL)),
    "IA3 on t5": (_t5, IA3Config(task_type=SEQ2SEQ)),
    "IA3 on bart": (_bart, IA3Config(task_type=SEQ2SEQ)),
    "norms": (_llama, LNTuningConfig(task_type=CAUSAL, target_modules=["input_layernorm"])),
    "experts, stored stacked": (lambda: tiny_model("gpt_oss", "causal"), lora(CAUSAL, "q_proj", **EXPERTS)),
    "LoHa": (_llama, LoHaConfig(task_type=CAUSAL, r=2, target_modules=["q_proj"])),
    "LoKr": (_llama, LoKrConfig(task_type=CAUSAL, r=2, target_modules=["q_proj"])),
}
IN_MEMORY = {
    "experts, stored one by one": (lambda: tiny_model("mixtral", "causal"), lora(CAUSAL, "q_proj", **EXPERTS)),
    "tied head": (lambda: _llama(tied=True), lora(CAUSAL, "q_proj", "lm_head")),
    "tied embedding": (lambda: _llama(tied=True), lora(CAUSAL, "embed_tokens")),
    "trained head, tied": (lambda: _llama(tied=True), lora(CAUSAL, "q_proj", modules_to_save=["lm_head"])),
    "t5, tied head": (_t5, lora(SEQ2SEQ, "lm_head")),
    "PiSSA": (_llama, lora(CAUSAL, "q_proj", init_lora_weights="pissa")),
    "tokens": (
        lambda: _llama(tied=True),
        TrainableTokensConfig(task_type=CAUSAL, token_indices=[1, 2], target_modules=["embed_tokens"]),
    ),
}


class Tuned:
    """A base on disk and an adapter of it, made with PEFT alone."""

    def __init__(self, folder: Path, make: Callable[[], Any], config: Any, shard: str = "5GB") -> None:
        self.base, self.adapter, self.task_type = folder / "base", folder / "adapter", config.task_type
        torch.manual_seed(0)
        model = make().eval()
        model.save_pretrained(self.base, max_shard_size=shard)
        AutoTokenizer.from_pretrained(base_path()).save_pretrained(self.base)
        model.name_or_path = model.config._name_or_path = str(self.base)
        tuned = get_peft_model(model, copy.deepcopy(config))
        with torch.no_grad():
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    # A bias alone moves the answers of so small a model little.
                    parameter.add_((1.0 if parameter.ndim == 1 else 0.2) * torch.randn_like(parameter))
        tuned.save_pretrained(self.adapter, save_embedding_layers=False)

    def plain(self) -> Any:
        """Base and adapter in plain transformers and PEFT."""
        more = {"num_labels": 3} if self.task_type == CLASSES else {}
        return PeftModel.from_pretrained(AUTO[self.task_type].from_pretrained(self.base, **more), self.adapter).eval()

    def loaded(self, folder: Path) -> Any:
        return AUTO[self.task_type].from_pretrained(folder, dtype=torch.float32).eval()

    def logits(self, model: Any) -> torch.Tensor:
        ids = torch.tensor([[3, 9, 27, 50, 11, 2]])
        more = {"decoder_input_ids": ids[:, :4]} if self.task_type == SEQ2SEQ else {}
        with torch.no_grad():
            return model(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits


@pytest.fixture
def tuned(tmp_path: Path) -> Callable[..., Tuned]:
    def make(case: tuple[Callable[[], Any], Any] = BY_FILE["llama"], **more: Any) -> Tuned:
        return Tuned(tmp_path, *case, **more)

    return make


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------------------ the same answers


@pytest.mark.parametrize("case", BY_FILE)
def test_it_goes_into_the_bases_files_and_answers_as_before(tmp_path, tuned, case):
    made = tuned(BY_FILE[case])
    merged = merge_adapter(made.adapter, tmp_path / "out")
    assert (merged.way, merged.why_memory, merged.dtype, merged.difference.verdict) == (
        "shards",
        None,
        "float32",
        "same",
    )
    before, after = made.logits(made.plain()), made.logits(made.loaded(tmp_path / "out"))
    assert torch.allclose(after, before, atol=2e-5 * before.abs().max().item())
    # The adapter moves the answers by far more than the tolerance.
    moved = (after - made.logits(made.loaded(made.base))).abs().max()
    assert moved > 2e-4 * before.abs().max()


@pytest.mark.parametrize("case", IN_MEMORY)
def test_what_changes_tied_weights_or_the_base_is_merged_in_memory_and_answers_as_before(tmp_path, tuned, case):
    made = tuned(IN_MEMORY[case])
    merged = merge_adapter(made.adapter, tmp_path / "out")
    assert (merged.way, bool(merged.why_memory), merged.difference.verdict) == ("memory", True, "same")
    before, after = made.logits(made.plain()), made.logits(made.loaded(tmp_path / "out"))
    assert torch.allclose(after, before, atol=2e-5 * before.abs().max().item())


def test_every_tensor_that_no_lora_is_beside_keeps_its_bytes(tmp_path, tuned):
    made = tuned(shard="20kB")
    merge_adapter(made.adapter, tmp_path / "out")
    assert len(list(made.base.glob("model-*.safetensors"))) > 1
    changed = set()
    for file in sorted(made.base.glob("*.safetensors")):
        before, after = load_file(file), load_file(tmp_path / "out" / file.name)
        assert before.keys() == after.keys()
        changed |= {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        f"model.layers.{layer}.{name}.weight" for layer in (0, 1) for name in ("self_attn.q_proj", "mlp.down_proj")
    }
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index == json.loads((made.base / "model.safetensors.index.json").read_text())


def test_the_sum_is_rounded_once_in_a_base_of_16_bits(tmp_path, tuned):
    made = tuned()
    made.loaded(made.base).to(torch.bfloat16).save_pretrained(made.base)
    merged = merge_adapter(made.adapter, tmp_path / "out")
    assert merged.dtype == "bfloat16"
    name = "model.layers.0.self_attn.q_proj"
    base, adapter = (
        load_file(file) for file in (made.base / "model.safetensors", made.adapter / "adapter_model.safetensors")
    )
    a, b = (adapter[f"base_model.model.{name}.lora_{which}.weight"].double() for which in "AB")
    exact = base[f"{name}.weight"].double() + 8 / 4 * (b @ a)
    found = load_file(tmp_path / "out" / "model.safetensors")[f"{name}.weight"]
    assert torch.equal(found, exact.to(torch.bfloat16))


@pytest.mark.parametrize("case", ["llama", "IA3"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_is_written_in_the_format_that_is_asked_for(tmp_path, tuned, case, dtype):
    made = tuned({**BY_FILE, **IN_MEMORY}[case])
    assert merge_adapter(made.adapter, tmp_path / "out", dtype=dtype).dtype == dtype
    stored = {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (stored, config["dtype"]) == ({getattr(torch, dtype)}, dtype)


@pytest.mark.parametrize("into", ["unquantised", "dequantised"])
def test_an_adapter_over_four_bits_goes_into_full_weights(tmp_path, into):
    pytest.importorskip("bitsandbytes")
    _llama().save_pretrained(tmp_path / "base")
    model: Any = hfplug.build_model(tmp_path / "base", "qlora", target_modules=("q_proj", "v_proj"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    from hfplug.adapters.lock import make_lock
    from hfplug.adapters.probe import make_probe

    model.eval()
    model.save_pretrained(tmp_path / "checkpoint")
    lock = make_lock(model, base_name=str(tmp_path / "base"))
    lock = type(lock)(**{**vars(lock), "probe": make_probe(model)})
    hfplug.AdapterDir.write(
        tmp_path / "adapter", source=tmp_path / "checkpoint", lock=lock, record=hfplug.Record(method="qlora")
    )
    merged = merge_adapter(tmp_path / "adapter", tmp_path / "out", into=into)
    assert (merged.way, merged.into) == ("shards" if into == "unquantised" else "memory", into)
    assert merged.difference.verdict == "same"
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float32}
    embedding = "model.embed_tokens.weight"
    base, found = (load_file(folder / "model.safetensors") for folder in (tmp_path / "base", tmp_path / "out"))
    assert torch.equal(base[embedding], found[embedding])
    gate = "model.layers.0.mlp.gate_proj.weight"  # no LoRA is beside it
    assert torch.equal(base[gate], found[gate]) == (into == "unquantised")
    assert merged.author is not None and (merged.author.largest < 0.05 or into == "unquantised")
    if into == "unquantised":
        assert merged.other is None
    else:  # how far the four bits are from the base, on the answers
        assert merged.other.largest > 10 * merged.difference.largest
        assert f"{merged.other.largest:.2g}" in (tmp_path / "out" / "README.md").read_text()


# ------------------------------------------------------------------------------------------------- what lies there


def test_tokenizer_generation_settings_record_lock_and_card_go_along(tmp_path, tuned):
    made = tuned()
    (made.base / "generation_config.json").write_text('{"max_new_tokens": 7, "eos_token_id": 2}')
    merged: Merged = merge_adapter(made.adapter, tmp_path / "out")
    assert names(tmp_path / "out") == [
        "README.md", "config.json", "generation_config.json", "hfplug_lock.json", "hfplug_merge.json",
        "hfplug_record.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert made.loaded(tmp_path / "out").generation_config.max_new_tokens == 7
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "out", base_path())]
    assert tokenizers[0]("hello there") == tokenizers[1]("hello there")
    shown = f"{merged.difference.largest:.2g}"
    assert shown in (tmp_path / "out" / "README.md").read_text()
    assert any(shown in note for note in merged.adapter.record.notes)
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode & 0o777 == (
        tmp_path / "out" / "config.json"
    ).stat().st_mode & 0o777


def test_the_merged_folder_proves_itself_and_notices_a_change(tmp_path, tuned):
    made = tuned()
    merge_adapter(made.adapter, tmp_path / "out")
    assert hfplug.verify_adapter(tmp_path / "out").verdict == "same"
    file = tmp_path / "out" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(hfplug.AdapterError, match="not the file that was exported"):
        hfplug.load_adapter(tmp_path / "out")


def test_without_a_check_nothing_is_loaded_and_nothing_is_claimed(tmp_path, tuned):
    made = tuned()
    merged = merge_adapter(made.adapter, tmp_path / "out", check="off")
    assert (merged.difference, merged.author, merged.adapter.lock) == (None, None, None)
    assert "Checked" not in (tmp_path / "out" / "README.md").read_text()
    assert torch.allclose(made.logits(made.loaded(tmp_path / "out")), made.logits(made.plain()), atol=1e-4)


@pytest.mark.slow
def test_a_base_of_many_files_needs_the_memory_of_one_at_most(tmp_path):
    """Run in a process of its own, whose peak is compared with the files: their pages are mapped, and count."""
    config = LlamaConfig(
        vocab_size=256, hidden_size=1024, intermediate_size=4096, num_hidden_layers=6, num_attention_heads=8
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "base", max_shard_size="70MB")
    size = sum(file.stat().st_size for file in (tmp_path / "base").glob("*.safetensors"))
    model.name_or_path = model.config._name_or_path = str(tmp_path / "base")
    get_peft_model(model, lora(CAUSAL, "q_proj")).save_pretrained(tmp_path / "adapter")
    del model
    code = (
        "import sys, resource\n"
        "from hfplug.adapters.merge import merge_adapter\n"
        "import peft, transformers.models.llama.modeling_llama\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "merge_adapter(sys.argv[1], sys.argv[2], check='off')\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "adapter"), str(tmp_path / "out")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    files = [file.stat().st_size for file in (tmp_path / "out").glob("model-*.safetensors")]
    matrix = 4 * 1024 * 4096
    assert sum(files) == size > 400e6 and len(files) > 5
    assert grown < max(files) + 8 * matrix < 0.5 * size


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (PromptTuningConfig(task_type=CAUSAL, num_virtual_tokens=3), "soft prompt is an input"),
        (PrefixTuningConfig(task_type=CAUSAL, num_virtual_tokens=3), "cannot be merged"),
    ],
)
def test_a_soft_prompt_is_refused_with_what_to_do(tmp_path, tuned, config, why):
    made = tuned((_llama, config))
    with pytest.raises(hfplug.MethodError, match=why) as refused:
        merge_adapter(made.adapter, tmp_path / "out")
    assert "--for peft" in str(refused.value) and "lora" in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_fully_tuned_model_has_nothing_to_merge(tmp_path, tuned):
    with pytest.raises(hfplug.MethodError, match="nothing to merge"):
        merge_adapter(tuned().base, tmp_path / "out")


@pytest.mark.parametrize(
    ("option", "error", "why"),
    [
        ({"dtype": "int8"}, hfplug.AdapterError, "dtype must be one of"),
        ({"check": "yes"}, hfplug.AdapterError, "check must be one of"),
        ({"into": "nf4"}, hfplug.AdapterError, "into must be one of"),
        ({"into": "dequantised"}, hfplug.AdapterError, "not trained over a base in 4 bits"),
        ({"base": "/nowhere/base"}, hfplug.BaseModelError, "no such folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, tuned, option, error, why):
    with pytest.raises(error, match=why):
        merge_adapter(tuned().adapter, tmp_path / "out", **option)
    assert names(tmp_path) == ["adapter", "base"]


def test_a_base_that_is_stored_quantised_is_refused(tmp_path, tuned):
    made = tuned()
    config = json.loads((made.base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (made.base / "config.json").write_text(json.dumps(config))
    with pytest.raises(hfplug.AdapterError, match="stored quantised"):
        merge_adapter(made.adapter, tmp_path / "out")


def test_an_adapter_of_another_base_is_refused(tmp_path, tuned):
    made = tuned()
    merged = merge_adapter(made.adapter, tmp_path / "first")
    torch.manual_seed(5)
    _llama().save_pretrained(tmp_path / "other")
    from hfplug.adapters.lock import make_lock

    lock = make_lock(made.loaded(made.base), base_name=str(made.base))
    hfplug.AdapterDir.write(tmp_path / "locked", source=made.adapter, lock=lock)
    with pytest.raises(hfplug.MismatchError, match="weights are not those"):
        merge_adapter(tmp_path / "locked", tmp_path / "out", base=tmp_path / "other")
    assert merged.adapter.path.exists() and not (tmp_path / "out").exists()


def test_a_base_of_another_shape_is_refused(tmp_path, tuned):
    made = tuned()
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    for check in ("logits", "off"):
        with pytest.raises(hfplug.MismatchError):
            merge_adapter(made.adapter, tmp_path / "out", base=tmp_path / "other", check=check)
    assert names(tmp_path) == ["adapter", "base", "other"]


def test_an_adapter_with_nan_and_one_that_overflows_are_refused(tmp_path, tuned):
    made = tuned()
    file = made.adapter / "adapter_model.safetensors"
    whole = load_file(file)
    save_file({name: tensor * 1e4 for name, tensor in whole.items()}, file, metadata={"format": "pt"})
    with pytest.raises(hfplug.AdapterError, match="not finite in float16"):
        merge_adapter(made.adapter, tmp_path / "out", dtype="float16", check="off")
    save_file({name: tensor * float("nan") for name, tensor in whole.items()}, file, metadata={"format": "pt"})
    with pytest.raises(hfplug.AdapterError, match="NaN"):
        merge_adapter(made.adapter, tmp_path / "out")
    assert names(tmp_path) == ["adapter", "base"]


# --------------------------------------------------------------------------------------- nothing half, nothing lost


@pytest.mark.parametrize("what", ["a folder with a file", "a file"])
def test_nothing_that_lies_there_is_overwritten(tmp_path, tuned, what):
    made, out = tuned(), tmp_path / "out"
    if what == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    with pytest.raises(hfplug.AdapterError, match="nothing is overwritten"):
        merge_adapter(made.adapter, out)
    assert (out if what == "a file" else out / "mine.txt").read_text() == "mine"


def test_an_empty_folder_is_used(tmp_path, tuned):
    made = tuned()
    (tmp_path / "out").mkdir()
    merge_adapter(made.adapter, tmp_path / "out")
    assert names(tmp_path) == ["adapter", "base", "out"]


def test_a_disk_that_is_full_in_the_middle_leaves_nothing(tmp_path, tuned):
    """The limit on the size of a file stands in for the disk; it is of a process of its own."""
    made = tuned()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = [
        sys.executable,
        "-m",
        "hfplug",
        "export",
        str(made.adapter),
        "--for",
        "merged",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 2 and "cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert names(tmp_path) == ["adapter", "base"]


def test_a_disk_without_room_is_noticed_before_anything_is_written(tmp_path, tuned, monkeypatch):
    made = tuned()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(hfplug.AdapterError, match="has 1,000 left"):
        merge_adapter(made.adapter, tmp_path / "out")
    assert names(tmp_path) == ["adapter", "base"]


@pytest.mark.slow
def test_what_a_killed_merge_left_is_gone_after_the_next(tmp_path, tuned):
    made = tuned()
    code = (
        "import os, sys\nfrom hfplug.adapters import merge, merge_job\n"
        "merge_job.write_config = lambda *_: os.kill(os.getpid(), 9)\n"
        "merge.merge_adapter(sys.argv[1], sys.argv[2])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(made.adapter), str(tmp_path / "out")])
    assert done.returncode == -9 and not (tmp_path / "out").exists()
    assert [name for name in names(tmp_path) if name.startswith(".out.new")]
    merge_adapter(made.adapter, tmp_path / "out")
    assert names(tmp_path) == ["adapter", "base", "out"]


def test_a_model_that_one_rounding_moves_far_is_allowed_that_and_no_more(tmp_path, tuned):
    """Sharp weights in bfloat16: the tolerance for other machines is not enough, and a wrong model is not let in."""

    def sharp() -> Any:
        sizes = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4, "initializer_factor": 2.0}
        return T5ForConditionalGeneration(T5Config(vocab_size=64, decoder_start_token_id=0, **sizes))

    made = tuned((sharp, lora(SEQ2SEQ, "q", "v")))
    merged = merge_adapter(made.adapter, tmp_path / "out", dtype="bfloat16")
    assert merged.difference.largest > 0.1 and "one rounding of its weights moves" in merged.difference.basis
    probe = make_probe(made.plain(), AutoTokenizer.from_pretrained(made.base))
    assert compare_merged(probe, made.loaded(made.base), None, "bfloat16").verdict == "different"


def test_a_merge_that_answers_otherwise_is_not_kept(tmp_path, tuned, monkeypatch):
    made = tuned()
    from hfplug.adapters import merge_job

    def wrong(plan: Any, folder: Path, dtype: Any) -> dict[str, Any]:
        for file in plan.files:
            shutil.copy(file, folder / os.path.basename(file))
        return {}

    monkeypatch.setattr(merge_job, "write_shards", wrong)
    with pytest.raises(hfplug.MismatchError, match="does not answer as base and adapter do"):
        merge_adapter(made.adapter, tmp_path / "out")
    assert names(tmp_path) == ["adapter", "base"]
