"""A Hub's folder is its own: nobody else's is served, and nothing of anybody else's in it is deleted."""

from __future__ import annotations

import os

import pytest

from hfplug.errors import HubConflictError, HubNotFoundError
from hfplug.hub.server import create_app, running_hub
from hfplug.hub.server.access import make_token, store_token
from hfplug.hub.server.carry import export_repo, import_repo


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def own_folders(tmp_path):
    """A user's home with folders that are called like the Hub's."""
    home = tmp_path / "home"
    (home / "repos" / "project" / "src").mkdir(parents=True)
    (home / "repos" / "project" / "src" / "main.py").write_text("print('mine')")
    (home / "trash").mkdir()
    (home / "trash" / "letter.txt").write_text("mine, too")
    return home


def serve(home, tmp_path):
    with running_hub(home):
        pass


def add_token(home, tmp_path):
    store_token(home, make_token(), "alice")


def bring_in(home, tmp_path):
    with running_hub(tmp_path / "hub") as hub:
        app_root = hub.root
    from hfplug.hub.server.shelf import Shelf

    Shelf(app_root).create("model", "alice", "adapter", author="alice", visibility="public")
    export_repo(app_root, "alice/adapter", tmp_path / "out")
    import_repo(home, tmp_path / "out", "alice/adapter")


def application(home, tmp_path):
    create_app(home)


@pytest.mark.parametrize("use", [serve, add_token, bring_in, application])
def test_a_folder_with_something_else_in_it_is_refused_and_untouched(own_folders, tmp_path, use):
    before = everything(own_folders)
    with pytest.raises(HubConflictError, match="is no folder of a Hub .* is not empty"):
        use(own_folders, tmp_path)
    assert everything(own_folders) == before


def test_nothing_is_exported_from_a_folder_that_is_no_hubs(own_folders, tmp_path):
    before = everything(own_folders)
    with pytest.raises(HubNotFoundError, match="no folder of a Hub"):
        export_repo(own_folders, "alice/adapter", tmp_path / "out")
    assert everything(own_folders) == before


def test_what_somebody_puts_into_a_hubs_folder_stays_there(hub, caplog):
    hub.api.create_repo("alice/adapter")
    hub.stop()
    (hub.root / "trash" / "letters").mkdir()
    (hub.root / "trash" / "letters" / "letter.txt").write_text("mine")
    (hub.root / "trash" / "0123456789abcdef").mkdir()
    (hub.root / "repos" / "models--alice--notes").mkdir()
    (hub.root / "repos" / "models--alice--notes" / "notes.txt").write_text("mine")
    hub.start()
    assert (hub.root / "trash" / "letters" / "letter.txt").read_text() == "mine"
    assert (hub.root / "repos" / "models--alice--notes" / "notes.txt").read_text() == "mine"
    assert not (hub.root / "trash" / "0123456789abcdef").exists()
    assert caplog.text.count("it is left alone") == 2
    with pytest.raises(Exception, match="holds something that is no repo"):
        hub.api.create_repo("alice/notes")
    assert [model.id for model in hub.api.list_models()] == ["alice/adapter"]


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
@pytest.mark.parametrize("made_by", ["the Hub", "the user"])
def test_other_users_of_the_machine_can_read_nothing_of_it(tmp_path, made_by):
    root = tmp_path / "hub"
    if made_by == "the user":
        root.mkdir(mode=0o755)
    with running_hub(root, tokens={"hf_test": "alice"}) as hub:
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi(endpoint=hub.endpoint, token="hf_test")
        api.create_repo("alice/hidden", private=True)
        api.create_commit("alice/hidden", [CommitOperationAdd("w.bin", b"secret" * 99)], commit_message="c")
        api.create_collection("mine", private=True)
    store_token(root, make_token(), "alice")
    if made_by == "the Hub":
        assert root.stat().st_mode & 0o777 == 0o700
    open_to_others = {path.name for path in root.iterdir() if path.stat().st_mode & 0o077}
    assert open_to_others <= {"hub.json", ".lock"}
    assert {path.name for path in root.iterdir()} >= {"repos", "trash", "collections", "tokens.json", "signing.key"}


def test_a_start_that_was_killed_before_it_marked_the_folder_can_be_made_again(tmp_path):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / ".hub.json.new-host-1-0123abcd-0").write_text("{")
    with running_hub(tmp_path / "hub"):
        assert (tmp_path / "hub" / "hub.json").is_file()
