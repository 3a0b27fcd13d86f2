"""Comparing in a real browser."""

from __future__ import annotations

import json

import pytest
from browsing import CONTRAST, DIALOGUE, UNNAMED, WATCH

from hfplug.serving.decoding import Decoding

SHOWN = ["base", "full", "lora", "prompt_tuning", "drifted"]


def eventually(page, holds, seconds=30):
    for _ in range(10 * seconds):
        if holds():
            return True
        page.wait_for_timeout(100)
    return False


def test_an_example_is_answered_by_every_column_with_its_figures(visit, space):
    visitor = visit()
    visitor.pick_example()
    visitor.set_tokens(24)
    visitor.compare()
    assert visitor.titles() == SHOWN
    example = space.opened.examples[0]
    task = space.opened.tasks()["summary"]  # named, as another test may have added an adapter of another task
    for name in SHOWN:
        greedy = Decoding(max_new_tokens=24, temperature=0)
        asked = space.service.ask(name, example.dialogue, task=task, decoding=greedy)
        assert visitor.answer(name) == asked.result(60).text, name
    info = space.service.variant("lora")
    assert visitor.figure("lora", "Trained").startswith(f"{info.trainable_parameters / 1000:.1f}k (")
    assert visitor.figure("lora", "Size on disk").endswith(" kB")
    assert visitor.figure("lora", "First token").endswith((" ms", " s"))
    assert visitor.figure("lora", "Speed").endswith(" tokens/s")
    assert len(visitor.figure("full", "ROUGE 1/2/L").split("/")) == 3
    assert visitor.column("base").locator("mark").count() == 0
    assert visitor.column("full").locator("mark").count() > 0
    decoration = visitor.column("full").locator("mark").first.evaluate("e => getComputedStyle(e).textDecorationLine")
    assert decoration == "underline"
    assert "Finished in" in visitor.text("#hf-status")


def test_answers_grow_side_by_side_as_they_come(visit):
    visitor = visit()
    visitor.pick_example()  # which lora answers at length
    visitor.set_tokens(200)
    visitor.page.evaluate(WATCH)
    visitor.compare()
    seen = visitor.page.evaluate("window.seen")
    growing = {name: sorted({size for state, size in steps if state == "writing"}) for name, steps in seen.items()}
    assert any(len(sizes) >= 3 for sizes in growing.values()), growing


def test_a_column_that_is_not_what_it_says_has_a_banner(visit):
    visitor = visit()
    visitor.paste(DIALOGUE)
    visitor.set_tokens(8)
    visitor.choose("base", "lora", "drifted")
    visitor.compare()
    assert "does not answer as it did for its author" in visitor.column("drifted").locator(".hf-banner").inner_text()
    assert visitor.column("lora").locator(".hf-banner").count() == 0


def test_stop_ends_the_answers_and_keeps_what_was_written(visit, space):
    visitor = visit()
    visitor.pick_example()  # which lora answers at length
    visitor.set_tokens(200)
    visitor.press_compare()
    visitor.page.locator(".hf-column[data-state=writing]").first.wait_for()
    visitor.page.locator("#hf-stop").click()
    visitor.wait_for_end()
    stopped = visitor.page.locator(".hf-column[data-state=stopped]")
    assert stopped.count() >= 1
    assert "Stopped" in visitor.text("#hf-status")
    assert eventually(visitor.page, lambda: space.service.running + space.service.waiting == 0)


def test_a_tab_that_is_closed_stops_its_run(visit, runs):
    other, visitor = visit(), visit()
    visitor.pick_example()  # which lora answers at length
    visitor.set_tokens(200)
    visitor.press_compare()
    visitor.page.locator(".hf-column[data-state=writing]").first.wait_for()
    visitor.page.close()
    assert eventually(other.page, lambda: runs[0].finished, seconds=60)
    assert "stopped" in [column.state for column in runs[0].columns()]


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_the_page_fits_the_screen_and_can_be_read(visit, width, theme, screenshots):
    visitor = visit(width=width, theme=theme)
    visitor.shot(screenshots / f"empty-{width}-{theme}.png")
    visitor.pick_example()
    visitor.set_tokens(24)
    visitor.compare()
    visitor.open("History")
    assert visitor.wider_than_the_screen() <= 0
    faint = [
        pair
        for pair in visitor.page.evaluate(CONTRAST, "[class*=hf-] :is(p, dt, dd, h1, h3, span, mark)")
        if pair[0] < 4.5
    ]
    assert faint == []
    assert visitor.page.evaluate(UNNAMED) == []
    for tab in ("Study", "Trade-offs"):
        visitor.page.get_by_role("tab", name=tab).click()
        assert visitor.wider_than_the_screen() <= 0
    visitor.page.get_by_role("tab", name="Compare").click()


def test_the_keyboard_alone_is_enough(visit):
    visitor = visit()
    page = visitor.page
    page.locator("#hf-dialogue textarea").focus()
    page.keyboard.type("Anna: See you on Monday.")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "hf-compare":
            break
    assert page.evaluate("document.activeElement.id") == "hf-compare"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    visitor.wait_for_end()
    assert visitor.titles() == SHOWN
    page.locator("#hf-dialogue textarea").focus()
    page.keyboard.press("Shift+Enter")
    visitor.wait_for_status("Finished in")


def test_what_is_missing_or_out_of_range_is_said_in_the_page(visit):
    visitor = visit()
    visitor.press_compare()
    assert "There is no dialogue yet. Paste one, or pick an example." in visitor.wait_for_status("no dialogue")
    visitor.paste(DIALOGUE)
    visitor.choose()
    visitor.press_compare()
    assert "No column is chosen" in visitor.wait_for_status("No column")
    visitor.choose("base")
    visitor.open("Decoding")
    visitor.page.locator("#hf-seed input").fill("-5")
    visitor.press_compare()
    assert "Seed must be a whole number from 0" in visitor.wait_for_status("must be")
    visitor.page.locator("#hf-seed input").fill("5")
    visitor.page.get_by_label("Blind").check()
    visitor.press_compare()
    assert "two columns or more" in visitor.wait_for_status("two columns")
    assert visitor.toasts() == []
    assert visitor.page.get_by_text("Traceback").count() == 0


def test_a_method_that_is_chosen_leaves_its_columns_and_the_base(visit):
    visitor = visit()
    assert visitor.offered() == SHOWN
    visitor.page.locator("#hf-method input").click()
    visitor.page.get_by_role("option", name="prompt_tuning").click()
    assert eventually(visitor.page, lambda: visitor.offered() == ["base", "prompt_tuning"])
    visitor.paste(DIALOGUE)
    visitor.set_tokens(8)
    visitor.compare()
    assert visitor.titles() == ["base", "prompt_tuning"]


def test_results_are_downloaded_and_copied(visit):
    visitor = visit()
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.pick_example()
    visitor.set_tokens(8)
    visitor.choose("base", "lora")
    visitor.compare()
    found = {}
    for kind in ("json", "csv", "md"):
        with visitor.page.expect_download() as download:
            visitor.page.locator(f"#hf-download-{kind}").click()
        assert download.value.suggested_filename == f"comparison.{kind}"
        found[kind] = download.value.path().read_text(encoding="utf-8")
    run = json.loads(found["json"])
    assert [column["variant"] for column in run["columns"]] == ["base", "lora"]
    assert run["columns"][1]["text"] == visitor.answer("lora")
    assert found["csv"].splitlines()[0].startswith("variant,kind,method")
    assert "| lora |" in found["md"]
    visitor.page.locator("#hf-copy").click()
    visitor.page.get_by_text("Copied").wait_for()
    assert visitor.page.evaluate("navigator.clipboard.readText()") == found["md"]


def test_history_is_that_of_one_tab(visit):
    first = visit()
    first.set_tokens(8)
    first.choose("base")
    first.paste("Ann: One.")
    first.compare()
    first.paste("Ben: Two.")
    first.compare()
    first.open("History")
    runs = first.page.locator("#hf-history label")
    runs.nth(1).wait_for()
    assert ["Ben: Two." in text for text in runs.all_inner_texts()] == [True, False]
    runs.nth(1).click()
    first.wait_for_status("An earlier run")
    assert first.page.locator("#hf-dialogue textarea").input_value() == "Ann: One."
    second = visit(context=first.context)
    second.open("History")
    second.page.get_by_text("No run yet").wait_for()
    assert second.page.locator("#hf-history label").count() == 0


def test_a_link_brings_somebody_else_to_the_same_example_and_settings(visit):
    visitor = visit()
    visitor.pick_example(2)
    visitor.set_tokens(11)
    visitor.choose("base", "lora")
    visitor.page.locator("#hf-seed input").fill("7")
    visitor.open("Link to")
    visitor.page.locator("#hf-make-link").click()
    visitor.page.wait_for_function(
        "document.querySelector('#hf-link').querySelector('input, textarea').value.startsWith('http')"
    )
    address = visitor.page.locator("#hf-link").locator("input, textarea").input_value()
    other = visit(query=address.partition("?")[2])
    expected = visitor.page.locator("#hf-dialogue textarea").input_value()
    other.page.wait_for_function("text => document.querySelector('#hf-dialogue textarea').value === text", arg=expected)
    ticked = other.page.locator("#hf-variants label:has(input:checked)").all_inner_texts()
    assert [text.split()[0] for text in ticked] == ["base", "lora"]
    other.open("Decoding")
    # A field is filled in after it was drawn.
    fields = [other.page.locator(f"#hf-{name}") for name in ("max_new_tokens input[type=number]", "seed input")]
    assert eventually(other.page, lambda: [field.input_value() for field in fields] == ["11", "7"])
