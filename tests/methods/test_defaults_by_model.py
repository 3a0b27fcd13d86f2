"""Defaults that depend on the model: what is taken where nothing is said, and that what is said stands."""

from __future__ import annotations

import copy
import dataclasses
import logging
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

import hfplug
from hfplug.cli.main import main
from hfplug.methods import get_method, method_names, resolve_method
from hfplug.methods.method import CAUSAL, CLASSIFICATION, QUESTIONS, SEQ2SEQ, TOKENS
from hfplug.models.anatomy import read_anatomy
from hfplug.models.factory import applied_to
from hfplug.training.plug_model import plug_model

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4}
LARGE = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 2, "num_attention_heads": 64}
SIZES = (4e6, 135e6, 400e6, 1.5e9, 7e9, 33e9, 175e9)


def llama(**shape: Any) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, **(shape or SMALL)))


@pytest.fixture(scope="module")
def small() -> Any:
    return read_anatomy(llama(), CAUSAL)


@pytest.fixture(scope="module")
def bart() -> Any:
    sides = {f"{side}_{part}": n for side in ("encoder", "decoder") for part, n in (("layers", 4), ("ffn_dim", 64))}
    return read_anatomy(BartForConditionalGeneration(BartConfig(vocab_size=32, d_model=32, **sides)), SEQ2SEQ)


def sized(anatomy: Any, parameters: float, task_type: str | None = None, **changes: Any) -> Any:
    task_type = task_type or anatomy.task_type
    return dataclasses.replace(anatomy, parameters=int(parameters), task_type=task_type, **changes)


@pytest.mark.parametrize("name", method_names())
def test_every_default_and_every_rate_is_allowed_and_cites_where_it_comes_from(name, small, bart):
    for parameters in SIZES:
        for anatomy in (sized(small, parameters), sized(bart, parameters), sized(small, parameters, CLASSIFICATION)):
            found = get_method(name)().defaults(anatomy)
            settled = get_method(name)().settled(anatomy)
            assert {key: getattr(settled, key) for key in found} == {key: one.value for key, one in found.items()}
            assert settled.settled(sized(small, 1e3)) is settled
            rate = settled.learning_rate(anatomy)
            assert rate.low <= rate.value <= rate.high
            assert all(
                "20" in one or "hfplug" in one for one in (rate.source, *(each.source for each in found.values()))
            )
            assert all(one.why for one in found.values())


@pytest.mark.parametrize("name", [name for name in method_names() if name not in ("norms", "embeddings", "p_tuning")])
def test_small_and_large_models_do_not_get_the_same_rate(name, small):
    rates = [get_method(name)().learning_rate(sized(small, parameters)).value for parameters in SIZES]
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) > 1 or name == "prompt_tuning"


def test_the_settings_follow_size_task_and_depth(small, bart):
    def settled(name: str, anatomy: Any, **said: Any) -> dict[str, Any]:
        return resolve_method(name, said).settled(anatomy).settings()

    assert settled("qlora", sized(small, 7e9))["target_modules"] == ["all-linear"]
    assert settled("qlora", sized(small, 135e6))["target_modules"] == ["attention"]
    assert settled("lora", sized(small, 7e9))["target_modules"] == ["attention"]
    assert settled("bottleneck", sized(small, 3e9))["reduction_factor"] == 32
    assert settled("top_layers", small)["blocks"] == 2
    prefix = {
        (task, size, positions): settled("prefix_tuning", sized(bart, size, task, positions=positions))[
            "num_virtual_tokens"
        ]
        for task in (SEQ2SEQ, CAUSAL, CLASSIFICATION, TOKENS, QUESTIONS)
        for size in (4e6, 400e6)
        for positions in (0, 128)
    }
    assert {where: n for where, n in prefix.items() if n != 20} == {
        (SEQ2SEQ, 400e6, 0): 200,
        (SEQ2SEQ, 400e6, 128): 32,
        **{(TOKENS, size, positions): 100 for size in (4e6, 400e6) for positions in (0, 128)},
    }


def test_what_is_said_stands_also_where_it_is_the_default_elsewhere(small):
    large = sized(small, 7e9)
    for method in (
        hfplug.QLora(target_modules=("attention",), r=4),
        resolve_method("qlora", {"target_modules": ["attention"], "r": 4}),
        resolve_method(hfplug.QLora(target_modules=("attention",)), {"r": 4}),
        hfplug.MethodArguments(method="qlora", lora_target_modules=["attention"], lora_r=4).to_method(),
        hfplug.QLora(target_modules=("attention",)).saying(r=4),
        copy.deepcopy(hfplug.QLora(target_modules=("attention",), r=4)),
    ):
        assert method.said == {"target_modules", "r"}
        settled = method.settled(large)
        assert (settled.target_modules, settled.r, dict(settled.chosen)) == (("attention",), 4, {})
    assert resolve_method(hfplug.QLora(r=4)).settled(large).target_modules == ("all-linear",)
    # A preset's settings are said too, and what was said before stands above them, also if it is the default.
    paper = resolve_method("prefix_tuning", {"preset": "paper"}).settled(sized(small, 7e9, SEQ2SEQ))
    assert paper.num_virtual_tokens == 10
    assert resolve_method(hfplug.Lora(r=16), {"preset": "paper"}).r == 16
    # A text to start from is no word on the number of virtual tokens.
    assert hfplug.PromptTuning().with_task_text("Summarise").said == {"prompt_init_text"}


def test_a_large_model_gets_it_and_the_record_is_of_what_it_got(caplog):
    with torch.device("meta"):
        model = llama(**LARGE)
    with caplog.at_level(logging.INFO, "hfplug"):
        tuned = hfplug.apply_method(model, "bottleneck")
    assert "reduction_factor=32.0 (Liu et al. 2022, " in caplog.text
    known = applied_to(tuned)
    assert known is not None and known.method.changed_settings() == {"reduction_factor": 32.0}
    again = get_method("bottleneck").from_settings(known.method.settings())  # as from its record
    assert again == known.method and again.settled(known.anatomy) is again


def test_the_same_method_asked_for_again_is_no_other(caplog):
    model = BertForSequenceClassification(BertConfig(vocab_size=32, **SMALL))
    with caplog.at_level(logging.INFO, "hfplug"):
        assert plug_model(model, hfplug.get_method("top_layers")()) == "plugged"
    assert "for this model blocks=2 (Lee et al. 2019, abstract (BERT, RoBERTa))" in caplog.text
    assert plug_model(model, hfplug.get_method("top_layers")()) == "kept"


def test_hfplug_methods_says_value_reason_and_source_for_a_base(tmp_path, capsys):
    LlamaConfig(vocab_size=32, architectures=["LlamaForCausalLM"], **LARGE).save_pretrained(tmp_path)
    assert main(["methods", "bottleneck", "--base", str(tmp_path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "--bottleneck_reduction_factor = 32.0 width of the model by that of the network (0.25 to 4096.0); a " in shown
    )
    assert "[Liu et al. 2022, https://github.com/r-three/t-few, configs/adapter.json (T0 of 3 B)]" in shown
    assert main(["methods", "bottleneck"]) == 0
    assert "--bottleneck_reduction_factor = 16.0" in capsys.readouterr().out


def test_a_prefix_is_counted_for_the_decoders_layers_without_weights_too(tmp_path):
    from transformers import T5Config

    from hfplug.models.applicable import shares_of

    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_heads": 2, "num_layers": 5, "num_decoder_layers": 3}
    names = {"architectures": ["T5ForConditionalGeneration"], "decoder_start_token_id": 0, "pad_token_id": 0}
    T5Config(vocab_size=32, **sizes, **names).save_pretrained(tmp_path)
    assert shares_of(tmp_path, ["prefix_tuning"])["prefix_tuning"].trainable == 20 * 3 * 2 * 32
