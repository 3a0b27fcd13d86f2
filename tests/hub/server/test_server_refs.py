"""Branches, tags and pull requests: the unmodified client against the Hub on loopback."""

from __future__ import annotations

import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, RevisionNotFoundError


@pytest.fixture
def repo(hub):
    repo = hub.api.create_repo("alice/adapter").repo_id
    put(hub, repo, "f.txt", b"main")
    return repo


def put(hub, repo, path, data, api=None, **keywords):
    operations = [CommitOperationAdd(path, data)]
    return (api or hub.api).create_commit(repo, operations, commit_message=f"put {path}", **keywords)


def content(hub, repo, path, revision, api=None):
    with open((api or hub.api).hf_hub_download(repo, path, revision=revision, cache_dir=hub.cache), "rb") as file:
        return file.read()


def test_a_branch_with_slashes_is_one_revision(hub, repo):
    hub.api.create_branch(repo, branch="runs/2026/a")
    made = put(hub, repo, "f.txt", b"branch", revision="runs/2026/a")
    assert content(hub, repo, "f.txt", "runs/2026/a") == b"branch"
    assert content(hub, repo, "f.txt", "main") == b"main"
    assert hub.api.model_info(repo, revision="runs/2026/a").sha == made.oid
    assert content(hub, repo, "f.txt", "refs/heads/runs/2026/a") == b"branch"
    assert hub.api.list_repo_files(repo, revision="runs/2026/a") == [".gitattributes", "f.txt"]


def test_branches_are_made_listed_and_deleted(hub, repo):
    old = hub.api.model_info(repo).sha
    put(hub, repo, "f.txt", b"newer")
    hub.api.create_branch(repo, branch="old", revision=old)
    with pytest.raises(HfHubHTTPError) as taken:
        hub.api.create_branch(repo, branch="old")
    assert taken.value.response.status_code == 409
    hub.api.create_branch(repo, branch="old", exist_ok=True)
    assert {ref.name: ref.target_commit for ref in hub.api.list_repo_refs(repo).branches}["old"] == old
    hub.api.delete_branch(repo, branch="old")
    assert [ref.name for ref in hub.api.list_repo_refs(repo).branches] == ["main"]
    with pytest.raises(RevisionNotFoundError):
        hub.api.delete_branch(repo, branch="old")
    with pytest.raises(HfHubHTTPError, match="403"):
        hub.api.delete_branch(repo, branch="main")


@pytest.mark.parametrize("name", ["../up", "a..b", "a b", "refs/heads/x", "-x", "a.lock", "0" * 40, "a//b"])
def test_a_name_that_git_would_refuse_is_refused(hub, repo, name):
    with pytest.raises(BadRequestError):
        hub.api.create_branch(repo, branch=name)
    with pytest.raises(BadRequestError):
        hub.api.create_tag(repo, tag=name)


def test_a_tag_stays_where_it_was_put(hub, repo):
    hub.api.create_tag(repo, tag="v1.0", tag_message="the first")
    put(hub, repo, "f.txt", b"later")
    assert content(hub, repo, "f.txt", "v1.0") == b"main"
    with pytest.raises(HfHubHTTPError, match="409"):
        hub.api.create_tag(repo, tag="v1.0")
    hub.api.create_tag(repo, tag="v1.0", exist_ok=True)
    assert content(hub, repo, "f.txt", "v1.0") == b"main"
    with pytest.raises(BadRequestError):
        put(hub, repo, "f.txt", b"x", revision="v1.0")
    hub.api.delete_tag(repo, tag="v1.0")
    with pytest.raises(RevisionNotFoundError):
        hub.api.delete_tag(repo, tag="v1.0")
    with pytest.raises(RevisionNotFoundError):
        hub.api.create_tag(repo, tag="v2", revision="nothing")


def test_a_stranger_proposes_and_the_owner_merges(hub, repo):
    made = put(hub, repo, "new.txt", b"bob's", api=hub.other_api, create_pr=True)
    assert (made.pr_num, made.pr_revision) == (1, "refs/pr/1")
    put(hub, repo, "more.txt", b"more", api=hub.other_api, revision="refs/pr/1")
    assert content(hub, repo, "new.txt", "refs/pr/1") == b"bob's"
    assert not hub.api.file_exists(repo, "new.txt")
    pulls = hub.api.list_repo_refs(repo, include_pull_requests=True).pull_requests
    assert [ref.ref for ref in pulls] == ["refs/pr/1"]
    put(hub, repo, "f.txt", b"meanwhile")
    hub.api.merge_pull_request(repo, 1)
    details = hub.api.get_discussion_details(repo, 1)
    assert (details.status, details.author, details.conflicting_files) == ("merged", "bob", [])
    assert details.merge_commit_oid == hub.api.model_info(repo).sha
    assert content(hub, repo, "new.txt", "main") == b"bob's"
    assert content(hub, repo, "f.txt", "main") == b"meanwhile"
    with pytest.raises(BadRequestError):
        put(hub, repo, "late.txt", b"late", api=hub.other_api, revision="refs/pr/1")


def test_a_conflict_is_named_and_not_merged(hub, repo):
    put(hub, repo, "f.txt", b"bob's", api=hub.other_api, create_pr=True)
    put(hub, repo, "f.txt", b"alice's")
    assert hub.api.get_discussion_details(repo, 1).conflicting_files == ["f.txt"]
    with pytest.raises(HfHubHTTPError, match="409"):
        hub.api.merge_pull_request(repo, 1)
    assert content(hub, repo, "f.txt", "main") == b"alice's"


def test_a_stranger_can_neither_merge_nor_push_to_main_nor_to_anothers_pull_request(hub, repo):
    put(hub, repo, "a.txt", b"a", create_pr=True)
    for attempt in (
        lambda: hub.other_api.merge_pull_request(repo, 1),
        lambda: put(hub, repo, "b.txt", b"b", api=hub.other_api),
        lambda: put(hub, repo, "b.txt", b"b", api=hub.other_api, revision="refs/pr/1"),
        lambda: hub.other_api.create_tag(repo, tag="mine"),
        lambda: hub.other_api.create_branch(repo, branch="mine"),
        lambda: hub.other_api.change_discussion_status(repo, 1, "closed"),
    ):
        with pytest.raises(HfHubHTTPError, match="403"):
            attempt()


def test_a_pull_request_may_start_from_an_older_commit(hub, repo):
    old = hub.api.model_info(repo).sha
    put(hub, repo, "f.txt", b"newer")
    put(hub, repo, "g.txt", b"g", create_pr=True, parent_commit=old)
    assert content(hub, repo, "f.txt", "refs/pr/1") == b"main"


def test_discussions_are_opened_commented_renamed_and_closed(hub, repo):
    opened = hub.other_api.create_discussion(repo, title="A question", description="why?")
    assert (opened.num, opened.is_pull_request, opened.events[0].content) == (1, False, "why?")
    hub.api.comment_discussion(repo, 1, "because")
    hub.api.rename_discussion(repo, 1, "An answer")
    hub.api.change_discussion_status(repo, 1, "closed")
    draft = hub.api.create_pull_request(repo, title="Some work")
    assert (draft.num, draft.target_branch) == (2, "refs/heads/main")
    closed = list(hub.api.get_repo_discussions(repo, discussion_status="closed"))
    assert [(one.num, one.title) for one in closed] == [(1, "An answer")]
    assert [one.num for one in hub.api.get_repo_discussions(repo, discussion_type="pull_request")] == [2]
    kinds = [event.type for event in hub.api.get_discussion_details(repo, 1).events]
    assert kinds == ["comment", "comment", "title-change", "status-change"]


def test_a_page_of_the_history_reads_the_commits_of_that_page(hub, monkeypatch):
    from raw import request

    from hfplug.hub.server.repo import Repo

    hub.api.create_repo("alice/adapter")
    for number in range(9):
        operations = [CommitOperationAdd("f.txt", str(number).encode())]
        hub.api.create_commit("alice/adapter", operations, commit_message=f"commit {number}")
    hub.stop()
    reads, read = [], Repo._read_commit
    monkeypatch.setattr(Repo, "_read_commit", lambda repo, oid: reads.append(oid) or read(repo, oid))
    hub.start()
    titles, path = [], "/api/models/alice/adapter/commits/main?limit=3"
    while path:
        reads.clear()
        answer = request(hub.endpoint, "GET", path)
        titles += [row["title"] for row in answer.json()]
        assert len(reads) <= 4
        link = answer.headers.get("link")
        path = link and link.partition(">")[0].removeprefix(f"<{hub.endpoint}")
    assert titles == [*(f"commit {number}" for number in reversed(range(9))), "initial commit"]
    assert request(hub.endpoint, "GET", "/api/models/alice/adapter/commits/main?cursor=nothing").status == 404
