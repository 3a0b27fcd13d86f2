"""The tabs of the study: its own numbers, words that claim no more than was measured, and text that stays text."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from study_samples import small_report

from hfplug.space.look_inside import look_inside_html
from hfplug.space.soft_prompts import look_up, soft_prompts_html
from hfplug.space.study_tab import no_study_html, report_html
from hfplug.space.tradeoffs import TRADE_OFFS, tradeoffs_html

MARKUP = "<script>alert(1)</script>"


def tab(report, problem=""):
    """What the tabs look at, without variants."""
    return SimpleNamespace(report=report, report_problem=problem, variants=lambda: ())


def words(fragment):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", fragment))


def test_the_five_trade_offs_are_explained_with_the_study_s_numbers():
    shown = words(tradeoffs_html(tab(small_report())))
    assert [one.title for one in TRADE_OFFS] == [
        "Parameter efficiency", "Memory efficiency", "Model performance", "Inference cost", "Training speed",
    ]  # fmt: skip
    for sentence in (
        "lora trains 200k of 4.00M numbers (5.00 %); what has to be kept is 800 kB instead of a copy of 16.0 MB, 20.0 "
        "times less.",
        "lora needs 200 MB at its peak, 80.0 % of what full tuning needs (250 MB); 45.6 MB less for gradients",
        "lora: ROUGE-1 55.0 (52.0–58.0); +43.0 points against the base (+39.0 to +47.0, p &lt; 0.001)",
        "lora answers with 40.0 tokens a second, the first after 30.0 ms (the base: 20.0 ms).",
        "A step of lora takes 400 ms, 0.80 times what one of full tuning takes (500 ms); 100 steps took 45.0 s.",
    ):
        assert sentence in shown, sentence


def test_a_difference_that_the_study_cannot_tell_is_said_to_be_one():
    shown = words(tradeoffs_html(tab(small_report())))
    against_full = shown[shown.index("−3.0 points against full tuning") :]
    assert against_full.index("which this many dialogues cannot tell from no difference") < 120
    assert "Answers differ in length (on average 20.0 to 60.0 tokens)" in shown


@pytest.mark.parametrize("text", [MARKUP, "<img src=x onerror=alert(1)>"])
def test_markup_in_a_study_is_text(text):
    report = small_report(name=text, note=text)
    for fragment in (report_html(report), tradeoffs_html(tab(report)), no_study_html(tab(None, text))):
        assert text not in fragment
        assert text.replace("<", "&lt;").replace(">", "&gt;") in fragment


def test_the_study_has_its_tables_and_plots():
    fragment = report_html(small_report())
    assert fragment.count("<table>") == 3
    assert fragment.count("<svg role=") >= 4
    assert "58.0 55.0–61.0" in fragment
    assert "http://" not in fragment.replace("http://www.w3.org", "")


def test_without_a_study_the_tabs_say_how_to_get_one():
    assert "hfplug demo" in words(tradeoffs_html(tab(None)))
    assert "The study cannot be shown: gone" in words(no_study_html(tab(None, "gone")))


def test_soft_prompts_are_shown_with_their_nearest_words(adapters):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    from hfplug.demo.base import base_path

    model = AutoModelForSeq2SeqLM.from_pretrained(base_path())
    service = SimpleNamespace(
        word_vectors=model.get_input_embeddings().weight, tokenizer=AutoTokenizer.from_pretrained(base_path())
    )
    infos = [SimpleNamespace(name=name, kind="adapter", folder=str(path)) for name, path in adapters.items()]
    space = SimpleNamespace(variants=lambda: infos, service=service)
    assert list(look_up(space)) == ["prompt_tuning"]
    fragment = soft_prompts_html(space)
    assert fragment.count("<tr>") == 1 + 4  # a heading, and a row for each of four virtual tokens
    assert "random vectors" in words(fragment)


def test_adapters_are_looked_into_with_their_numbers_and_one_that_cannot_be_says_why(adapters, tmp_path):
    from hfplug.adapters.inspect import inspect_adapter
    from hfplug.demo.base import base_path
    from hfplug.models.base import resolve_base

    found = {name: inspect_adapter(path) for name, path in adapters.items()}
    infos = [SimpleNamespace(name=name, kind="adapter", folder=str(path)) for name, path in adapters.items()]
    infos.append(SimpleNamespace(name=MARKUP, kind="adapter", folder=str(tmp_path)))
    service = SimpleNamespace(base=resolve_base(base_path()))
    fragment = look_inside_html(SimpleNamespace(variants=lambda: infos, service=service))
    assert fragment.count("<details>") == len(infos) and "<script>" not in fragment
    assert "holds no adapter" in words(fragment) and str(tmp_path) not in fragment
    lora = max(found["lora"].layers, key=lambda one: one.relative)
    assert f"{100 * lora.relative:.3g} %" in words(fragment)
    ids = re.findall(r'\bid="([^"]+)"', fragment)
    assert len(ids) == len(set(ids))  # each drawing's own
    assert look_inside_html(SimpleNamespace(variants=lambda: ())) == ""
