"""The catalogue shows what is on the Hub or in a folder, whoever made it, and finds it by what people ask for."""

from __future__ import annotations

import json
import logging
import time

import pytest
from pulling import BASE_ID, REPO, Pulling

from hfplug.cli.main import main
from hfplug.errors import AdapterError, HubUnavailableError
from hfplug.hub.catalogue import AdapterEntry, find_adapters
from hfplug.hub.pull import pull_adapter


@pytest.fixture
def pulling(hub, tmp_path):
    return Pulling(hub, tmp_path)


@pytest.fixture
def find(hub):
    """``find_adapters`` on the Hub of the test, without a token."""

    def make(*args, **options):
        return find_adapters(*args, endpoint=hub.endpoint, **{"token": False, **options})

    return make


@pytest.fixture
def filled(pulling, hub):
    """Four adapters of alice, a base, and a model that is none; one adapter of bob."""
    pulling.push(pulling.export("one", rouge1={"value": 0.3}, rougeLsum={"value": 0.2}), "alice/one")
    pulling.push(pulling.export("two", seed=2, method="qlora", rouge1={"value": 0.5}), "alice/two")
    pulling.push(pulling.export("three", seed=3), "alice/three", private="on")
    folder, _ = pulling.plain("ia3", kind="ia3")
    hub.api.create_repo("alice/by-peft")
    hub.api.upload_folder(folder_path=folder, repo_id="alice/by-peft", ignore_patterns="README.md")
    hub.api.create_repo("alice/tiny-llama")
    hub.api.upload_folder(folder_path=pulling.base, repo_id="alice/tiny-llama")
    folder, _ = pulling.plain("bobs")
    hub.other_api.create_repo("bob/by-peft")
    hub.other_api.upload_folder(folder_path=folder, repo_id="bob/by-peft")
    return pulling


def names(entries):
    return [entry.name for entry in entries]


def test_without_an_owner_or_a_base_it_lists_what_hfplug_made(filled, find, hub):
    assert sorted(names(find())) == ["alice/one", "alice/two"]
    assert sorted(names(find(token=hub.token))) == ["alice/one", "alice/three", "alice/two"]
    assert names(find(method="qlora")) == ["alice/two"]
    assert sorted(names(find(task="summary"))) == ["alice/one", "alice/two"]
    assert names(find(task="poetry")) == []


def test_with_an_owner_every_adapter_is_listed_and_no_base(filled, find):
    entries = {entry.name: entry for entry in find("alice")}
    assert sorted(entries) == ["alice/by-peft", "alice/one", "alice/two"]
    assert entries["alice/by-peft"].made_with == "other" and entries["alice/one"].made_with == "hfplug"
    assert (entries["alice/by-peft"].method, entries["alice/by-peft"].base) == ("ia3", BASE_ID)
    assert names(find("alice", method="ia3")) == ["alice/by-peft"]
    assert names(find("alice", base=BASE_ID, task="summary", method="LoRA")) == ["alice/one"]
    assert find("nobody") == []


def test_with_a_base_adapters_of_everybody_are_listed(filled, find):
    assert sorted(names(find(base=BASE_ID))) == ["alice/one", "alice/two", "bob/by-peft"]
    assert find(base="somebody/else") == []


def test_a_row_says_what_the_card_and_the_hub_say(filled, find, hub):
    (entry,) = [entry for entry in find("alice") if entry.name == "alice/one"]
    assert (entry.base, entry.method, entry.task, entry.visibility) == (BASE_ID, "lora", "summary", "public")
    assert entry.metrics == {"rouge1": 0.3, "rougeLsum": 0.2} and entry.rouge == 0.3
    assert entry.commit == hub.api.model_info("alice/one").sha
    weights = (filled.folder / "one" / "adapter_model.safetensors").stat().st_size
    assert weights <= entry.size < weights + 40_000
    assert entry.updated.startswith(str(hub.api.model_info("alice/one").last_modified.date()))
    assert json.loads(json.dumps(entry.to_json()))["metrics"] == entry.metrics


def test_it_is_sorted_by_rouge_by_size_and_by_date(filled, find):
    assert names(find("alice", sort="rouge"))[:2] == ["alice/two", "alice/one"]
    sizes = [entry.size for entry in find("alice", sort="size")]
    assert sizes == sorted(sizes) and len(sizes) == 3
    filled.push(filled.export("one-again", seed=9), "alice/one")
    assert names(find(sort="date"))[0] == "alice/one"
    with pytest.raises(AdapterError, match="rouge, size, date"):
        find(sort="beauty")


def test_every_page_is_read_and_a_limit_is_said(make_hub, tmp_path, caplog):
    hub = make_hub("small-pages", page_size=2)
    pulling = Pulling(hub, tmp_path)
    for number in range(5):
        pulling.push(pulling.export(f"n{number}", seed=number), f"alice/n{number}")
    entries = find_adapters("alice", endpoint=hub.endpoint, token=False)
    assert sorted(names(entries)) == [f"alice/n{number}" for number in range(5)]
    assert "Only the newest" not in caplog.text
    assert len(find_adapters("alice", endpoint=hub.endpoint, token=False, limit=3)) == 3
    assert "Only the newest 3 were looked at" in caplog.text


def test_hostile_cards_do_not_break_the_list(filled, find, hub, typed):
    result = {"task": {"type": "t"}, "dataset": {"type": "d", "name": "d"}, "metrics": [{"type": "m", "value": "high"}]}
    index = json.dumps([{"name": "x", "results": [result]}])
    card = f'---\ntags: [hfplug, "method:\\e[31mred", "task:"]\nbase_model: a/b\nmodel-index: {index}\n---\n'
    hub.api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id="alice/one")
    (entry,) = [entry for entry in find() if entry.name == "alice/one"]
    assert (entry.base, entry.metrics) == ("a/b", {})
    status, out, _ = typed("list")
    assert status == 0 and "alice/one" in out and "\x1b" not in out


def test_a_hub_that_does_not_answer_says_so_soon(find, hub):
    hub.stop()
    began = time.perf_counter()
    with pytest.raises(HubUnavailableError, match="cannot be reached"):
        find("alice")
    assert time.perf_counter() - began < 20  # the client on its own would go on for 23 seconds, three times


def test_a_failure_that_passes_is_waited_out(filled, find, hub):
    hub.faults.next(2, "500", "GET /api/models")
    hub.faults.next(1, "429", "GET /api/models", retry_after=0)
    assert len(find()) == 2


# ------------------------------------------------------------------------------------------------ folders


def test_a_tree_of_folders_is_a_catalogue_too(pulling, caplog):
    pulling.export("runs/one", rougeLsum={"value": 0.4})
    pulling.export("runs/two", seed=2, method="qlora")
    pulling.plain("runs/plain", kind="ia3")
    (pulling.folder / "runs" / "checkpoint").mkdir()
    broken = pulling.folder / "runs" / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{}")
    (pulling.folder / "runs" / "one-checkpoint" / "trainer_state.json").write_text("{}")
    (pulling.folder / "runs" / "two-checkpoint" / "trainer_state.json").write_text("{}")
    runs = pulling.folder / "runs"
    with caplog.at_level(logging.WARNING):
        entries = find_adapters(folder=runs, sort="rouge")
    assert names(entries) == [str(runs / name) for name in ("one", "two", "plain")]
    assert f"{broken} is left out" in caplog.text
    assert [entry.method for entry in entries] == ["lora", "qlora", "ia3"]
    assert entries[0].size == (runs / "one" / "adapter_model.safetensors").stat().st_size
    assert names(find_adapters(folder=runs, method="qlora", base=BASE_ID, task="summary")) == [str(runs / "two")]
    with pytest.raises(AdapterError, match="There is no folder"):
        find_adapters(folder=runs / "nowhere")
    with pytest.raises(AdapterError, match="Folders have no owner"):
        find_adapters("alice", folder=runs)


# ------------------------------------------------------------------------------------------------ commands


@pytest.fixture
def typed(hub, monkeypatch, capsys):
    """Runs a command line as alice; returns the status and what was printed."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub.cache))

    def run(*words):
        capsys.readouterr()
        status = main([str(word) for word in words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_list_prints_a_table_or_json(filled, typed):
    status, out, _ = typed("list", "--owner", "alice", "--sort", "rouge")
    lines = out.splitlines()
    assert status == 0 and lines[0].split() == ["adapter", "base", "method", "task", "size", "metrics", "updated"]
    assert lines[1].startswith("alice/two ") and "rouge1 0.5" in lines[1] and "qlora" in lines[1]
    assert any(line.startswith("alice/three (private)") for line in lines)
    rows = json.loads(typed("list", "--base", BASE_ID, "--method", "lora", "--json")[1])
    assert AdapterEntry(**next(row for row in rows if row["name"] == "alice/one")).rouge == 0.3
    assert "No adapter was found" in typed("list", "--owner", "nobody")[1]
    assert str(filled.folder / "one") in typed("list", "--folder", filled.folder)[1]


def test_pull_says_what_came_and_how_to_load_it(pulling, typed, hub):
    commit = pulling.push(pulling.export())
    status, out, _ = typed("pull", REPO)
    assert status == 0
    for words in (
        f"commit   {commit} (from the Hub)",
        f"base     {BASE_ID}",
        "method   lora",
        "task     summary",
        "metrics  rouge1 0.3",
        f'hfplug.load_from_hub("{REPO}", revision="{commit}")',
    ):
        assert words in out
    hub.stop()
    status, out, err = typed("pull", REPO)
    assert status == 0 and f"{commit} (from the cache)" in out
    status, out, err = typed("pull", "alice/nothing")
    assert status == 2 and err.startswith("hfplug: ") and "not in the cache" in err


def test_pull_copies_and_verifies(pulling, typed, tmp_path):
    pulling.push(pulling.export())
    status, out, err = typed("pull", f"hf://{REPO}", "--out", tmp_path / "mine", "--verify", "--base", pulling.base)
    assert (status, err) == (0, "") and f'hfplug.load_adapter("{tmp_path / "mine"}")' in out
    assert "verified the largest difference to the author's logits is" in out
    tensors = pulling.export("other", seed=4) / "adapter_model.safetensors"
    from hfplug.adapters.adapter_dir import AdapterDir

    AdapterDir.write(tmp_path / "forged", source=tmp_path / "mine", weights=tensors)
    status, _, err = typed("pull", tmp_path / "forged", "--verify", "--base", pulling.base)
    assert status == 2 and "does not answer as it did for its author" in err


def test_export_takes_an_adapter_on_the_hub_at_a_commit(pulling, typed, tmp_path):
    commit = pulling.push(pulling.export())
    pulling.push(pulling.export("newer", seed=4))
    words = ("--for", "peft", "--base", pulling.base, "--out", tmp_path / "mine")
    status, out, err = typed("export", f"{REPO}@{commit}", *words)
    assert (status, err) == (0, "") and "PeftModel.from_pretrained" in out
    from hfplug.adapters.files import file_sha256

    files = [folder / "adapter_model.safetensors" for folder in (tmp_path / "mine", pulling.folder / "export")]
    assert file_sha256(files[0]) == file_sha256(files[1])
    status, _, err = typed("export", "alice/nothing", *words[:-1], tmp_path / "other")
    assert status == 2 and err.startswith("hfplug: ") and not (tmp_path / "other").exists()


def test_what_list_shows_can_be_pulled(filled, find, hub):
    for entry in find("alice"):
        pulled = pull_adapter(entry.name, revision=entry.commit, endpoint=hub.endpoint, cache_dir=hub.cache)
        assert pulled.commit == entry.commit
