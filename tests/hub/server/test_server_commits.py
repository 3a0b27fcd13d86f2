"""Files go up, come down, and have a history: the unmodified client against the Hub on loopback."""

from __future__ import annotations

import base64
import json
import os
import re
import threading

import pytest
from hub_process import start
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from raw import request


@pytest.fixture
def repo(hub):
    return hub.api.create_repo("alice/adapter").repo_id


def add(path, data):
    return CommitOperationAdd(path, data)


def commit(hub, repo, *operations, **keywords):
    return hub.api.create_commit(repo, list(operations), commit_message="a commit", **keywords)


def content(hub, repo, path, revision=None):
    found = hub.api.hf_hub_download(repo, path, revision=revision, cache_dir=hub.cache)
    with open(found, "rb") as file:
        return file.read()


def test_small_and_large_files_come_down_as_they_went_up(hub, repo):
    large = bytes(range(256)) * 1000
    commit(hub, repo, add("a/small.txt", b"small"), add("model.safetensors", large), add("empty.bin", b""))
    assert content(hub, repo, "a/small.txt") == b"small"
    assert content(hub, repo, "model.safetensors") == large
    assert content(hub, repo, "empty.bin") == b""
    kinds = {row.path: row.lfs is not None for row in hub.api.list_repo_tree(repo, recursive=True) if row.path != "a"}
    assert kinds == {".gitattributes": False, "a/small.txt": False, "empty.bin": False, "model.safetensors": True}


def test_upload_folder_and_snapshot_download_are_inverse(hub, repo, tmp_path):
    folder = tmp_path / "up"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "deep" / "er" / "ünïcode name #1.txt").write_text("text")
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 3000)
    hub.api.upload_folder(repo_id=repo, folder_path=folder, commit_message="all of it")
    down = hub.api.snapshot_download(repo, cache_dir=hub.cache, local_dir=tmp_path / "down")
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        assert (tmp_path / "down" / file.relative_to(folder)).read_bytes() == file.read_bytes()
    assert down == str(tmp_path / "down")


def test_each_commit_can_be_read_for_ever(hub, repo):
    first = commit(hub, repo, add("f.txt", b"one"))
    second = commit(hub, repo, add("f.txt", b"two"))
    third = commit(hub, repo, CommitOperationDelete("f.txt"))
    assert content(hub, repo, "f.txt", first.oid) == b"one"
    assert content(hub, repo, "f.txt", second.oid) == b"two"
    with pytest.raises(EntryNotFoundError):
        content(hub, repo, "f.txt", third.oid)
    commits = hub.api.list_repo_commits(repo)
    assert [one.commit_id for one in commits[:3]] == [third.oid, second.oid, first.oid]
    assert (commits[0].title, commits[0].authors, commits[-1].title) == ("a commit", ["alice"], "initial commit")
    assert all(len(one.commit_id) == 40 for one in commits)


def test_the_client_sees_that_nothing_has_changed_and_makes_no_commit(hub, repo):
    files = add("f.txt", b"same"), add("w.safetensors", b"same" * 100)
    head = commit(hub, repo, *files).oid
    again = commit(hub, repo, add("f.txt", b"same"), add("w.safetensors", b"same" * 100))
    assert again.oid == head == hub.api.model_info(repo).sha
    assert len(hub.api.list_repo_commits(repo)) == 2


def test_a_stale_parent_is_412_and_changes_nothing(hub, repo):
    head = hub.api.model_info(repo).sha
    mine = commit(hub, repo, add("mine.txt", b"1"), parent_commit=head)
    with pytest.raises(HfHubHTTPError) as refused:
        commit(hub, repo, add("late.txt", b"2"), parent_commit=head)
    assert refused.value.response.status_code == 412
    assert hub.api.model_info(repo).sha == mine.oid
    assert not hub.api.file_exists(repo, "late.txt")


def test_a_commit_may_be_named_by_its_first_seven_digits(hub, repo):
    made = commit(hub, repo, add("f.txt", b"1"))
    assert hub.api.model_info(repo, revision=made.oid[:7]).sha == made.oid
    later = commit(hub, repo, add("f.txt", b"2"), parent_commit=made.oid[:7])
    with pytest.raises(HfHubHTTPError, match="412"):
        commit(hub, repo, add("f.txt", b"3"), parent_commit=made.oid[:7])
    assert hub.api.model_info(repo).sha == later.oid


def test_of_two_writers_at_once_with_one_parent_exactly_one_wins(hub, repo):
    head = hub.api.model_info(repo).sha
    outcomes = []

    def write(number):
        try:
            outcomes.append(commit(hub, repo, add(f"{number}.txt", b"x"), parent_commit=head).oid)
        except HfHubHTTPError as error:
            outcomes.append(error.response.status_code)

    run_at_once(write, 6)
    assert (len(outcomes), outcomes.count(412)) == (6, 5)
    assert len(hub.api.list_repo_commits(repo)) == 2


def test_of_many_writers_without_a_parent_each_gets_its_commit(hub, repo):
    run_at_once(lambda number: commit(hub, repo, add(f"{number}.txt", str(number).encode())), 6)
    assert {f"{number}.txt" for number in range(6)} <= set(hub.api.list_repo_files(repo))
    assert len(hub.api.list_repo_commits(repo)) == 7


def run_at_once(call, count):
    barrier = threading.Barrier(count)

    def one(number):
        barrier.wait()
        call(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_files_and_folders_are_deleted_and_large_ones_copied(hub, repo):
    commit(hub, repo, add("d/one.txt", b"1"), add("d/two.txt", b"2"), add("w.safetensors", b"3" * 9))
    commit(
        hub, repo, CommitOperationDelete("d/", is_folder=True),
        CommitOperationCopy("w.safetensors", "copy.safetensors"),
    )  # fmt: skip
    assert sorted(hub.api.list_repo_files(repo)) == [".gitattributes", "copy.safetensors", "w.safetensors"]
    assert content(hub, repo, "copy.safetensors") == b"3" * 9


def test_deleting_what_is_not_there_is_refused(hub, repo):
    with pytest.raises(EntryNotFoundError):
        hub.api.delete_file("nothing.txt", repo)


def test_a_card_that_is_not_valid_is_refused_before_and_at_the_commit(hub, repo):
    bad = b"---\nbase_model: /home/me/base\n---\n# Card\n"
    with pytest.raises(ValueError, match="base_model.*not valid"):
        hub.api.upload_file(path_or_fileobj=bad, path_in_repo="README.md", repo_id=repo)
    lines = [{"key": "header", "value": {"summary": "s"}}, {"key": "file", "value": {"path": "README.md"}}]
    lines[1]["value"]["content"] = bad.decode()
    answer = request(
        hub.endpoint, "POST", f"/api/models/{repo}/commit/main", token=hub.token,
        body="\n".join(map(json.dumps, lines)).encode(),
    )  # fmt: skip
    assert (answer.status, "base_model" in answer.json()["error"]) == (400, True)
    assert not hub.api.file_exists(repo, "README.md")


@pytest.mark.parametrize(
    ("card", "wrong"),
    [
        ("---\na: [\n---\n", "not valid YAML"),
        ("---\n- a\n---\n", "must be a mapping"),
        ("---\nmodel-index: x\n---\n", "must be an array"),
        ("---\nmodel-index:\n- name: m\n  results:\n  - task: {type: t}\n    metrics: []\n---\n", "dataset"),
        ("---\nlicense: [mit]\n---\n", "license"),
        ("---\nbase_model_relation: cousin\nbase_model: a/b\n---\n", "base_model_relation"),
    ],
)
def test_the_card_check_says_what_is_wrong(hub, repo, card, wrong):
    with pytest.raises(ValueError, match=wrong):
        hub.api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=repo)


def test_a_card_without_front_matter_is_only_warned_about(hub, repo):
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        hub.api.upload_file(path_or_fileobj=b"# Just words\n", path_in_repo="README.md", repo_id=repo)
    assert content(hub, repo, "README.md") == b"# Just words\n"


def test_typed_errors_for_what_is_missing(hub, repo):
    with pytest.raises(RepositoryNotFoundError):
        hub.api.model_info("alice/nothing")
    with pytest.raises(RepositoryNotFoundError):
        hub.api.model_info("gpt2")
    with pytest.raises(RevisionNotFoundError):
        hub.api.model_info(repo, revision="nothing")
    with pytest.raises(RevisionNotFoundError):
        commit(hub, repo, add("f", b"x"), revision="nothing")
    with pytest.raises(EntryNotFoundError):
        content(hub, repo, "nothing.txt")
    with pytest.raises(EntryNotFoundError):
        list(hub.api.list_repo_tree(repo, "nothing"))
    with pytest.raises(BadRequestError):
        commit(hub, repo, add("f", b"x"), revision=hub.api.model_info(repo).sha)


def test_paths_info_and_tree_tell_files_from_folders_and_who_changed_them_last(hub, repo):
    first = commit(hub, repo, add("d/e/one.txt", b"1"), add("top.txt", b"2"))
    second = commit(hub, repo, add("d/two.txt", b"2"))
    found = {row.path: row for row in hub.api.get_paths_info(repo, ["d", "d/e/one.txt", "no"], expand=True)}
    assert set(found) == {"d", "d/e/one.txt"}
    assert found["d"].last_commit.oid == second.oid
    assert found["d/e/one.txt"].last_commit.oid == first.oid
    assert found["d/e/one.txt"].size == 1
    assert {row.path for row in hub.api.list_repo_tree(repo, "d")} == {"d/e", "d/two.txt"}
    assert {row.path for row in hub.api.list_repo_tree(repo, "d", recursive=True)} == {
        "d/e", "d/e/one.txt", "d/two.txt",
    }  # fmt: skip


def test_the_head_answer_says_commit_hash_and_size(hub, repo):
    head = commit(hub, repo, add("s.txt", b"abc"), add("w.bin", b"12345")).oid
    small = hub.api.get_hf_file_metadata(url=f"{hub.endpoint}/{repo}/resolve/main/s.txt", token=hub.token)
    large = hub.api.get_hf_file_metadata(url=f"{hub.endpoint}/{repo}/resolve/main/w.bin", token=hub.token)
    assert (small.commit_hash, small.size) == (head, 3)
    assert small.etag == "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f"  # git hash-object of "abc"
    assert (large.commit_hash, large.size) == (head, 5)
    assert large.etag == "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"  # sha256 of "12345"


def test_a_range_is_answered_with_206_and_that_range(hub, repo):
    commit(hub, repo, add("w.bin", bytes(range(100))))
    path = f"/{repo}/resolve/main/w.bin"
    part = request(hub.endpoint, "GET", path, headers={"Range": "bytes=10-19"})
    assert (part.status, part.body, part.headers["content-range"]) == (206, bytes(range(10, 20)), "bytes 10-19/100")
    rest = request(hub.endpoint, "GET", path, headers={"Range": "bytes=95-"})
    assert (rest.status, rest.body) == (206, bytes(range(95, 100)))
    assert request(hub.endpoint, "GET", path, headers={"Range": "bytes=200-"}).status == 416


def test_an_interrupted_download_is_resumed_and_right(hub, repo):
    data = bytes(range(256)) * 4096
    commit(hub, repo, add("w.bin", data))
    hub.faults.next(1, "truncated", "GET .*w.bin")
    assert content(hub, repo, "w.bin") == data
    assert len(hub.faults.struck) == 1
    assert hub.faults.count("GET .*w.bin") == 2


def test_history_can_be_squashed_and_old_commits_stay_readable_by_tag(hub, repo):
    first = commit(hub, repo, add("f.txt", b"1"))
    hub.api.create_tag(repo, tag="v1", revision=first.oid)
    commit(hub, repo, add("f.txt", b"2"))
    hub.api.super_squash_history(repo, commit_message="all in one")
    assert [one.title for one in hub.api.list_repo_commits(repo)] == ["all in one"]
    assert content(hub, repo, "f.txt") == b"2"
    assert content(hub, repo, "f.txt", "v1") == b"1"


def lines_of(files):
    yield json.dumps({"key": "header", "value": {"summary": "s"}}).encode()
    for path, data in files.items():
        value = {"path": path, "encoding": "base64", "content": base64.b64encode(data).decode()}
        yield json.dumps({"key": "file", "value": value}).encode()


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the memory of a process from /proc")
def test_a_commit_of_many_files_takes_the_memory_of_one(tmp_path):
    def most_memory():
        with open(f"/proc/{process.pid}/status") as file:
            return int(re.search(r"VmHWM:\s+(\d+) kB", file.read())[1]) / 1024

    process, endpoint = start(tmp_path / "hub")
    try:
        created = request(endpoint, "POST", "/api/repos/create", token="hf_test", body={"name": "adapter"})
        assert created.status == 200
        body = b"\n".join(lines_of({f"{number}.txt": b"%d" % number * 9_000_000 for number in range(8)}))
        before = most_memory()
        answer = request(endpoint, "POST", "/api/models/alice/adapter/commit/main", token="hf_test", body=body)
        assert answer.status == 200
        assert most_memory() - before < len(body) / 2**20  # 92 MiB; held, joined and split it was three times that
        assert request(endpoint, "GET", "/alice/adapter/resolve/main/7.txt").body == b"7" * 9_000_000
    finally:
        process.kill()
        process.wait()


def test_a_line_of_a_commit_that_no_small_file_has_is_refused(hub, repo):
    body = b"\n".join(lines_of({"f.txt": b"x" * 20_000_000}))
    answer = request(hub.endpoint, "POST", f"/api/models/{repo}/commit/main", token=hub.token, body=body)
    assert answer.status == 413 and "through LFS or Xet" in answer.json()["error"]
    assert list((hub.root / "trash").iterdir()) == []
