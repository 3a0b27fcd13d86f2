"""A file that is damaged, or that is nobody's, is named in the log; the Hub starts and serves the rest."""

from __future__ import annotations

import os

import pytest
from huggingface_hub import CommitOperationAdd

from hfplug.hub.server.xet_store import XorbStore


def put(hub, name):
    hub.api.create_repo(name, exist_ok=True)
    hub.api.create_commit(name, [CommitOperationAdd("w.bin", b"weights" * 99)], commit_message="c")


@pytest.mark.parametrize("state", ["{", "[]", '{"format": 7}', '{"format": 1, "type": "model"}', "\xff", "[" * 100_000])
def test_a_repo_with_a_damaged_state_is_left_out_and_kept(hub, caplog, state):
    put(hub, "alice/good")
    put(hub, "alice/bad")
    folder = hub.root / "repos" / "models--alice--bad"
    hub.stop()
    (folder / "state.json").write_bytes(state.encode("latin-1"))
    hub.start()
    assert [model.id for model in hub.api.list_models()] == ["alice/good"]
    assert f"{folder / 'state.json'} is damaged" in caplog.text
    assert any((folder / "objects").rglob("*"))  # somebody may still want to put it right


def test_a_copy_of_a_repo_in_the_folder_does_not_take_its_place(hub, caplog):
    import shutil

    put(hub, "alice/adapter")
    folder = hub.root / "repos" / "models--alice--adapter"
    shutil.copytree(folder, folder.with_name("models--alice--adapter (copy)"))
    head = hub.api.create_commit(
        "alice/adapter", [CommitOperationAdd("n.txt", b"newer")], commit_message="after the copy"
    ).oid
    hub.stop()
    hub.start()
    assert hub.api.model_info("alice/adapter").sha == head
    assert "is a copy of model alice/adapter" in caplog.text


def test_a_damaged_collection_is_left_out_of_the_listing(hub):
    kept, damaged = (hub.api.create_collection(title) for title in ("kept", "damaged"))
    (hub.root / "collections" / f"{damaged.slug.rpartition('-')[2]}.json").write_text("{}")
    (hub.root / "collections" / "notes.json").write_text("mine")
    assert [one.slug for one in hub.api.list_collections(owner="alice")] == [kept.slug]


def test_files_that_a_desktop_leaves_do_not_keep_the_hub_from_starting(hub):
    put(hub, "alice/adapter")
    repo = hub.root / "repos" / "models--alice--adapter"
    strays = [
        hub.root / "xet" / "xorbs" / "ab" / ".DS_Store", repo / "xet" / "ab" / ".DS_Store",
        hub.root / "repos" / ".DS_Store", hub.root / "trash" / ".DS_Store", hub.root / "collections" / ".DS_Store",
        repo / "commits" / ".DS_Store", repo / "objects" / ".DS_Store",
    ]  # fmt: skip
    for stray in strays:
        stray.parent.mkdir(parents=True, exist_ok=True)
        stray.write_text("x")
    hub.stop()
    hub.start()
    assert hub.api.model_info("alice/adapter").id == "alice/adapter"
    assert all(stray.is_file() for stray in strays)


def test_a_note_of_a_xet_file_that_was_cut_short_is_forgotten_and_the_file_is_there(hub):
    put(hub, "alice/adapter")
    repo = hub.root / "repos" / "models--alice--adapter"
    name = "ab" + "0" * 62
    content = next(path for path in (repo / "objects").rglob("*") if path.is_file())
    content.with_suffix(".xet").write_text(name)
    (repo / "xet" / "ab").mkdir(parents=True)
    (repo / "xet" / "ab" / name[2:]).write_bytes(os.urandom(50))
    hub.stop()
    hub.start()
    assert not content.with_suffix(".xet").exists() and not (repo / "xet" / "ab" / name[2:]).exists()
    assert content.is_file()
    assert XorbStore(hub.root / "xet").sweep(set()) == 0
