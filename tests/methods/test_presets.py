"""Presets: the settings of a paper under a name, below whatever else is said."""

from __future__ import annotations

import json

import pytest
import yaml
from transformers import BertConfig, BertForSequenceClassification, HfArgumentParser, LlamaConfig, LlamaForCausalLM

import hfplug
from hfplug.cli.main import main, make_parser
from hfplug.cli.study import settings_from
from hfplug.methods import get_method, method_names

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
WITH_PRESETS = [(name, preset) for name in method_names() for preset in get_method(name).presets]


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=2, **SHAPE))


def bert() -> BertForSequenceClassification:
    return BertForSequenceClassification(BertConfig(vocab_size=32, **SHAPE))


@pytest.mark.parametrize(("method", "preset"), WITH_PRESETS)
def test_every_preset_is_settings_of_its_method_and_names_its_source(method, preset):
    cls = get_method(method)
    made = cls.from_settings({"preset": preset})
    for name, value in cls.presets[preset].settings.items():
        assert getattr(made, name) == value
    assert "20" in cls.presets[preset].source
    if preset == "paper":  # whoever reads the method's file finds where they are from
        import sys

        assert "preset" in sys.modules[cls.__module__].__doc__.lower()


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("lora", {"q_proj", "v_proj"}),
        ("dora", {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"}),
        ("bottleneck", {"o_proj", "down_proj"}),
        ("top_layers", None),
    ],
)
def test_it_does_to_a_model_what_the_paper_did(method, parts):
    model = hfplug.apply_method(llama(), method, preset="paper")
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    if parts is None:  # a fourth of four blocks
        assert {name.partition("layers.")[2].partition(".")[0] for name in trained} == {"3"}
    else:
        assert {part for part in parts if any(f".{part}." in name for name in trained)} == parts
        adapted = {name.split(".")[6] for name in trained if name.split(".")[6] != "weight"}
        assert adapted == parts, adapted


def test_queries_and_values_are_found_on_other_architectures_and_in_fused_layers():
    from transformers import GPT2Config, GPT2LMHeadModel

    targets = hfplug.apply_method(bert(), "lora", preset="paper").peft_config["default"].target_modules
    assert targets == {"query", "value"}
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=32, n_layer=1, n_head=2))
    assert hfplug.apply_method(gpt2, "lora", preset="paper").peft_config["default"].target_modules == {"c_attn"}


def test_what_is_said_wins_over_the_preset_and_the_preset_over_the_default(tmp_path):
    made = hfplug.methods.resolve_method("lora", {"preset": "paper", "r": 2})
    assert (made.r, made.lora_dropout, made.use_rslora) == (2, 0.1, False)
    again = hfplug.methods.resolve_method(hfplug.Lora(r=6), {"preset": "paper"})
    assert (again.r, again.lora_dropout) == (6, 0.1)
    model = hfplug.apply_method(llama(), "lora", preset="paper", r=3)
    assert (model.peft_config["default"].r, model.peft_config["default"].lora_dropout) == (3, 0.1)


def test_it_survives_flags_json_and_yaml(tmp_path):
    parser = HfArgumentParser((hfplug.MethodArguments,))
    both = {"method": "lora", "preset": "paper", "lora_alpha": 8}
    (tmp_path / "a.json").write_text(json.dumps(both))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(both))
    wanted = hfplug.get_method("lora")(r=4, lora_alpha=8, lora_dropout=0.1, target_modules=("query", "value"))
    words = ["--method", "lora", "--preset", "paper", "--lora_alpha", "8"]
    assert parser.parse_args_into_dataclasses(words)[0].to_method() == wanted
    assert parser.parse_json_file(str(tmp_path / "a.json"))[0].to_method() == wanted
    assert parser.parse_yaml_file(str(tmp_path / "a.yaml"))[0].to_method() == wanted
    prefixed = HfArgumentParser((hfplug.make_method_arguments("x_"),))
    assert prefixed.parse_args_into_dataclasses(["--x_preset", "paper", "--x_lora_alpha", "8"])[0].to_method() == wanted


@pytest.mark.parametrize(
    ("method", "preset", "words"),
    [
        ("lora", "papper", "lora has no preset 'papper'. Did you mean 'paper'. Its presets are: paper, roberta"),
        ("norms", "paper", "norms has no preset 'paper'. It has none"),
    ],
)
def test_a_preset_that_is_not_there_is_an_error_with_those_that_are(method, preset, words):
    with pytest.raises(hfplug.SettingError) as caught:
        hfplug.apply_method(llama(), method, preset=preset)
    assert words.replace("'paper'. Its", "'paper'? Its") in str(caught.value)


def test_a_study_takes_the_papers_rates_and_leaves_other_methods_as_they_are(caplog, capsys):
    def settings(*words: str):
        parsed = make_parser().parse_args(["study", "--base", "./b", "--data", "d.jsonl", "--out", "o", *words])
        return settings_from(parsed)

    found = settings("--methods", "lora,norms,ia3", "--preset", "paper", "--learning-rate", "ia3=0.5", "--lora-r", "2")
    assert (found.methods[0].r, found.methods[0].lora_dropout) == (2, 0.1)
    assert found.learning_rates == {"lora": 2e-4, "ia3": 0.5}
    assert "norms has no preset 'paper'" in caplog.text
    lab = settings("--methods", "lora", "--preset", "lab")
    assert (lab.base, lab.methods[0].r, lab.methods[0].lora_dropout) == ("./b", 32, 0.05)
    capsys.readouterr()
    assert main(["plan", "nowhere", "--methods", "norms", "--preset", "paper"]) == 2
    assert "norms has no preset 'paper'. It has none" in capsys.readouterr().err


def test_hfplug_methods_shows_them(capsys):
    assert main(["methods", "lora", "norms"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--preset paper r=4 lora_alpha=32 lora_dropout=0.1 target_modules=query,value, learning rate 0.0002" in shown
