"""Names that try to leave the folder, and requests that no client would send."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import CommitOperationAdd
from raw import request

OUTSIDE = "OUTSIDE, A SECRET OF THE MACHINE"


@pytest.fixture
def repo(hub):
    hub.api.create_repo("alice/adapter")
    hub.api.create_commit("alice/adapter", [CommitOperationAdd("f.txt", b"inside")], commit_message="c")
    (hub.root.parent / "outside.txt").write_text(OUTSIDE)
    (hub.root / "tokens.json").write_text("[]")
    return "alice/adapter"


@pytest.mark.parametrize(
    "path",
    [
        "/alice/adapter/resolve/main/../../../../outside.txt",
        "/alice/adapter/resolve/main/..%2F..%2F..%2F..%2Foutside.txt",
        "/alice/adapter/resolve/main/%2e%2e/%2e%2e/%2e%2e/%2e%2e/outside.txt",
        "/alice/adapter/resolve/main/..%5C..%5Coutside.txt",
        "/alice/adapter/resolve/..%2F..%2F..%2Foutside.txt/f.txt",
        "/alice/adapter/resolve/refs%2Fpr%2F..%2F1/f.txt",
        "/alice/..%2F..%2Foutside/resolve/main/f.txt",
        "/..%2F../adapter/resolve/main/f.txt",
        "/alice/adapter/resolve/main/f.txt%00",
        "/alice/adapter/resolve/main//f.txt",
        "/api/models/alice/adapter/tree/main/..%2F..%2F..",
        "/api/models/..%2F..%2Fetc/passwd",
        "/api/models/alice/adapter/revision/..%2F..%2Fstate",
        "/../../outside.txt",
        "//etc/passwd",
        "/%FF%FE/x",
    ],
)
def test_no_path_leads_out(hub, repo, path):
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"):
        answer = request(hub.endpoint, method, path, token=hub.token, body={} if method != "GET" else None)
        assert 400 <= answer.status < 500, (method, answer)
        assert OUTSIDE.encode() not in answer.body


@pytest.mark.parametrize(
    "path",
    [
        "../up",
        "a/../../up",
        "/etc/passwd",
        "a//b",
        "./a",
        ".git/config",
        "a/.GIT/x",
        "C:/x",
        "a\\..\\b",
        "a\0b",
        "a\nb",
        "",
        "a/",
    ],
)
@pytest.mark.parametrize("key", ["file", "deletedFile"])
def test_no_file_is_committed_under_a_path_that_leads_out(hub, repo, path, key):
    before = hub.api.model_info(repo).sha
    lines = [{"key": "header", "value": {"summary": "s"}}, {"key": key, "value": {"path": path, "content": "eA=="}}]
    body = "\n".join(map(json.dumps, lines)).encode()
    answer = request(hub.endpoint, "POST", f"/api/models/{repo}/commit/main", token=hub.token, body=body)
    assert answer.status == 400
    assert hub.api.model_info(repo).sha == before
    preupload = {"files": [{"path": path, "size": 1, "sample": ""}]}
    asked = request(hub.endpoint, "POST", f"/api/models/{repo}/preupload/main", token=hub.token, body=preupload)
    assert asked.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xff\xfe", b"null", b"[]", b"{}", b'{"key": "file"}', b'{"key": 1, "value": 2}',
        b'{"key": "header", "value": {"summary": ""}}',
        b'{"key": "header", "value": {"summary": "s"}}\n{"key": "rename", "value": {}}',
        b'{"key": "file", "value": {"path": "x", "content": "%", "encoding": "base64"}}',
        b'{"key": "header", "value": {"summary": "s", "parentCommit": {"a": 1}}}',
        b'{"key": "header", "value": {"summary": "s"}}\n{"key": "file", "value": {"path": "f.txt/x", "content": ""}}',
    ],
)  # fmt: skip
def test_a_commit_that_is_none_is_refused_and_changes_nothing(hub, repo, body):
    before = hub.api.model_info(repo).sha
    answer = request(hub.endpoint, "POST", f"/api/models/{repo}/commit/main", token=hub.token, body=body)
    assert 400 <= answer.status < 500
    assert hub.api.model_info(repo).sha == before


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b'{"files": [1]}', b'{"paths": 3}'])
@pytest.mark.parametrize(
    "path",
    [
        "/api/repos/create", "/api/repos/move", "/api/models/alice/adapter/preupload/main",
        "/api/models/alice/adapter/tag/main", "/api/models/alice/adapter/discussions", "/api/collections",
        "/alice/adapter.git/info/lfs/objects/batch", "/alice/adapter.git/info/lfs/objects/verify",
        "/api/validate-yaml",
    ],
)  # fmt: skip
def test_a_body_that_is_none_is_refused_in_words(hub, repo, path, body):
    answer = request(hub.endpoint, "POST", path, token=hub.token, body=body)
    valid_but_empty = path == "/api/validate-yaml" and body.startswith(b'{"')
    assert answer.status == 200 if valid_but_empty else 400 <= answer.status < 500
    assert valid_but_empty or answer.json()["error"]


def test_somebody_without_a_token_cannot_fill_the_memory(hub):
    big = b"x" * (5 << 20)
    answer = request(hub.endpoint, "POST", "/api/validate-yaml", body=json.dumps({"content": big.decode()}).encode())
    assert answer.status == 413
    assert (
        request(hub.endpoint, "POST", "/api/validate-yaml", token=hub.token, body={"content": "x" * (5 << 20)}).status
        == 200
    )


def test_a_file_is_served_as_a_download_never_as_a_page(hub, repo):
    page = b"<script>alert(1)</script>"
    hub.api.upload_file(path_or_fileobj=page, path_in_repo="x.html", repo_id=repo)
    answer = request(hub.endpoint, "GET", f"/{repo}/resolve/main/x.html")
    assert (answer.body, answer.headers["content-type"]) == (page, "application/octet-stream")
    assert answer.headers["content-disposition"] == "attachment"
