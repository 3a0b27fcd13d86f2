"""Repos are made, found, moved and deleted, of all three types; collections hold them."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from raw import request

CARD = """---
library_name: peft
base_model: google/flan-t5-small
pipeline_tag: summarization
license: mit
language: en
tags: [hfplug, lora, "task:summary"]
datasets: [knkarthick/dialogsum]
---
# An adapter
"""


def put(hub, repo, api=None, **files):
    operations = [CommitOperationAdd(name.replace("__", "."), text.encode()) for name, text in files.items()]
    return (api or hub.api).create_commit(repo, operations, commit_message="c")


def ids(models):
    return [model.id for model in models]


def test_creating_twice_is_409_and_exist_ok_gives_the_address(hub):
    made = hub.api.create_repo("alice/adapter")
    assert made == f"{hub.endpoint}/alice/adapter"
    with pytest.raises(HfHubHTTPError, match="409"):
        hub.api.create_repo("alice/adapter")
    assert hub.api.create_repo("alice/adapter", exist_ok=True).repo_id == "alice/adapter"
    assert hub.api.create_repo("adapter", exist_ok=True).repo_id == "alice/adapter"


def test_names_that_differ_only_in_case_are_one_repo(hub):
    hub.api.create_repo("alice/Adapter")
    with pytest.raises(HfHubHTTPError, match="409"):
        hub.api.create_repo("alice/adapter")
    assert hub.api.model_info("alice/aDAPTER").id == "alice/Adapter"


def test_the_three_types_are_kept_apart(hub):
    hub.api.create_repo("alice/x")
    hub.api.create_repo("alice/x", repo_type="dataset")
    hub.api.create_repo("alice/x", repo_type="space", space_sdk="gradio")
    for kind in ("model", "dataset", "space"):
        operations = [CommitOperationAdd("f.txt", kind.encode()), CommitOperationAdd("w.bin", kind.encode() * 9)]
        hub.api.create_commit("alice/x", operations, commit_message="c", repo_type=kind)
    for kind in ("model", "dataset", "space"):
        for name, times in (("f.txt", 1), ("w.bin", 9)):
            found = hub.api.hf_hub_download("alice/x", name, repo_type=kind, cache_dir=hub.cache)
            assert Path(found).read_text() == kind * times
    assert hub.api.space_info("alice/x").sdk == "gradio"
    assert ids(hub.api.list_datasets()) == ids(hub.api.list_spaces()) == ["alice/x"]
    hub.api.delete_repo("alice/x", repo_type="dataset")
    assert hub.api.repo_exists("alice/x") and not hub.api.repo_exists("alice/x", repo_type="dataset")


def test_a_deleted_repo_is_gone_from_the_disk_and_its_name_is_free(hub):
    hub.api.create_repo("alice/adapter")
    put(hub, "alice/adapter", f__txt="old text")
    hub.api.delete_repo("alice/adapter")
    with pytest.raises(RepositoryNotFoundError):
        hub.api.model_info("alice/adapter")
    with pytest.raises(RepositoryNotFoundError):
        hub.api.delete_repo("alice/adapter")
    hub.api.delete_repo("alice/adapter", missing_ok=True)
    assert all(b"old text" not in path.read_bytes() for path in hub.root.rglob("*") if path.is_file())
    hub.api.create_repo("alice/adapter")
    assert hub.api.list_repo_files("alice/adapter") == [".gitattributes"]


def test_a_moved_repo_keeps_its_history_under_the_new_name_only(hub):
    hub.api.create_repo("alice/old")
    head = put(hub, "alice/old", f__txt="text").oid
    hub.api.create_repo("alice/taken")
    with pytest.raises(HfHubHTTPError, match="409"):
        hub.api.move_repo("alice/old", "alice/taken")
    hub.api.move_repo("alice/old", "alice/new")
    assert hub.api.model_info("alice/new").sha == head
    assert not hub.api.repo_exists("alice/old")
    hub.stop()
    hub.start()
    assert hub.api.model_info("alice/new").sha == head


@pytest.mark.parametrize("name", ["a--b", "a..b", "-a", ".a", "a.git", "a" * 97, "ä", "a b", "a%2fb", "a/b", "..", ""])
def test_a_name_that_the_hub_would_refuse_is_refused(hub, name):
    made = request(hub.endpoint, "POST", "/api/repos/create", token=hub.token, body={"name": name})
    assert made.status == 400
    assert [path.name for path in (hub.root / "repos").iterdir()] == []


def test_a_model_is_described_by_its_card_and_its_files(hub):
    hub.api.create_repo("alice/adapter")
    config = '{"base_model_name_or_path": "google/flan-t5-small", "task_type": "SEQ_2_SEQ_LM"}'
    put(hub, "alice/adapter", README__md=CARD, adapter_config__json=config, adapter_model__safetensors="x" * 100)
    info = hub.api.model_info("alice/adapter", files_metadata=True)
    assert (info.author, info.library_name, info.pipeline_tag) == ("alice", "peft", "summarization")
    assert info.card_data.base_model == "google/flan-t5-small"
    assert info.config["peft"]["task_type"] == "SEQ_2_SEQ_LM"
    assert {"peft", "lora", "license:mit", "en", "dataset:knkarthick/dialogsum", "safetensors"} <= set(info.tags)
    assert {"base_model:google/flan-t5-small", "base_model:adapter:google/flan-t5-small"} <= set(info.tags)
    weights = next(file for file in info.siblings if file.rfilename == "adapter_model.safetensors")
    assert (weights.size, weights.lfs.size) == (100, 100)
    shown = hub.api.model_info("alice/adapter", expand=["sha", "tags"])
    assert (shown.sha, shown.siblings, shown.tags) == (info.sha, None, info.tags)


def test_models_are_found_by_tag_base_author_and_words(hub):
    for name, base, method in (("one", "a/b", "lora"), ("two", "a/b", "prompt"), ("three", "c/d", "lora")):
        hub.api.create_repo(f"alice/{name}")
        put(
            hub,
            f"alice/{name}",
            README__md=f"---\nbase_model: {base}\ntags: [{method}]\n---\n",
            adapter_config__json="{}",
        )
    hub.other_api.create_repo("bob/one")
    found = hub.anonymous.list_models
    assert set(ids(found(filter="base_model:a/b"))) == {"alice/one", "alice/two"}
    assert ids(found(filter=["base_model:adapter:a/b", "lora"])) == ["alice/one"]
    assert ids(found(author="bob")) == ["bob/one"]
    assert set(ids(found(search="one"))) == {"alice/one", "bob/one"}
    assert set(ids(found(search="ALICE t"))) == {"alice/two", "alice/three"}
    assert ids(found(filter="nothing")) == []
    assert ids(found(sort="last_modified", limit=2)) == ["bob/one", "alice/three"]
    put(hub, "alice/one", f__txt="newest")
    assert ids(found(sort="last_modified"))[0] == "alice/one"
    assert ids(found(sort="created_at"))[-1] == "alice/one"
    row = next(found(filter="prompt", full=True, cardData=True))
    assert (row.card_data.base_model, row.sha, len(row.siblings)) == (
        "a/b", hub.api.model_info("alice/two").sha, 3,
    )  # fmt: skip


def test_a_long_listing_comes_in_pages_that_the_client_follows(make_hub):
    hub = make_hub(page_size=2)
    for number in range(5):
        hub.api.create_repo(f"alice/r{number}")
    assert len(set(ids(hub.api.list_models(search="r")))) == 5
    assert hub.faults.count("GET /api/models") == 3
    assert len(list(hub.api.list_models(limit=3))) == 3
    operations = [CommitOperationAdd(f"d/{number}", b"x") for number in range(4)]
    hub.api.create_commit("alice/r0", operations, commit_message="c")
    assert len(list(hub.api.list_repo_tree("alice/r0", recursive=True))) == 6
    for number in range(3):
        put(hub, "alice/r0", f__txt=str(number))
    assert len(hub.api.list_repo_commits("alice/r0")) == 5


def test_everything_is_there_after_a_restart(hub):
    hub.api.create_repo("alice/adapter", private=True)
    head = put(hub, "alice/adapter", f__txt="text").oid
    hub.api.create_tag("alice/adapter", tag="v1")
    hub.api.create_collection("Adapters")
    hub.stop()
    hub.start()
    info = hub.api.model_info("alice/adapter", revision="v1")
    assert (info.sha, info.private) == (head, True)
    assert [one.title for one in hub.api.list_collections(owner="alice")] == ["Adapters"]


def test_a_collection_is_filled_read_changed_and_deleted(hub):
    hub.api.create_repo("alice/one")
    hub.api.create_repo("alice/two", private=True)
    made = hub.api.create_collection("Adapters of flan-t5", description="all of them")
    assert made.slug.startswith("alice/adapters-of-flan-t5-")
    with pytest.raises(HfHubHTTPError, match="409"):
        hub.api.create_collection("Adapters of flan-t5")
    assert hub.api.create_collection("Adapters of flan-t5", exists_ok=True).slug == made.slug
    hub.api.add_collection_item(made.slug, "alice/one", "model", note="the first")
    hub.api.add_collection_item(made.slug, "alice/two", "model")
    with pytest.raises(HfHubHTTPError, match="409"):
        hub.api.add_collection_item(made.slug, "alice/one", "model")
    hub.api.add_collection_item(made.slug, "alice/one", "model", exists_ok=True)
    read = hub.api.get_collection(made.slug)
    assert [(item.item_id, item.note) for item in read.items] == [("alice/one", "the first"), ("alice/two", None)]
    assert [item.item_id for item in hub.anonymous.get_collection(made.slug).items] == ["alice/one"]
    hub.api.update_collection_item(made.slug, read.items[1].item_object_id, note="second", position=0)
    assert [item.note for item in hub.api.get_collection(made.slug).items] == ["second", "the first"]
    renamed = hub.api.update_collection_metadata(made.slug, title="Renamed", private=True)
    assert hub.api.get_collection(made.slug).slug == renamed.slug
    with pytest.raises(HfHubHTTPError):
        hub.anonymous.get_collection(renamed.slug)
    hub.api.delete_collection_item(renamed.slug, read.items[0].item_object_id)
    hub.api.delete_collection_item(renamed.slug, read.items[0].item_object_id, missing_ok=True)
    assert [item.item_id for item in hub.api.get_collection(made.slug).items] == ["alice/two"]
    hub.api.delete_collection(renamed.slug)
    hub.api.delete_collection(renamed.slug, missing_ok=True)
    assert list(hub.api.list_collections(owner="alice")) == []


def test_a_collection_is_changed_by_its_owner_only(hub):
    hub.api.create_repo("alice/one")
    made = hub.api.create_collection("Mine")
    for attempt in (
        lambda: hub.other_api.add_collection_item(made.slug, "alice/one", "model"),
        lambda: hub.other_api.delete_collection(made.slug),
        lambda: hub.other_api.update_collection_metadata(made.slug, title="Yours"),
        lambda: hub.other_api.create_collection("Yours", namespace="alice"),
    ):
        with pytest.raises(HfHubHTTPError, match="403"):
            attempt()
    with pytest.raises(HfHubHTTPError, match="404"):
        hub.api.add_collection_item(made.slug, "alice/absent", "model")
    assert [one.slug for one in hub.api.list_collections(item="models/alice/one")] == []
