"""A card is what anybody writes and everybody lists: a bad one is refused, and breaks nothing for others."""

from __future__ import annotations

import hashlib
import json
import time

import pytest
from huggingface_hub import CommitOperationAdd
from raw import request

from hfplug.hub.server.cards import problems, read_card
from hfplug.hub.server.commit import Commit, File
from hfplug.hub.server.repo import Repo, now

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 12)
)
HOSTILE = {
    "not a number": "x: .nan",
    "infinite": "x: [1, {y: -.inf}]",
    "an alias bomb": BOMB,
    "too long": "x: " + "a" * 70_000,
    "too deep": "x: " + "[" * 5000 + "]" * 5000,
    "too large a number": f"x: {'9' * 400}",
    "not a truth": "x: !!bool maybe",
    "not a time": "x: !!timestamp never",
    "not a whole number": "x: !!int ''",
    "an object": "x: !!python/object/apply:os.getcwd []",
    "a key that is a list of lists": "? [[a]]\n: 1\n? {b: 1}\n: 2",
    "half a letter": 'x: "\\ud800"',
    "a parameter of the client": "ignore_metadata_errors: true",
    "another parameter of the client": "self: 1",
    "tags that are no list": "tags: 5",
}


def card(front_matter):
    return f"---\n{front_matter}\n---\n# A card\n"


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_card_is_an_error_in_words_and_at_once(kind):
    began = time.process_time()
    errors, _ = problems(card(HOSTILE[kind]))
    assert errors and time.process_time() - began < 1.0


@pytest.mark.parametrize(
    ("front_matter", "shown"),
    [
        ("3: a\ntrue: b\nnull: c\n2.5: d", {"3": "a", "true": "b", "null": "c", "2.5": "d"}),
        ("2020-01-02: 2020-01-02", {"2020-01-02": "2020-01-02"}),
        ("x: &name [1, 2.5, yes, ~]", {"x": [1, 2.5, True, None]}),
    ],
)
def test_what_yaml_has_and_json_has_not_becomes_text(front_matter, shown):
    assert read_card(card(front_matter)) == shown
    json.dumps(shown, allow_nan=False)


@pytest.mark.parametrize("kind", ["an alias bomb", "not a number", "too deep"])
def test_the_card_check_needs_no_token_and_is_not_held_up(hub, kind):
    answer = request(hub.endpoint, "POST", "/api/validate-yaml", body={"content": card(HOSTILE[kind])})
    assert answer.status == 400 and answer.json()["errors"]
    assert int(answer.headers["content-length"]) < 5000


@pytest.mark.parametrize("kind", ["not a number", "a key that is a list of lists", "another parameter of the client"])
def test_a_hostile_card_is_refused_by_whichever_way_it_comes(hub, kind):
    hub.api.create_repo("alice/adapter")
    data = card(HOSTILE[kind]).encode()
    sha256 = hashlib.sha256(data).hexdigest()
    batch = {"operation": "upload", "objects": [{"oid": sha256, "size": len(data)}]}
    batch = request(hub.endpoint, "POST", "/alice/adapter.git/info/lfs/objects/batch", token=hub.token, body=batch)
    href = batch.json()["objects"][0]["actions"]["upload"]["href"].removeprefix(hub.endpoint)
    assert request(hub.endpoint, "PUT", href, body=data).status == 200
    large = {"key": "lfsFile", "value": {"path": "README.md", "algo": "sha256", "oid": sha256, "size": len(data)}}
    small = {"key": "file", "value": {"path": "README.md", "content": data.decode()}}
    for line in (small, large):
        lines = [{"key": "header", "value": {"summary": "s"}}, line]
        body = "\n".join(map(json.dumps, lines)).encode()
        answer = request(hub.endpoint, "POST", "/api/models/alice/adapter/commit/main", token=hub.token, body=body)
        assert (answer.status, "Invalid metadata in README.md" in answer.json()["error"]) == (400, True)


def put(hub, name, text):
    operations = [CommitOperationAdd("README.md", text.encode())]
    hub.api.create_commit(name, operations, commit_message="a card")


def put_past_the_checks(hub, name, files):
    """A repo as an older or a careless Hub would have it."""
    repo = Repo(hub.root / "repos" / f"models--{name.replace('/', '--')}")
    found = {}
    for path, data in files.items():
        repo.objects.put(data)
        found[path] = File.regular(data)
    with repo.changing() as state:
        parents = (state["branches"]["main"],)
        state["branches"]["main"] = repo.add_commit(Commit(parents, "alice", now(), "t", "", found))


def test_no_card_and_no_configuration_takes_the_catalogue_down(hub):
    hub.api.create_repo("alice/good")
    put(hub, "alice/good", card("tags: [a]"))
    configs = ['{"architectures": NaN}', "[" * 100_000, '{"model_type": "\\ud800"}', '{"model_type": [[1]]}', "\xff"]
    for number, kind in enumerate(HOSTILE):
        hub.api.create_repo(f"alice/bad-{number}")
        config = configs[number % len(configs)].encode("latin-1")
        files = {"README.md": card(HOSTILE[kind]).encode(), "config.json": config, "adapter_config.json": config}
        put_past_the_checks(hub, f"alice/bad-{number}", files)
    hub.stop()
    hub.start()
    found = {model.id: model for model in hub.anonymous.list_models(full=True, cardData=True, fetch_config=True)}
    assert len(found) == 1 + len(HOSTILE)
    assert found["alice/good"].tags == ["a"]
    assert [model.id for model in hub.anonymous.list_models(filter="a")] == ["alice/good"]
    assert hub.anonymous.model_info("alice/bad-0").card_data is None


def test_a_damaged_repo_is_left_out_of_a_listing_and_the_others_are_in_it(hub, caplog):
    for name in ("alice/good", "alice/bad"):
        hub.api.create_repo(name)
    for commit in (hub.root / "repos" / "models--alice--bad" / "commits").iterdir():
        commit.write_text("{")
    hub.stop()
    hub.start()
    assert [model.id for model in hub.api.list_models()] == ["alice/good"]
    assert "model alice/bad is left out of a listing" in caplog.text


def test_of_a_readme_of_many_megabytes_the_start_is_read(hub):
    hub.api.create_repo("alice/adapter")
    put(hub, "alice/adapter", card("tags: [a]") + "words " * 2_000_000)
    assert hub.api.model_info("alice/adapter").tags == ["a"]
