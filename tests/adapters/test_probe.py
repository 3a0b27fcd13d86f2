"""A probe is the same wherever the adapter answers the same, and tells apart whatever answers otherwise."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BartConfig, BartForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

import hfplug
from hfplug.adapters.fingerprint import base_parameters
from hfplug.adapters.probe import PROBE_VERSION, TOLERANCES, compare_probe, make_probe
from hfplug.adapters.task import Task
from hfplug.errors import AdapterError
from hfplug.methods import get_method, method_names

MakeModel = Callable[..., PreTrainedModel]
TASK_TYPES = {"t5": "SEQ_2_SEQ_LM", "llama": "CAUSAL_LM", "bert": "SEQ_CLS"}
WORDS = ("<pad>", "</s>", "<unk>", "Anna", "Ben", ":", "Is", "the", "report", "ready", "?", "Summarize", ".")


def tokenizer(*words: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words or WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def peft_configs(task_type: str) -> dict[str, Any]:
    return {
        "lora": LoraConfig(task_type=task_type, target_modules="all-linear", init_lora_weights=False),
        "ia3": IA3Config(task_type=task_type),
        "prompt": PromptTuningConfig(task_type=task_type, num_virtual_tokens=4, num_transformer_submodules=1),
        "p-tuning": PromptEncoderConfig(
            task_type=task_type, num_virtual_tokens=4, encoder_hidden_size=8, num_transformer_submodules=1
        ),
        "prefix": PrefixTuningConfig(task_type=task_type, num_virtual_tokens=4),
    }


def tuned(make_model: MakeModel, kind: str, name: str, seed: int = 0) -> Any:
    torch.manual_seed(7)
    model = get_peft_model(make_model(kind, seed=seed), peft_configs(TASK_TYPES[kind])[name])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


every = pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in TASK_TYPES for name in peft_configs("CAUSAL_LM")]
)


@every
def test_it_survives_json_and_finds_the_same_model_to_be_the_same(make_model: MakeModel, kind: str, name: str) -> None:
    probe = make_probe(tuned(make_model, kind, name), tokenizer())
    stored = json.dumps(probe, allow_nan=False)
    assert len(stored) < 20_000
    result = compare_probe(json.loads(stored), tuned(make_model, kind, name), tokenizer())
    assert result.verdict == "same" and result.largest < 1e-5, result


@every
def test_a_base_whose_weights_differ_by_a_thousandth_is_caught(make_model: MakeModel, kind: str, name: str) -> None:
    probe = make_probe(tuned(make_model, kind, name))
    model = tuned(make_model, kind, name)
    with torch.no_grad():
        for _, parameter in base_parameters(model):
            parameter.mul_(1.001)
    result = compare_probe(probe, model)
    assert result.verdict == "different" and result.largest < 0.1, result


@every
def test_another_adapter_on_the_same_base_is_caught(make_model: MakeModel, kind: str, name: str) -> None:
    probe = make_probe(tuned(make_model, kind, name))
    model = tuned(make_model, kind, name)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(0.8)
    assert compare_probe(probe, model).verdict == "different"


@every
def test_the_model_and_the_random_state_are_left_as_they_were(make_model: MakeModel, kind: str, name: str) -> None:
    model = tuned(make_model, kind, name).train()
    list(model.modules())[3].eval()
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    compare_probe(make_probe(model), model)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_another_head_is_caught(make_model: MakeModel, kind: str) -> None:
    model = make_model(kind)
    probe = make_probe(model)
    head = model.classifier if kind == "bert" else model.lm_head
    with torch.no_grad():
        head.weight[:1].add_(0.05)
    result = compare_probe(probe, model)
    assert result.verdict == "different", result


def test_one_changed_row_of_a_large_vocabulary_is_caught(make_model: MakeModel) -> None:
    model = make_model("llama")
    probe = make_probe(model)
    sampled = {one for row in probe["inputs"] for ids in row["ids"] for one in ids}
    unseen = next(one for one in range(64) if one not in sampled)
    with torch.no_grad():
        model.lm_head.weight[unseen].mul_(10)
    assert compare_probe(probe, model).verdict == "different"


def test_another_tokenizer_is_caught_by_the_ids_of_the_text(make_model: MakeModel) -> None:
    task = Task(name="summary", prompt="Summarize. {dialogue}")
    model = make_model("t5")
    probe = make_probe(model, tokenizer(), task=task)
    assert probe["inputs"][0]["text"].startswith("Summarize. Anna:")
    result = compare_probe(probe, model, tokenizer(*sorted(WORDS)))
    assert result.verdict == "other tokenizer" and "token 1" in result.where
    assert compare_probe(probe, model, tokenizer(*WORDS, "new")).verdict == "same"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", TASK_TYPES)
def test_the_same_model_in_a_coarser_format_is_the_same(make_model: MakeModel, kind: str, dtype: str) -> None:
    probe = make_probe(make_model(kind))
    result = compare_probe(probe, make_model(kind).to(getattr(torch, dtype)))
    assert (result.verdict, result.basis, result.tolerance) == ("same", dtype, TOLERANCES[dtype])
    assert compare_probe(probe, make_model(kind, seed=1).to(getattr(torch, dtype))).verdict == "different"


def test_an_adapter_stored_in_a_coarser_format_is_given_its_tolerance(make_model: MakeModel) -> None:
    model = make_model("llama")
    assert compare_probe(make_probe(model), model, adapter_dtype="bfloat16").tolerance == TOLERANCES["bfloat16"]


@pytest.mark.parametrize("quantised", ["author", "here"])
def test_four_bits_are_compared_with_four_bits(tmp_path: Path, make_model: MakeModel, quantised: str) -> None:
    pytest.importorskip("bitsandbytes")
    make_model("llama").save_pretrained(tmp_path)
    first = hfplug.build_model(tmp_path, "qlora", compute_dtype="float32")
    other = hfplug.build_model(tmp_path, "qlora", compute_dtype="bfloat16" if quantised == "here" else "float32")
    probe = make_probe(first)
    assert probe["quantization"] == "4-bit"
    assert compare_probe(probe, other).verdict == "same"
    plain = compare_probe(probe, make_model("llama"))
    assert plain.basis == "4-bit (author) against none (here)"


def test_a_model_inside_distributed_data_parallel_is_asked_itself(make_model: MakeModel) -> None:
    model = tuned(make_model, "llama", "lora")
    wrapped = torch.nn.DataParallel(model)
    assert make_probe(wrapped) == make_probe(model)


def test_a_forward_that_mixed_precision_wrapped_is_set_aside_and_put_back(make_model: MakeModel) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    model = make_model("llama")
    plain = make_probe(model)
    AcceleratorState._reset_state(reset_partial_state=True)  # of the Trainers of other tests
    try:
        prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare(model)
        wrapped = prepared.forward
        assert make_probe(prepared) == plain
        assert prepared.forward == wrapped
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    del model.forward


def test_weights_that_are_spread_over_processes_are_refused(make_model: MakeModel) -> None:
    model = make_model("llama")
    next(model.parameters()).ds_id = 0  # what DeepSpeed ZeRO-3 leaves on a parameter
    with pytest.raises(AdapterError, match="spread over processes"):
        make_probe(model)


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_logits_that_are_not_finite_are_refused_and_found(make_model: MakeModel, kind: str) -> None:
    model = make_model(kind)
    probe = make_probe(model)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    assert compare_probe(probe, model).verdict == "different"
    with pytest.raises(AdapterError, match="not finite"):
        make_probe(model)


def test_a_classifier_that_looks_for_the_end_token_is_asked(make_model: MakeModel) -> None:
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    config = BartConfig(vocab_size=64, d_model=16, encoder_attention_heads=2, decoder_attention_heads=2, **sizes)
    model = BartForSequenceClassification(config).eval()
    probe = make_probe(model)
    assert probe["inputs"][0]["decoder_input_ids"] is None
    assert compare_probe(probe, model).verdict == "same"


def test_a_short_context_is_not_overrun(make_model: MakeModel) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=64, n_positions=12, n_embd=16, n_layer=1, n_head=2)
    model = get_peft_model(GPT2LMHeadModel(config), peft_configs("CAUSAL_LM")["prompt"])
    probe = make_probe(model, tokenizer())
    assert max(len(row["input_ids"]) for row in probe["inputs"]) == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"probe_version": PROBE_VERSION + 1}, "pip install --upgrade hfplug"),
        ({"inputs": []}, "damaged"),
        ({"inputs": [{"input_ids": [1, 2]}]}, "damaged"),
        ({"inputs": "all of them"}, "damaged"),
    ],
)
def test_a_damaged_probe_says_so(make_model: MakeModel, change: dict[str, Any], words: str) -> None:
    model = make_model("llama")
    with pytest.raises(AdapterError, match=words):
        compare_probe({**make_probe(model), **change}, model)


def test_ids_that_the_model_does_not_have_name_the_base(make_model: MakeModel) -> None:
    model = make_model("llama")
    probe = copy.deepcopy(make_probe(model))
    probe["inputs"][0]["input_ids"][0] = 10_000
    with pytest.raises(AdapterError, match="Pass the base"):
        compare_probe(probe, model)


@pytest.mark.parametrize("kind", TASK_TYPES)
@pytest.mark.parametrize("method", method_names())
def test_every_method_can_be_probed(tmp_path: Path, make_model: MakeModel, method: str, kind: str) -> None:
    if TASK_TYPES[kind] not in get_method(method).task_types:
        pytest.skip("not for this task")
    make_model(kind).save_pretrained(tmp_path)
    if why_not := hfplug.methods_for(tmp_path)[method]:
        pytest.skip(why_not)
    torch.manual_seed(0)
    probe = make_probe(hfplug.build_model(tmp_path, method), tokenizer())
    torch.manual_seed(0)
    assert compare_probe(probe, hfplug.build_model(tmp_path, method), tokenizer()).verdict == "same"


@pytest.mark.parametrize("change", ["a NaN", "an infinite rms", "a huge rms", "no numbers"])
def test_a_probe_that_any_model_would_pass_is_refused(make_model: MakeModel, change: str) -> None:
    probe = make_probe(make_model("llama"))
    row = probe["inputs"][0]
    if change == "a NaN":
        row["values"][0][0] = math.nan
    elif change == "no numbers":
        for key in ("positions", "ids", "values", "rms"):
            row[key] = []
    else:
        row["rms"][0] = math.inf if change == "an infinite rms" else 1e200
    with pytest.raises(AdapterError, match="probe in the lock is damaged"):
        compare_probe(probe, make_model("llama", seed=5))
