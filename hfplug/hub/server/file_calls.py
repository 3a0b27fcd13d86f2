"""Calls that read files: resolve (the content), tree and paths-info (what there is)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import FileResponse, JSONResponse, Response

from hfplug.hub.server.commit import Commit
from hfplug.hub.server.describe import describe_file, describe_folder
from hfplug.hub.server.hub import check_not_gated, readable
from hfplug.hub.server.pages import page
from hfplug.hub.server.repo import Repo
from hfplug.hub.server.routing import Call, Refusal, Router
from hfplug.hub.server.xet_calls import resolve_headers

_REPO = "/api/{types}/{owner}/{name}"
_MOST_PATHS = 10_000


def add_routes(router: Router) -> None:
    """Add the calls of this file."""
    router.add("GET", f"{_REPO}/tree/{{revision}}/{{path*}}", _tree)
    router.add("POST", f"{_REPO}/paths-info/{{revision}}", _paths_info)
    router.add("GET", "/{types}/{owner}/{name}/resolve/{revision}/{path*}", _resolve)
    router.add("GET", "/{owner}/{name}/resolve/{revision}/{path*}", _resolve)
    router.add("GET", "/{name}/resolve/{revision}/{path*}", _resolve)  # a repo without an owner: there is none


def _resolve(call: Call) -> Response:
    """The content, whole or a range of it, for GET and HEAD. Large files too come from here: nothing is redirected."""
    repo = readable(call)
    oid, commit = repo.at(call.names["revision"])
    file = commit.files.get(call.names["path"])
    head = {"X-Repo-Commit": oid}
    if file is None:
        raise Refusal(404, "Entry not found", code="EntryNotFound", headers=head)
    check_not_gated(repo, call.user)
    if file.kind == "lfs":
        head |= {"ETag": f'"{file.sha256}"', "X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        head |= resolve_headers(call, repo, oid, file.sha256)
    else:
        head["ETag"] = f'"{file.blob}"'
    head["Content-Disposition"] = "attachment"  # never a page of this origin, whatever the file is
    return FileResponse(repo.objects.path(file.sha256), media_type="application/octet-stream", headers=head)


def _tree(call: Call) -> Response:
    repo = readable(call)
    oid, commit = repo.at(call.names["revision"])
    path = call.names["path"].strip("/")
    prefix = f"{path}/" if path else ""
    inside = [name for name in sorted(commit.files) if name.startswith(prefix)]
    if path and not inside:
        raise Refusal(404, f"{path[:200]!r} is no folder at this revision", code="EntryNotFound")
    folders = folders_of(inside, prefix)
    if not call.flag("recursive"):
        inside = [name for name in inside if "/" not in name[len(prefix) :]]
        folders = [name for name in folders if "/" not in name[len(prefix) :]]
    rows = [describe_folder(commit, name) for name in folders]
    rows += [describe_file(repo, name, commit.files[name]) for name in inside]
    shown, headers = page(call, rows)
    if call.flag("expand"):
        _add_last_commits(repo, oid, shown)
    return JSONResponse(shown, headers=headers)


def folders_of(paths: Iterable[str], prefix: str = "") -> list[str]:
    """Every folder, below ``prefix``, that some path lies in."""
    found = set()
    for path in paths:
        parts = path.split("/")[:-1]
        found |= {"/".join(parts[: end + 1]) for end in range(len(parts))}
    return sorted(folder for folder in found if folder.startswith(prefix))


def _paths_info(call: Call) -> Response:
    repo = readable(call)
    oid, commit = repo.at(call.names["revision"])
    paths, expand = _asked_paths(call)
    folders = set(folders_of(commit.files))
    rows = []
    for path in dict.fromkeys(path.strip("/") for path in paths):
        if path in commit.files:
            rows.append(describe_file(repo, path, commit.files[path]))
        elif path in folders:
            rows.append(describe_folder(commit, path))
    if expand:
        _add_last_commits(repo, oid, rows)
    return JSONResponse(rows)


def _asked_paths(call: Call) -> tuple[list[str], bool]:
    if call.request.headers.get("content-type", "").startswith("application/json"):
        body = call.json()
        paths, expand = body.get("paths"), body.get("expand") is True
    else:
        form = parse_qs(call.body.decode("utf-8", "replace"), keep_blank_values=True)
        paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() in ("true", "1")
    if not isinstance(paths, list) or len(paths) > _MOST_PATHS or not all(isinstance(path, str) for path in paths):
        raise Refusal(400, f"paths must be a list of at most {_MOST_PATHS} texts")
    return paths, expand


def _add_last_commits(repo: Repo, oid: str, rows: list[dict[str, Any]]) -> None:
    """Add to each row the newest commit that changed it."""
    waiting = {row["path"]: row for row in rows}
    for name, commit in repo.history(oid):
        before = repo.commit(commit.parents[0]) if commit.parents else None
        for path in [path for path in waiting if _content(commit, path) != _content(before, path)]:
            waiting.pop(path)["lastCommit"] = {"id": name, "title": commit.title, "date": commit.date}
        if not waiting:
            return


def _content(commit: Commit | None, path: str) -> str | None:
    if commit is None:
        return None
    if path in commit.files:
        return commit.files[path].blob
    return json.dumps(sorted((name, file.blob) for name, file in commit.files.items() if name.startswith(f"{path}/")))
