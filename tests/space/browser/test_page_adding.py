"""Adding an adapter by repo id, in a real browser, from a Hub on loopback."""

from __future__ import annotations

REFUSED = {
    "": "No adapter is named yet",
    "not a repo": "not the id of a repo",
    "../../etc/passwd": "not the id of a repo",
    "https://example.com/alice/lora": "not the id of a repo",
    "alice/nowhere": "There is no public repo alice/nowhere",
    "bob/his-lora": "takes adapters of alice only, not of bob",
    "alice/pickled": "a pickle, which can run code when it is read. It was not downloaded.",
}


def test_an_adapter_is_added_by_its_repo_id_and_answers(visit, space):
    visitor = visit()
    words = visitor.add("alice/more-lora")
    assert "alice/more-lora@" in words and "was checked" in words
    assert visitor.offered()[-1] == "alice/more-lora"
    visitor.pick_example()
    visitor.set_tokens(16)
    visitor.choose("base", "alice/more-lora")
    visitor.compare()
    assert visitor.titles() == ["base", "alice/more-lora"]
    assert visitor.figure("alice/more-lora", "From").startswith("alice/more-lora@")
    answer = space.service.ask("alice/more-lora", space.opened.examples[0].dialogue)
    assert answer.result(60).text.startswith(visitor.answer("alice/more-lora")[:20])


def test_an_adapter_that_one_tab_added_is_not_in_another(visit):
    visitor = visit()
    visitor.add("alice/more-lora")
    other = visit()
    assert "alice/more-lora" in visitor.offered() and "alice/more-lora" not in other.offered()


def test_what_cannot_be_added_is_said_in_words(visit):
    visitor = visit()
    before = visitor.offered()
    for repo_id, words in REFUSED.items():
        said = visitor.add(repo_id)
        assert words in said and "Not possible" in said
        assert "Traceback" not in said and "Error" not in said
    assert visitor.offered() == before
    assert visitor.toasts() == []
    assert visitor.page.locator("#hf-add-button").is_enabled()
