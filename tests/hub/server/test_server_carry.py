"""A repo goes out of one Hub as a folder and into another, whole or not at all."""

from __future__ import annotations

import json
import shutil

import pytest
from huggingface_hub import CommitOperationAdd

from hfplug.errors import HubConflictError, HubNotFoundError, HubRejectedError
from hfplug.hub.server.carry import export_repo, import_repo


@pytest.fixture
def source(make_hub):
    hub = make_hub("source")
    hub.api.create_repo("alice/adapter")
    put(hub, "f.txt", b"one")
    hub.api.create_tag("alice/adapter", tag="v1")
    hub.api.create_branch("alice/adapter", branch="runs/a")
    put(hub, "branch.txt", b"branch", revision="runs/a")
    put(hub, "w.safetensors", b"weights" * 1000)
    put(hub, "pr.txt", b"proposal", create_pr=True)
    return hub


def put(hub, path, data, **keywords):
    operations = [CommitOperationAdd(path, data)]
    return hub.api.create_commit("alice/adapter", operations, commit_message=f"put {path}", **keywords).oid


def content(hub, repo, path, revision):
    with open(hub.api.hf_hub_download(repo, path, revision=revision, cache_dir=hub.cache), "rb") as file:
        return file.read()


def all_refs(hub, repo):
    refs = hub.api.list_repo_refs(repo, include_pull_requests=True)
    return {ref.ref: ref.target_commit for ref in [*refs.branches, *refs.tags, *refs.pull_requests]}


def test_history_branches_tags_and_pull_requests_arrive_under_the_same_names(source, make_hub, tmp_path):
    carried = export_repo(source.root, "alice/adapter", tmp_path / "out")
    target = make_hub("target")
    target.stop()
    arrived = import_repo(target.root, tmp_path / "out", "bob/adapter", visibility="public")
    target.start()
    assert (arrived.head, arrived.commits, arrived.bytes) == (carried.head, carried.commits, carried.bytes)
    assert all_refs(target, "bob/adapter") == all_refs(source, "alice/adapter")
    assert content(target, "bob/adapter", "w.safetensors", "main") == b"weights" * 1000
    assert content(target, "bob/adapter", "branch.txt", "runs/a") == b"branch"
    assert content(target, "bob/adapter", "pr.txt", "refs/pr/1") == b"proposal"
    assert content(target, "bob/adapter", "f.txt", "v1") == b"one"
    assert [commit.commit_id for commit in target.api.list_repo_commits("bob/adapter")] == [
        commit.commit_id for commit in source.api.list_repo_commits("alice/adapter")
    ]
    target.other_api.create_commit("bob/adapter", [CommitOperationAdd("n", b"n")], commit_message="goes on")


def test_an_imported_repo_is_private_unless_told_otherwise(source, make_hub, tmp_path):
    export_repo(source.root, "alice/adapter", tmp_path / "out")
    target = make_hub("target")
    target.stop()
    import_repo(target.root, tmp_path / "out", "alice/here")
    target.start()
    assert target.api.model_info("alice/here").private is True
    assert not target.other_api.repo_exists("alice/here")


def damage_content(folder):
    next((folder / "objects").glob("??/*")).write_bytes(b"other bytes")


def damage_commit(folder):
    commit = next((folder / "commits").iterdir())
    commit.write_bytes(commit.read_bytes().replace(b'"author":"alice"', b'"author":"mallory"'))


def damage_state(folder):
    text = (folder / "state.json").read_text()
    (folder / "state.json").write_text(text.replace('"v1"', '"v2"'))


def remove_content(folder):
    next((folder / "objects").glob("??/*")).unlink()


def remove_commit(folder):
    next((folder / "commits").iterdir()).unlink()


def forge_path(folder):
    """A whole history, rightly named, with a file that leads out."""
    from hfplug.hub.server.commit import Commit, name_of
    from hfplug.hub.server.repo import write_commit

    state = json.loads((folder / "state.json").read_text())
    head = state["branches"]["main"]
    old = Commit.from_bytes((folder / "commits" / f"{head}.json").read_bytes())
    file = next(iter(old.files.values()))
    commit = Commit((head,), "alice", old.date, "forged", "", {"../../../outside.txt": file})
    state["branches"]["main"] = write_commit(folder, commit)
    assert state["branches"]["main"] == name_of(commit.to_bytes())
    reseal(folder, state)


def forge_last_commit(folder, **changes):
    """A whole history, rightly named, whose last commit has a file that is described wrongly."""
    from dataclasses import replace

    from hfplug.hub.server.commit import Commit
    from hfplug.hub.server.repo import write_commit

    state = json.loads((folder / "state.json").read_text())
    head = state["branches"]["main"]
    commit = Commit.from_bytes((folder / "commits" / f"{head}.json").read_bytes())
    files = {path: replace(file, **changes) for path, file in commit.files.items()}
    state["branches"]["main"] = write_commit(folder, replace(commit, parents=(head,), files=files))
    reseal(folder, state)


def forge_blob(folder):
    forge_last_commit(folder, blob="0" * 40)


def forge_kind_of_file(folder):
    forge_last_commit(folder, kind="lfs")


def forge_size(folder):
    forge_last_commit(folder, size="large")


def forge_state(folder):
    state = json.loads((folder / "state.json").read_text())
    reseal(folder, {**state, "created_at": 5})


def forge_commit_name(folder):
    state = json.loads((folder / "state.json").read_text())
    state["branches"]["main"] = "../../../tokens"
    reseal(folder, state)


def forge_kinds(folder):
    state = json.loads((folder / "state.json").read_text())
    reseal(folder, {**state, "tags": {"v1": 3}})


def reseal(folder, state):
    import hashlib

    (folder / "state.json").write_text(json.dumps(state))
    about = json.loads((folder / "repo.json").read_text())
    about["sha256"]["state.json"] = hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()
    (folder / "repo.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    "damage",
    [
        damage_content,
        damage_commit,
        damage_state,
        remove_content,
        remove_commit,
        forge_path,
        forge_blob,
        forge_kind_of_file,
        forge_size,
        forge_state,
        forge_commit_name,
        forge_kinds,
    ],
)
def test_what_was_changed_on_the_way_is_refused_and_leaves_nothing(source, tmp_path, damage):
    export_repo(source.root, "alice/adapter", tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(HubRejectedError, match="damaged"):
        import_repo(tmp_path / "target", tmp_path / "out", "bob/adapter")
    assert list((tmp_path / "target").glob("repos/*")) == list((tmp_path / "target").glob("trash/*")) == []


def test_a_damaged_repo_is_not_exported(source, tmp_path):
    damage_content(source.root / "repos" / "models--alice--adapter")
    with pytest.raises(HubRejectedError, match="was changed"):
        export_repo(source.root, "alice/adapter", tmp_path / "out")


def test_what_is_not_there_or_is_taken_is_said(source, make_hub, tmp_path):
    with pytest.raises(HubNotFoundError, match="has no model 'alice/absent'"):
        export_repo(source.root, "alice/absent", tmp_path / "out")
    with pytest.raises(HubNotFoundError, match="no folder of a Hub"):
        export_repo(tmp_path / "absent", "alice/adapter", tmp_path / "out")
    export_repo(source.root, "alice/adapter", tmp_path / "out")
    with pytest.raises(HubConflictError, match="not empty"):
        export_repo(source.root, "alice/adapter", tmp_path / "out")
    with pytest.raises(HubConflictError, match="being served"):
        import_repo(source.root, tmp_path / "out", "alice/again")
    source.stop()
    with pytest.raises(HubConflictError, match="there is a model 'alice/adapter' already"):
        import_repo(source.root, tmp_path / "out", "alice/adapter")
    with pytest.raises(HubRejectedError, match="no exported repo"):
        import_repo(tmp_path / "target", tmp_path, "alice/x")
    for name in ("../x", "alice", "a--b/x", "alice/x/y"):
        with pytest.raises(HubRejectedError):
            import_repo(tmp_path / "target", tmp_path / "out", name)


def test_an_exported_folder_names_no_token_and_no_grants(source, tmp_path):
    source.api.update_repo_settings("alice/adapter", gated="manual")
    source.api.grant_access("alice/adapter", "bob")
    export_repo(source.root, "alice/adapter", tmp_path / "out")
    text = (tmp_path / "out" / "state.json").read_text()
    assert json.loads(text)["granted"] == []
    assert not list((tmp_path / "out").rglob("*token*")) and source.token not in text
    shutil.rmtree(tmp_path / "out")
