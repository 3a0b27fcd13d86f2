"""A parcel arrives once, whatever the Hub does: through the real client, over HTTP."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationCopy
from safetensors.torch import save_file

from hfplug.errors import (
    HubAccessError,
    HubConflictError,
    HubError,
    HubNotFoundError,
    HubRejectedError,
    HubUnavailableError,
    UnsafeFileError,
)
from hfplug.hub.client import connect
from hfplug.hub.parcel import pack
from hfplug.hub.send import send

REPO = "alice/my-adapter"


@pytest.fixture
def make_parcel(tmp_path):
    """``make_parcel(value)``: a parcel of the least that is an adapter, one tensor full of ``value``."""

    def make(value=0.0, *, repo_id=REPO, bias=None, **options):
        folder = tmp_path / f"adapter-{value}"
        folder.mkdir(exist_ok=True)
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "google/flan-t5-small"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        save_file({"layer.lora_A.weight": torch.full((64, 64), value)}, folder / "adapter_model.safetensors")
        count = len(list(tmp_path.glob("parcel-*")))
        return pack(folder, tmp_path / f"parcel-{count}", repo_id=repo_id, **options)

    return make


@pytest.fixture
def client(hub):
    return connect(hub.endpoint, hub.token, timeout=10)


def commits(hub, revision=None, repo_id=REPO):
    """Titles of the commits of a branch without the Hub's own first one, newest first."""
    return [commit.title for commit in hub.api.list_repo_commits(repo_id, revision=revision)][:-1]


def read(hub, name, revision=None, repo_id=REPO):
    path = hub.api.hf_hub_download(repo_id, name, revision=revision, cache_dir=hub.cache)
    return Path(path).read_bytes()


def test_the_repo_holds_exactly_the_bytes_of_the_parcel(hub, client, make_parcel):
    parcel = make_parcel()
    sent = send(client, parcel, REPO, message="first")
    assert sent.changed and sent.commit == hub.api.model_info(REPO).sha
    assert sent.url == f"{hub.endpoint}/{REPO}/commit/{sent.commit}"
    assert set(hub.api.list_repo_files(REPO)) - {".gitattributes"} == set(parcel.files)
    for name in parcel.files:
        assert read(hub, name) == (parcel.folder / name).read_bytes()
    assert commits(hub) == ["first"]


def test_unchanged_content_makes_no_commit(hub, client, make_parcel):
    first = send(client, make_parcel(), REPO)
    again = send(client, make_parcel(), REPO)
    assert not again.changed and again.commit == first.commit
    assert len(commits(hub)) == 1
    assert hub.faults.count("POST .*/commit/") == 1


def test_only_what_changed_is_sent_and_in_one_commit(hub, client, make_parcel):
    send(client, make_parcel(0.0), REPO, message="first")
    before = hub.faults.count("PUT ")
    send(client, make_parcel(1.0), REPO, message="second")
    assert commits(hub) == ["second", "first"]
    assert hub.faults.count("PUT ") == before + 1


def test_the_visibility_is_what_was_asked_for(hub, client, make_parcel):
    send(client, make_parcel(), REPO, private="on")
    assert hub.api.model_info(REPO).private
    send(client, make_parcel(), "alice/open", private="off")
    assert not hub.api.model_info("alice/open").private
    with pytest.raises(HubConflictError, match="everybody can read it"):
        send(client, make_parcel(1.0), "alice/open", private="on")
    assert len(commits(hub, repo_id="alice/open")) == 1


def test_a_branch_is_made_and_main_is_left_alone(hub, client, make_parcel):
    send(client, make_parcel(), REPO, revision="trial/one", message="on a branch")
    assert commits(hub, "trial/one") == ["on a branch"]
    assert commits(hub) == []
    with pytest.raises(HubRejectedError, match="goes to a branch"):
        send(client, make_parcel(), REPO, revision="a" * 40)


def test_a_pull_request_leaves_the_branch_alone_and_is_opened_once(hub, client, make_parcel):
    send(client, make_parcel(0.0), REPO, message="first")
    sent = send(client, make_parcel(1.0), REPO, create_pr="on", message="proposal")
    assert sent.pull_request == 1 and sent.changed
    assert sent.url == f"{hub.endpoint}/{REPO}/discussions/1"
    assert commits(hub) == ["first"]
    assert read(hub, "adapter_model.safetensors", "refs/pr/1") != read(hub, "adapter_model.safetensors")
    again = send(client, make_parcel(1.0), REPO, create_pr="on", message="proposal")
    assert again.pull_request == 1 and not again.changed
    hub.api.change_discussion_status(REPO, 1, "closed")
    assert send(client, make_parcel(1.0), REPO, create_pr="on").pull_request == 2


def test_an_open_pull_request_is_pushed_to_by_its_name(hub, client, make_parcel):
    send(client, make_parcel(0.0), REPO)
    send(client, make_parcel(1.0), REPO, create_pr="on", message="proposal")
    send(client, make_parcel(2.0), REPO, revision="refs/pr/1", message="better")
    assert commits(hub, "refs/pr/1")[:2] == ["better", "proposal"]


@pytest.mark.parametrize("kind", ["lost", "truncated"])
def test_a_commit_whose_answer_was_lost_is_recognised(hub, client, make_parcel, kind):
    send(client, make_parcel(0.0), REPO, message="first")
    hub.faults.next(1, kind, "POST .*/commit/")
    sent = send(client, make_parcel(1.0), REPO, message="second")
    assert hub.faults.left == 0
    assert sent.changed and sent.commit == hub.api.model_info(REPO).sha
    assert commits(hub) == ["second", "first"]


def test_a_pull_request_whose_answer_was_lost_is_recognised(hub, client, make_parcel):
    send(client, make_parcel(0.0), REPO)
    hub.faults.next(1, "lost", "POST .*/commit/")
    sent = send(client, make_parcel(1.0), REPO, create_pr="on")
    assert (sent.pull_request, sent.changed) == (1, True)
    assert [pull.num for pull in hub.api.get_repo_discussions(REPO)] == [1]


def test_a_delivery_that_landed_is_not_repeated_on_top_of_later_ones(hub, client, make_parcel):
    first = send(client, make_parcel(0.0), REPO, message="first", parcel_id="one")
    send(client, make_parcel(1.0), REPO, message="second", parcel_id="two")
    again = send(client, make_parcel(0.0), REPO, message="first", parcel_id="one")
    assert (again.commit, again.changed) == (first.commit, False)
    assert commits(hub) == ["second", "first"]
    # Another delivery of the same content is no repetition.
    send(client, make_parcel(0.0), REPO, message="back", parcel_id="three")
    assert commits(hub) == ["back", "second", "first"]


def test_a_commit_that_is_given_up_cannot_be_made_twice(hub, make_parcel):
    impatient = connect(hub.endpoint, hub.token, timeout=1)
    send(impatient, make_parcel(0.0), REPO, message="first")
    hub.faults.next(1, "delay", "POST .*/commit/", seconds=2)
    with pytest.raises(HubUnavailableError):
        send(impatient, make_parcel(1.0), REPO, message="second")
    patient = connect(hub.endpoint, hub.token, timeout=20)
    send(patient, make_parcel(1.0), REPO, message="second")
    threading.Event().wait(2.5)
    assert commits(hub) == ["second", "first"]


def _meddle(hub, number):
    """Somebody else pushes."""
    hub.api.upload_file(
        path_or_fileobj=b"%d" % number,
        path_in_repo=f"notes-{number}.txt",
        repo_id=REPO,
        commit_message=f"theirs {number}",
    )


def test_a_head_that_moved_is_built_upon_and_nothing_of_it_is_lost(hub, client, make_parcel, monkeypatch):
    send(client, make_parcel(0.0), REPO, message="first")
    theirs = read(hub, "README.md").decode().replace("# ", "# Our ", 1)
    create, moved = client.api.create_commit, []

    def moved_first(*arguments, **keywords):
        if not moved:
            moved.append(True)
            hub.api.upload_file(path_or_fileobj=theirs.encode(), path_in_repo="README.md", repo_id=REPO)
            _meddle(hub, 1)
        return create(*arguments, **keywords)

    monkeypatch.setattr(client.api, "create_commit", moved_first)
    sent = send(client, make_parcel(1.0), REPO, message="second")
    assert sent.changed and commits(hub)[0] == "second" and len(commits(hub)) == 4
    assert read(hub, "notes-1.txt") == b"1"
    assert "# Our " in read(hub, "README.md").decode()
    statuses = [seen for seen in hub.faults.seen if re.match("POST .*/commit/", seen)]
    assert len(statuses) == 5  # first, theirs twice, the stale one, the second


def test_a_head_that_keeps_moving_is_given_up(hub, client, make_parcel, monkeypatch):
    send(client, make_parcel(0.0), REPO, message="first")
    create, moves = client.api.create_commit, []

    def moved_first(*arguments, **keywords):
        moves.append(True)
        _meddle(hub, len(moves))
        return create(*arguments, **keywords)

    monkeypatch.setattr(client.api, "create_commit", moved_first)
    with pytest.raises(HubConflictError, match="somebody else pushed to main 4 times"):
        send(client, make_parcel(1.0), REPO, message="second")
    assert "second" not in commits(hub) and len(moves) == 4


@pytest.mark.parametrize("edit", [lambda text: text.replace("# ", "# My ", 1), lambda text: text + "\nBy hand.\n"])
def test_an_edited_card_keeps_its_text_and_its_licence(hub, client, make_parcel, edit):
    send(client, make_parcel(0.0, licence="mit"), REPO)
    edited = edit(read(hub, "README.md").decode().replace("license: mit", "license: apache-2.0"))
    hub.api.upload_file(path_or_fileobj=edited.encode(), path_in_repo="README.md", repo_id=REPO)
    sent = send(client, make_parcel(1.0, licence="mit"), REPO)
    card = read(hub, "README.md").decode()
    assert card == edited  # the sections say the same of both adapters
    assert any("license: apache-2.0, which stays; you asked for mit" in note for note in sent.notes)
    assert sent.changed and not send(client, make_parcel(1.0, licence="mit"), REPO).changed


def test_a_licence_that_is_not_repeated_stays(hub, client, make_parcel):
    send(client, make_parcel(0.0, licence="mit"), REPO)
    send(client, make_parcel(1.0), REPO)
    assert "license: mit" in read(hub, "README.md").decode()


def test_a_card_without_front_matter_gets_one_and_keeps_its_text(hub, client, make_parcel):
    hub.api.create_repo(REPO)
    hub.api.upload_file(path_or_fileobj=b"Just text, no front matter.\n", path_in_repo="README.md", repo_id=REPO)
    send(client, make_parcel(), REPO)
    card = read(hub, "README.md").decode()
    assert "Just text, no front matter." in card and "library_name: peft" in card


def test_a_card_that_cannot_be_merged_with_is_left_and_the_adapter_arrives(hub, client, make_parcel):
    hub.api.create_repo(REPO)
    theirs = "# Th\u00e9irs\n".encode("latin-1")
    operation = CommitOperationAdd("notes/README.md", theirs)
    hub.api.create_commit(REPO, [operation], commit_message="theirs")
    copied = CommitOperationCopy("notes/README.md", "README.md")
    hub.api.create_commit(REPO, [copied], commit_message="copied")
    sent = send(client, make_parcel(), REPO)
    assert sent.changed and read(hub, "README.md") == theirs
    assert any("is left as it is" in note for note in sent.notes)


def test_files_that_are_none_of_an_adapters_stay_and_stale_ones_go(hub, client, make_parcel):
    hub.api.create_repo(REPO)
    for name in ("notes.md", "adapter_model.bin", "hfplug_lock.json", "images/plot.png"):
        hub.api.upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id=REPO)
    sent = send(client, make_parcel(), REPO)
    assert {"notes.md", "adapter_model.bin", "images/plot.png"} < set(hub.api.list_repo_files(REPO))
    assert "hfplug_lock.json" not in hub.api.list_repo_files(REPO)
    said = " ".join(sent.notes)
    assert "hf repos delete-files alice/my-adapter adapter_model.bin" in said and "hfplug_lock.json" in said


def test_an_adapter_is_not_mixed_into_the_repo_of_a_full_model(hub, client, make_parcel):
    hub.api.create_repo(REPO)
    for name in ("config.json", "model.safetensors"):
        hub.api.upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id=REPO)
    with pytest.raises(HubConflictError, match="holds a full model"):
        send(client, make_parcel(), REPO)


def test_no_token_leaves_in_a_file_that_was_tampered_with_after_packing(hub, client, make_parcel):
    parcel = make_parcel()
    with open(parcel.folder / "README.md", "a") as file:
        file.write(f"\n{hub.token}\n")
    with pytest.raises(UnsafeFileError, match="README.md holds what looks like an access token") as caught:
        send(client, parcel, REPO)
    assert hub.token not in str(caught.value)
    assert hub.faults.seen == []


def test_who_may_not_write_is_told_so(hub, make_parcel):
    nobody = connect(hub.endpoint, "hf_" + "x" * 34, timeout=10)
    with pytest.raises(HubAccessError, match="does not accept the token"):
        send(nobody, make_parcel(), REPO)
    bob = connect(hub.endpoint, hub.other_token, timeout=10)
    with pytest.raises(HubAccessError, match="the token may not do that.*settings/tokens"):
        send(bob, make_parcel(), REPO)
    send(connect(hub.endpoint, hub.token), make_parcel(), REPO)
    with pytest.raises(HubAccessError, match="the token may not do that"):
        send(bob, make_parcel(1.0), REPO)


def test_a_private_repo_of_somebody_else_is_not_there(hub, client, make_parcel):
    send(client, make_parcel(), REPO, private="on")
    bob = connect(hub.endpoint, hub.other_token, timeout=10)
    with pytest.raises((HubAccessError, HubNotFoundError)):
        send(bob, make_parcel(1.0), REPO)


def test_a_hub_that_asks_to_wait_is_heard_at_once(hub, client, make_parcel):
    send(client, make_parcel(0.0), REPO)
    hub.faults.next(1, "429", "POST .*/preupload/", retry_after=7)
    with pytest.raises(HubUnavailableError) as caught:
        send(client, make_parcel(1.0), REPO)
    assert (caught.value.status, caught.value.retry_after, caught.value.transient) == (429, 7.0, True)
    assert send(client, make_parcel(1.0), REPO).changed


CALLS = ["GET /api/models/alice/my-adapter/revision/", "POST .*/preupload/", "POST .*/objects/batch", "PUT ",
         "POST .*/commit/", "POST /api/validate-yaml"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["500", "429", "reset", "lost", "truncated"])
@pytest.mark.parametrize("call", CALLS)
def test_whatever_fails_the_next_attempt_makes_it_one_commit(hub, client, make_parcel, kind, call):
    send(client, make_parcel(0.0, licence="mit"), REPO, message="first")
    hub.faults.next(1, kind, call)
    try:
        send(client, make_parcel(1.0, licence="apache-2.0"), REPO, message="second", parcel_id="x")
    except HubError as error:
        assert error.transient and hub.token not in str(error)
    assert hub.faults.left == 0
    sent = send(client, make_parcel(1.0, licence="apache-2.0"), REPO, message="second", parcel_id="x")
    assert commits(hub) == ["second", "first"] and sent.commit == hub.api.model_info(REPO).sha


def test_a_token_in_the_message_is_refused(hub, client, make_parcel):
    with pytest.raises(UnsafeFileError, match="The message holds what looks like an access token"):
        send(client, make_parcel(), REPO, message="see hf_" + "Q" * 34)
    assert not hub.api.repo_exists(REPO)
