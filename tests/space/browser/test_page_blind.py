"""The blind mode in a real browser: nothing gives a name away before the vote."""

from __future__ import annotations

import json
import urllib.request

import pytest
from browsing import DIALOGUE

CHOSEN = ("base", "full", "lora")


def get(address, values=None):
    """The body of a GET, or of a POST of JSON."""
    body = None if values is None else json.dumps(values).encode()
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def blind_round(visitor, *names):
    visitor.paste(DIALOGUE)
    visitor.set_tokens(24)
    visitor.choose(*names)
    visitor.page.get_by_label("Blind").check()
    visitor.compare()


def test_before_the_vote_nothing_names_a_column_and_after_it_everything_does(visit, space):
    visitor = visit()
    blind_round(visitor, *CHOSEN)
    assert visitor.titles() == ["Answer A", "Answer B", "Answer C"]
    hidden = visitor.page.locator("#hf-results").inner_html()
    for word in ("base", "full", "lora", "kB", "tokens/s", "ROUGE", "<mark", "hf-kind-adapter", "hf-kind-base"):
        assert word not in hidden, word
    assert visitor.page.locator("#hf-export").is_visible() is False
    texts = {title: visitor.answer(title) for title in visitor.titles()}

    visitor.page.locator("#hf-choice").get_by_label("Answer B").check()
    visitor.page.locator("#hf-vote-button").click()
    verdict = visitor.wait_for_status("You chose Answer B")
    titles = visitor.titles()
    assert sorted(titles) == sorted(CHOSEN)
    assert f"it is {titles[1]}. Your vote was kept." in verdict
    assert [visitor.answer(title) for title in titles] == list(texts.values())
    assert "Answer B" in visitor.column(titles[1]).inner_text()
    assert visitor.page.locator("#hf-vote").is_visible() is False
    vote = json.loads((space.folder / "votes.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert (vote["shown"], vote["choice"]) == (titles, titles[1])
    assert "dialogue" not in vote and "answers" not in vote


def test_what_the_server_sends_before_the_vote_holds_no_name(space):
    config = json.loads(get(f"{space.address}/config"))
    parts = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
    (run,) = (
        one for one in config["dependencies"] if [parts.get(part) for part, event in one["targets"]] == ["hf-compare"]
    )
    typed = {"hf-dialogue": DIALOGUE, "hf-reference": "They meet.", "hf-variants": list(CHOSEN), "hf-task": "summary"}
    typed |= {"hf-blind": True, "hf-max_new_tokens": 24, "hf-num_beams": 1, "hf-seed": 0}
    call = {
        "fn_index": run["id"],
        "data": [typed.get(parts[part]) for part in run["inputs"]],
        "session_hash": "somebody",
    }
    get(f"{space.address}/gradio_api/queue/join", call)
    came = get(f"{space.address}/gradio_api/queue/data?session_hash=somebody")
    assert came.count("Answer C") >= 2 and "process_completed" in came
    for word in (*CHOSEN, "tokens_per_second", "trainable_parameters", "tokens/s", "kB", "ROUGE"):
        assert word not in came, word


def test_a_tie_is_a_vote_and_the_order_is_shuffled(visit, space):
    visitor = visit()
    orders = set()
    for _ in range(6):
        blind_round(visitor, *CHOSEN)
        visitor.page.locator("#hf-choice").get_by_label("All equally good").check()
        visitor.page.locator("#hf-vote-button").click()
        visitor.wait_for_status("equally good")
        orders.add(tuple(visitor.titles()))
    assert len(orders) > 1  # the same order six times would be a chance of 1 in 7776
    assert json.loads((space.folder / "votes.jsonl").read_text(encoding="utf-8").splitlines()[-1])["choice"] == "tie"


@pytest.mark.slow
def test_a_column_that_is_not_what_it_says_takes_no_part(visit):
    visitor = visit()
    blind_round(visitor, "base", "lora", "drifted")
    assert visitor.titles() == ["Answer A", "Answer B"]
    assert "Left out of the blind round" in visitor.text("#hf-status")


@pytest.mark.slow
def test_a_vote_without_a_choice_is_asked_for_again(visit):
    visitor = visit()
    blind_round(visitor, "base", "lora")
    visitor.page.locator("#hf-vote-button").click()
    visitor.page.locator("#hf-vote").get_by_text("Nothing is chosen yet").wait_for()
    assert visitor.titles() == ["Answer A", "Answer B"]
