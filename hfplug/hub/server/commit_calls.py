"""Calls that write files: preupload and commit."""

from __future__ import annotations

import base64
import binascii
import codecs
import fnmatch
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, Response

from hfplug.hub.server.cards import CARD, problems, read_start
from hfplug.hub.server.commit import SHORT_OID, Commit, File
from hfplug.hub.server.discussions import add_event, open_discussion
from hfplug.hub.server.hub import contributable, is_owner, signed_in, writable
from hfplug.hub.server.names import check_path
from hfplug.hub.server.repo import Repo, now, pull_request
from hfplug.hub.server.repo_calls import repo_url
from hfplug.hub.server.routing import Call, Refusal, Router
from hfplug.hub.server.store import SHA256

_REPO = "/api/{types}/{owner}/{name}"
LARGE_SIZE = 10_000_000  # bytes; the Hub's own limit for files that lie in git itself
# Small files come inside the commit, in base64: one line each, of which one is in memory at a time.
_LARGEST_LINE = 2 * LARGE_SIZE
_LARGEST_COMMIT = 512 << 20
_LARGEST_ATTRIBUTES = 1 << 16


def add_routes(router: Router) -> None:
    """Add the calls of this file."""
    router.add("POST", f"{_REPO}/preupload/{{revision}}", _preupload)
    router.add("POST", f"{_REPO}/commit/{{revision}}", _commit, largest=_LARGEST_COMMIT)


def _target(call: Call) -> Repo:
    """The repo, if the caller may commit to the revision that is named."""
    revision = call.names["revision"]
    if call.flag("create_pr") or revision.startswith("refs/pr/"):
        return contributable(call)
    return writable(call)


def _preupload(call: Call) -> Response:
    """Says of each file how it is to be sent, and what is there now so that the client can see it is unchanged."""
    repo, files = _target(call), call.json().get("files")
    _, commit = repo.at(call.names["revision"])
    if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
        raise Refusal(400, "files must be a list of objects")
    patterns = _large_patterns(repo, commit)
    answers = []
    for file in files:
        path = check_path(str(file.get("path")))
        mode = "lfs" if _is_large(path, file, patterns) else "regular"
        answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
        there = commit.files.get(path)
        if there is not None:
            answer["oid"] = there.sha256 if there.kind == "lfs" else there.blob
        answers.append(answer)
    return JSONResponse({"files": answers})


def _large_patterns(repo: Repo, commit: Commit) -> list[str]:
    """The patterns that the repo's ``.gitattributes`` sends to LFS."""
    file = commit.files.get(".gitattributes")
    if file is None:
        return []
    with repo.objects.open(file.sha256) as opened:
        lines = opened.read(_LARGEST_ATTRIBUTES).decode("utf-8", "replace").splitlines()
    return [line.split()[0] for line in lines if "filter=lfs" in line.split()[1:]]


def _is_large(path: str, file: dict[str, Any], patterns: list[str]) -> bool:
    try:
        size, sample = int(file.get("size") or 0), base64.b64decode(str(file.get("sample") or ""), validate=True)
    except (ValueError, TypeError):
        raise Refusal(400, "a file needs a size and a sample in base64") from None
    name = path.rpartition("/")[2]
    if size >= LARGE_SIZE or any(fnmatch.fnmatchcase(name, p) or fnmatch.fnmatchcase(path, p) for p in patterns):
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)  # a letter cut off at the end is no error
    except UnicodeDecodeError:
        return True
    return b"\0" in sample


@dataclass
class _Changes:
    """What a commit asks for."""

    title: str = ""
    message: str = ""
    parent: str | None = None
    files: dict[str, File] = field(default_factory=dict)
    steps: list[tuple[str, str]] = field(default_factory=list)


def _commit(call: Call) -> Response:
    repo, user, revision = _target(call), signed_in(call), call.names["revision"]
    repo.resolve(revision)
    pull_url: str | None
    changes = _read_changes(repo, call.lines(_LARGEST_LINE))
    with repo.changing() as state:
        if call.flag("create_pr"):
            parent = repo.resolve(changes.parent or revision)
            commit = _next(repo, parent, changes, user)
            discussion = open_discussion(
                state, title=changes.title, description=changes.message, author=user,
                base=revision.removeprefix("refs/heads/"), start=parent, head=commit,
            )  # fmt: skip
            pull_url = f"{repo_url(call, repo)}/discussions/{discussion['num']}"
        else:
            parent = repo.resolve(revision)
            if changes.parent is not None and not parent.startswith(changes.parent):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            commit = _next(repo, parent, changes, user)
            pull_url = _advance(repo, state, revision, commit, user)
    url = f"{repo_url(call, repo)}/commit/{commit}"
    body = {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""}
    return JSONResponse({**body, **({"pullRequestUrl": pull_url} if pull_url else {})})


def _read_changes(repo: Repo, lines: Iterable[bytes]) -> _Changes:
    """Read the lines of a commit; small contents are in the store when this returns."""
    changes = _Changes()
    for line in lines:
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            key, value = item["key"], dict(item["value"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise Refusal(400, 'each line of a commit must be JSON: {"key": …, "value": {…}}') from None
        if key == "header":
            changes.title = str(value.get("summary") or "")[:1000]
            changes.message = str(value.get("description") or "")
            changes.parent = _read_parent(value.get("parentCommit"))
        elif key in ("file", "lfsFile", "deletedFile", "deletedFolder"):
            path = str(value.get("path") or "")
            path = check_path(path.rstrip("/") if key == "deletedFolder" else path)
            changes.steps.append((key, path))
            if key == "file":
                changes.files[path] = _take_small(repo, path, value)
            elif key == "lfsFile":
                changes.files[path] = _find_large(repo, path, value)
        else:
            raise Refusal(400, f"a commit has no line of kind {str(key)[:50]!r}")
    if not changes.title:
        raise Refusal(400, "a commit needs a header with a summary")
    return changes


def _read_parent(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not SHORT_OID.fullmatch(value):
        raise Refusal(400, "parentCommit must be 7 to 40 hex digits of a commit's name")
    return value


def _take_small(repo: Repo, path: str, value: dict[str, Any]) -> File:
    content = str(value.get("content") or "")
    try:
        data = base64.b64decode(content, validate=True) if value.get("encoding") == "base64" else content.encode()
    except (binascii.Error, ValueError):
        raise Refusal(400, f"{path}: the content is not base64") from None
    if path == CARD:
        _check_card(data.decode("utf-8", "replace"))
    repo.objects.put(data)
    return File.regular(data)


def _check_card(text: str) -> None:
    errors, _ = problems(text)
    if errors:
        raise Refusal(400, f"Invalid metadata in README.md. {' '.join(errors)}")


def _find_large(repo: Repo, path: str, value: dict[str, Any]) -> File:
    sha256 = str(value.get("oid") or "")
    if not SHA256.fullmatch(sha256) or not repo.objects.has(sha256):
        raise Refusal(400, f"{path}: its content {sha256[:64]!r} has not been uploaded to this repo")
    size = repo.objects.size(sha256)
    if value.get("size") not in (None, size):
        raise Refusal(400, f"{path}: its content has {size} bytes, not {value['size']}")
    if path == CARD:
        _check_card(read_start(repo.objects.path(sha256)))
    return File.large(sha256, size)


def _next(repo: Repo, parent: str, changes: _Changes, user: str) -> str:
    """Write the commit that the changes make of ``parent``; no branch moves yet."""
    files = dict(repo.commit(parent).files)
    for key, path in changes.steps:
        if key == "deletedFile":
            if files.pop(path, None) is None:
                raise Refusal(404, f"{path}: there is no such file to delete", code="EntryNotFound")
        elif key == "deletedFolder":
            for inside in [name for name in files if name.startswith(f"{path}/")]:
                del files[inside]
        else:
            files[path] = changes.files[path]
    for _, path in changes.steps:
        _refuse_file_as_folder(files, path)
    return repo.add_commit(Commit((parent,), user, now(), changes.title, changes.message, files))


def _refuse_file_as_folder(files: dict[str, File], path: str) -> None:
    parts = path.split("/")
    above = ["/".join(parts[:end]) for end in range(1, len(parts))]
    if path in files and any(folder in files for folder in above):
        raise Refusal(400, f"{path}: a part of this path is a file")
    if path in files and any(name.startswith(f"{path}/") for name in files):
        raise Refusal(400, f"{path}: there is a folder of this name")


def _advance(repo: Repo, state: dict[str, Any], revision: str, commit: str, user: str) -> str | None:
    """Let a branch or a pull request stand at a new commit."""
    branch = revision.removeprefix("refs/heads/")
    if branch in state["branches"]:
        state["branches"][branch] = commit
        return None
    found = pull_request(state, revision.removeprefix("refs/pr/")) if revision.startswith("refs/pr/") else None
    if found is None:
        raise Refusal(400, f"{revision[:100]!r} is a tag or a commit; only a branch can be committed to")
    if found["author"].lower() != user.lower() and not is_owner(repo, user):
        raise Refusal(403, "this pull request is somebody else's")
    if found["status"] == "merged":
        raise Refusal(400, "this pull request has been merged; open another one")
    found["head"] = commit
    add_event(found, "commit", user, oid=commit)
    return None
