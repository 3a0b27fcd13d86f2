"""Merging a card into a README keeps what people wrote and brings up to date what was generated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.card import render_card
from hfplug.adapters.card_merge import merge_card
from hfplug.adapters.record import Record
from hfplug.errors import AdapterError


@pytest.fixture
def make_card(make_small_source: Callable[..., Path], tmp_path: Path) -> Callable[..., str]:
    """``make_card(method="lora", …)``: a card as ``render_card`` makes it, for a record of those values."""
    source = make_small_source()

    def make(licence: str | None = None, **values: object) -> str:
        record = Record(**({"method": "lora", "base": "a/b", "versions": {}} | values))  # type: ignore[arg-type]
        adapter = AdapterDir.write(tmp_path / "adapter", source=source, record=record, card="x")
        return render_card(adapter, licence=licence)

    return make


def _front(card: str) -> dict[str, object]:
    return ModelCard(card).data.to_dict()


def test_merging_a_card_into_itself_changes_nothing(make_card: Callable[..., str]) -> None:
    card = make_card(notes=("a note",), examples=({"input": "```\n<!-- hfplug:begin x -->"},))
    assert merge_card(card, card) == card


def test_generated_sections_are_replaced_and_a_persons_text_stays(make_card: Callable[..., str]) -> None:
    old, new = make_card(steps=10), make_card(steps=20)
    edited = old.replace("# adapter\n", "# A better title\n\nAbout it.\n") + "\n## Limits\n\nMany.\n"
    merged = merge_card(edited, new)
    assert "# A better title\n\nAbout it.\n" in merged and merged.endswith("## Limits\n\nMany.\n")
    assert "| steps | 20 |" in merged and "| steps | 10 |" not in merged
    assert merge_card(merged, new) == merged


def test_a_readme_written_by_hand_is_kept_whole_with_our_sections_after_it(
    make_card: Callable[..., str],
) -> None:
    mine = "---\nlicense: mit\nlanguage: no\ntags:\n- mine\n---\n# Mine\n\nText.\n"
    merged = merge_card(mine, make_card(licence="apache-2.0"))
    assert "# Mine\n\nText.\n\n<!-- hfplug:begin summary -->" in merged
    assert "# adapter" not in merged
    front = _front(merged)
    assert (front["license"], front["language"], front["base_model"]) == ("mit", "no", "a/b")
    assert front["tags"] == ["mine", "hfplug", "lora", "method:lora"]


def test_a_readme_without_front_matter_gets_ours(make_card: Callable[..., str]) -> None:
    merged = merge_card("Just text.", make_card())
    assert _front(merged)["library_name"] == "peft" and "Just text." in merged


def test_an_empty_readme_becomes_the_card(make_card: Callable[..., str]) -> None:
    card = make_card()
    assert merge_card("", card) == card
    assert merge_card("---\n---\n", card) == card


def test_keys_that_a_person_added_or_changed_stay_and_others_are_brought_up_to_date(
    make_card: Callable[..., str],
) -> None:
    old, new = make_card(method="lora", base="a/b"), make_card(method="ia3", base="c/d")
    edited = old.replace("---\n", "---\nlicense: mit\n", 1).replace(
        "pipeline_tag: text-generation", "pipeline_tag: summarization"
    )
    edited = edited.replace("- hfplug\n", "- hfplug\n- mine\n")
    front = _front(merge_card(edited, new))
    assert front["license"] == "mit" and front["pipeline_tag"] == "summarization"
    assert front["base_model"] == "c/d"
    assert front["tags"] == ["hfplug", "mine", "ia3", "method:ia3"]


def test_metrics_that_are_gone_go_from_the_front_matter(make_card: Callable[..., str]) -> None:
    old = make_card(model_performance={"metrics": {"rouge1": 0.5}})
    merged = merge_card(old, make_card())
    assert "model-index" in _front(old) and "model-index" not in _front(merged)
    assert "hfplug:begin metrics" not in merged


def test_a_section_that_a_person_took_out_stays_out_and_a_new_one_comes_in(
    make_card: Callable[..., str],
) -> None:
    old = make_card(steps=1)
    start, end = old.index("<!-- hfplug:begin use -->"), old.index("<!-- hfplug:end use -->")
    without = old[:start] + old[end + len("<!-- hfplug:end use -->") :]
    merged = merge_card(without, make_card(steps=2, examples=({"input": "x"},)))
    assert "hfplug:begin use" not in merged
    assert "hfplug:begin examples" in merged and "| steps | 2 |" in merged


def test_a_lone_comment_swallows_no_text(make_card: Callable[..., str]) -> None:
    mine = "Before\n<!-- hfplug:begin summary -->\nmine, do not lose\n"
    once = merge_card(mine, make_card(steps=1))
    twice = merge_card(once, make_card(steps=2))
    assert "mine, do not lose" in twice and "| steps | 2 |" in twice


def test_a_section_pasted_twice_stays_once(make_card: Callable[..., str]) -> None:
    card = make_card(steps=1)
    doubled = card + card.split("---\n", 2)[2]
    merged = merge_card(doubled, make_card(steps=2))
    assert merged.count("hfplug:begin use") == 1 and merged.count("| steps | 2 |") == 1


def test_line_ends_of_windows_stay(make_card: Callable[..., str]) -> None:
    merged = merge_card("\ufeff---\r\nlicense: mit\r\n---\r\n# Mine\r\n", make_card())
    assert "\n" not in merged.replace("\r\n", "")
    assert _front(merged)["license"] == "mit"


def test_pefts_own_empty_form_is_replaced_and_its_local_base_goes(
    tmp_path: Path, make_model: Callable[..., object], make_card: Callable[..., str]
) -> None:
    model = make_model()
    model.save_pretrained(tmp_path / "base")  # type: ignore[attr-defined]
    model.config._name_or_path = model.name_or_path = str(tmp_path / "base")  # type: ignore[attr-defined]
    get_peft_model(model, LoraConfig(task_type="SEQ_2_SEQ_LM")).save_pretrained(tmp_path / "peft")
    form = (tmp_path / "peft" / "README.md").read_text(encoding="utf-8")
    assert str(tmp_path) in form and "[More Information Needed]" in form
    merged = merge_card(form, make_card())
    assert "[More Information Needed]" not in merged and str(tmp_path) not in merged
    assert _front(merged)["base_model"] == "a/b"
    filled = form.replace("[More Information Needed]", "By me.", 1)
    assert "By me." in merge_card(filled, make_card())


def test_a_local_base_that_a_person_wrote_goes_for_the_hub_rejects_it(make_card: Callable[..., str]) -> None:
    mine = "---\nbase_model: /home/someone/base\nlicense: mit\n---\nText"
    assert "someone" not in merge_card(mine, make_card(base=None))


@pytest.mark.parametrize("front", ["a: [", "- a\n- b", "just words"])
def test_front_matter_that_cannot_be_read_is_an_error_and_nothing_is_guessed(
    make_card: Callable[..., str], front: str
) -> None:
    with pytest.raises(AdapterError, match="front matter"):
        merge_card(f"---\n{front}\n---\nText", make_card())


def test_a_model_index_that_the_hub_library_cannot_read_is_kept(make_card: Callable[..., str]) -> None:
    mine = "---\nmodel-index: something of mine\nzzz: 2031-01-01\n---\nText"
    merged = merge_card(mine, make_card(model_performance={"metrics": {"rouge1": 0.5}}))
    assert "something of mine" in merged and "2031-01-01" in merged
