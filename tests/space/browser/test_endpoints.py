"""The named endpoints, by gradio_client."""

from __future__ import annotations

import time

import pytest
from browsing import DIALOGUE

from hfplug.serving.decoding import Decoding

NAMED = ["/compare", "/compare_stream", "/variants", "/examples", "/add_adapter", "/vote", "/report"]


@pytest.fixture(scope="module")
def client(space):
    from gradio_client import Client

    found = Client(space.address, verbose=False)
    yield found
    found.close()


def test_the_endpoints_have_names_and_words_and_no_others_are_shown(client):
    api = client.view_api(return_format="dict", print_info=False)
    assert sorted(api["named_endpoints"]) == sorted(NAMED)
    assert api["unnamed_endpoints"] == {}
    for name, endpoint in api["named_endpoints"].items():
        assert len(endpoint.get("description", "")) > 40, name


def test_compare_gives_plain_json_with_the_service_s_answers(client, space):
    found = client.predict(DIALOGUE, ["base", "lora"], reference="They meet.", max_new_tokens=12, api_name="/compare")
    assert [column["variant"] for column in found["columns"]] == ["base", "lora"]
    task = next(iter(space.opened.tasks().values()))  # adapters of other tasks may have been added by other tests
    for column in found["columns"]:
        asked = space.service.ask(column["variant"], DIALOGUE, task=task, decoding=Decoding(max_new_tokens=12))
        assert column["text"] == asked.result(60).text
        assert set(column["rouge"]) == {"rouge1", "rouge2", "rougeL"}
    assert found["columns"][1]["trainable_parameters"] == space.service.variant("lora").trainable_parameters


def test_all_variants_are_compared_if_none_is_named_and_a_seed_repeats_an_answer(client):
    settings = {"temperature": 1.0, "max_new_tokens": 10, "api_name": "/compare"}
    first, again, other = (client.predict(DIALOGUE, seed=seed, **settings) for seed in (3, 3, 4))
    assert len(first["columns"]) == 5
    texts = [[column["text"] for column in found["columns"]] for found in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]


def test_compare_stream_gives_what_there_is_so_far(client):
    job = client.submit(DIALOGUE, ["base", "lora"], max_new_tokens=40, api_name="/compare_stream")
    found = list(job)
    assert len(found) >= 2
    assert {column["state"] for column in found[-1]["columns"]} <= {"done", "length"}


def test_a_stream_that_is_cancelled_stops_its_answers(client, space, runs):
    dialogue = space.opened.examples[0].dialogue  # which lora answers at length
    job = client.submit(dialogue, ["base", "full", "lora", "drifted"], max_new_tokens=200, api_name="/compare_stream")
    next(iter(job))
    job.cancel()
    until = time.monotonic() + 60
    while not runs[0].finished and time.monotonic() < until:
        time.sleep(0.05)
    assert "stopped" in [column.state for column in runs[0].columns()]


def test_a_blind_round_is_voted_on_once_and_names_come_after_it(client, space):
    found = client.predict(DIALOGUE, ["base", "lora"], blind="on", max_new_tokens=8, api_name="/compare")
    assert [set(column) for column in found["columns"]] == [{"label", "state", "text", "problem"}] * 2
    with pytest.raises(Exception, match="is not an answer of this round"):
        client.predict(found["id"], "<script>", api_name="/vote")
    voted = client.predict(found["id"], "Answer A", api_name="/vote")
    assert voted["choice"] == voted["columns"]["Answer A"]
    assert sorted(voted["columns"].values()) == ["base", "lora"]
    with pytest.raises(Exception, match="no open blind round"):
        client.predict(found["id"], "Answer A", api_name="/vote")


def test_variants_examples_and_adding(client, space):
    variants = {one["name"]: one for one in client.predict(api_name="/variants")}
    assert list(variants)[:3] == ["base", "full", "lora"]
    assert variants["drifted"]["banner"] and not variants["lora"]["banner"]
    examples = client.predict(api_name="/examples")
    assert examples[0]["dialogue"] == space.opened.examples[0].dialogue
    added = client.predict("alice/more-lora", api_name="/add_adapter")
    assert added["name"] == "alice/more-lora" and added["source"].startswith("alice/more-lora@")
    found = client.predict(DIALOGUE, [added["name"]], max_new_tokens=6, api_name="/compare")
    assert found["columns"][0]["source"] == added["source"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (("", ["base"]), "There is no dialogue yet"),
        (("Anna: Hi.", ["nobody"]), "nobody"),
        (("x" * 200_000, ["base"]), "characters"),
    ],
)
def test_what_cannot_be_done_comes_back_as_a_sentence(client, call, words):
    with pytest.raises(Exception, match=words) as raised:
        client.predict(*call, api_name="/compare")
    assert "Traceback" not in str(raised.value)


def test_a_space_without_a_study_says_so(client):
    with pytest.raises(Exception, match="shows no study"):
        client.predict(api_name="/report")
