"""Calls of the Xet protocol: a content server beside the Hub, under ``/api/xet/{store}``, for hf-xet 1.x.

    GET  /api/{types}/{owner}/{name}/xet-read-token/{revision}     a token for the calls below
    GET  /api/{types}/{owner}/{name}/xet-write-token/{revision}
    POST …/v1/xorbs/{prefix}/{xorb}             write   chunks, up to 64 MiB
    POST …/v1/shards                            write   which chunks make up which files
    GET  …/v1|v2/reconstructions/{file}         read    where to fetch what a file is made of
    GET  …/v1/chunks/{prefix}/{chunk}           read    404: the client knows itself what it has sent
    GET  …/v1/blobs/{xorb}?ticket=…                     a part of a xorb

Newer forms of the two uploads (``/v1/xorb-grants``, ``/v2/shards``) answer 404, upon which the client takes
these. A token is a ticket that names a repo, a user, and reading or writing; what that user may do with that
repo is asked again in every call. The bytes of a xorb are fetched without a token, so the link is a ticket.

Source: the Xet protocol specification, "CAS API" and "Auth" (https://huggingface.co/docs/xet).
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from hfplug.hub.server.hub import Hub, check_not_gated, contributable, is_owner, readable, writable
from hfplug.hub.server.names import TYPES
from hfplug.hub.server.repo import Repo
from hfplug.hub.server.routing import Call, Refusal, Router
from hfplug.hub.server.xet_files import NoSpaceError, Piece, Plan, RangeError, ShardError, XetFiles
from hfplug.hub.server.xet_formats import LARGEST_SHARD, LARGEST_XORB, Shard, XetFormatError
from hfplug.hub.server.xet_hashes import from_text, to_text

TOKEN_SECONDS = 15 * 60
LINK_SECONDS = 60 * 60

_REPO = "/api/{types}/{owner}/{name}"
_BLOCK = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")

_Result = TypeVar("_Result")


def add_routes(router: Router) -> None:
    """Add the calls of this file."""
    router.add("GET", f"{_REPO}/xet-read-token/{{revision}}", _read_token)
    router.add("GET", f"{_REPO}/xet-write-token/{{revision}}", _write_token)
    for base in ("/api/xet/{store}/v1", "/api/xet/{store}"):  # hf-xet 1.2 calls without a version
        router.add_streaming("POST", f"{base}/xorbs/{{prefix}}/{{xorb}}", _upload_xorb, caller="ticket")
        router.add_streaming("POST", f"{base}/shards", _upload_shard, caller="ticket")
        router.add("GET", f"{base}/reconstructions/{{file}}", _reconstruction_v1, caller="ticket")
        router.add("GET", f"{base}/chunks/{{prefix}}/{{chunk}}", _find_chunk, caller="ticket")
    router.add("GET", "/api/xet/{store}/v2/reconstructions/{file}", _reconstruction_v2, caller="ticket")
    router.add("GET", "/api/xet/{store}/v1/blobs/{xorb}", _blob, caller="ticket")


def resolve_headers(call: Call, repo: Repo, oid: str, sha256: str) -> dict[str, str]:
    """What the answer to ``resolve`` has to say so that a client with Xet takes the file from here.

    Args:
        oid: The commit that is resolved.
        sha256: The file's content.

    Returns:
        Headers; none for a content that did not come through Xet.
    """
    xet_hash = repo.objects.xet_hash(sha256)
    if xet_hash is None:
        return {}
    url = f"{call.base_url}/api/{repo.type}s/{repo.id}/xet-read-token/{oid}"
    return {"X-Xet-Hash": xet_hash, "X-Xet-Refresh-Route": url, "Link": f'<{url}>; rel="xet-auth"'}


def tidy(hub: Hub) -> None:
    """Forget files whose xorbs have gone, and delete xorbs that no file needs. Only while nothing is written."""
    named: set[bytes] = set()
    for kind in TYPES:
        for repo in hub.shelf.all(kind):
            named |= XetFiles(repo.objects, hub.xorbs).tidy()
    hub.xorbs.sweep(named)


def content_server(call: Call) -> str:
    """The address that the Xet client calls (``casUrl``)."""
    return f"{call.base_url}/api/xet/{call.hub.xorbs.name()}"


def _read_token(call: Call) -> Response:
    repo = readable(call)
    check_not_gated(repo, call.user)
    repo.resolve(call.names["revision"])
    return _token(call, repo, "read")


def _write_token(call: Call) -> Response:
    revision = call.names["revision"]
    if call.flag("create_pr") or revision.startswith("refs/pr/"):
        return _token(call, contributable(call), "write")
    return _token(call, writable(call), "write")


def _token(call: Call, repo: Repo, access: str) -> Response:
    claims = {"use": "xet", "type": repo.type, "repo": repo.id, "user": call.user, "access": access}
    token = call.hub.tickets.issue(claims, seconds=TOKEN_SECONDS)
    expires = int(time.time()) + TOKEN_SECONDS
    url = content_server(call)
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expires)}
    headers["Cache-Control"] = "no-store"
    return JSONResponse({"casUrl": url, "accessToken": token, "exp": expires}, headers=headers)


def _granted(call: Call, access: str) -> Repo:
    """The repo that the token of a call is for, if it is good for ``access``.

    Raises:
        Refusal: 401 for no token, a forged one, or one whose time is up; 403 for one that is for reading only;
            404 for a repo that has gone or has become private; GatedRepo as for its files.
    """
    scheme, _, token = (call.request.headers.get("authorization") or "").partition(" ")
    claims = call.hub.tickets.read(token.strip(), use="xet") if scheme.lower() == "bearer" else None
    if claims is None:
        raise Refusal(401, "this call needs a token from xet-read-token or xet-write-token that is still good")
    if access == "write" and claims["access"] != "write":
        raise Refusal(403, "the token is for reading; ask for one with xet-write-token")
    repo = call.hub.shelf.find(claims["type"], claims["repo"])
    if repo is None or (repo.is_private and not is_owner(repo, claims["user"])):
        raise Refusal(404, "Repository not found", code="RepoNotFound")
    call.repo = repo
    if access == "read":
        check_not_gated(repo, claims["user"])
    return repo


def _hash(call: Call, name: str) -> bytes:
    try:
        return from_text(call.names[name])
    except ValueError as error:
        raise Refusal(400, f"{name}: {error}") from None


async def _upload_xorb(call: Call) -> Response:
    def keep(_: Repo, draft: Path) -> str:
        if call.names["prefix"] != "default":
            raise Refusal(400, "the only prefix of xorbs is 'default'")
        return call.hub.xorbs.add(draft, _hash(call, "xorb"))

    outcome = await _receive(call, LARGEST_XORB, keep)
    return JSONResponse({"was_inserted": outcome == "added"})


async def _upload_shard(call: Call) -> Response:
    def keep(repo: Repo, draft: Path) -> int:
        return XetFiles(repo.objects, call.hub.xorbs).take_in(Shard(draft.read_bytes()))

    count = await _receive(call, LARGEST_SHARD, keep)
    return JSONResponse({"result": 1 if count else 0})


async def _receive(call: Call, most: int, keep: Callable[[Repo, Path], _Result]) -> _Result:
    """Take the body of an upload into a file, and hand it over in a worker thread.

    Args:
        most: Bytes that the body may have.
        keep: Given the repo of the caller's token, and the file, which it may take away.

    Raises:
        Refusal: The caller may not write; the body is too long (413), is not what it should be (400), or finds
            no room on the disk (507). The file is gone then.
    """
    body = call.request.stream()
    try:
        repo = await run_in_threadpool(_granted, call, "write")
    except Refusal:
        await _discard(body, most)
        raise
    draft = await run_in_threadpool(call.hub.xorbs.draft)
    try:
        size = 0
        with open(draft, "xb") as file:
            async for piece in body:
                size += len(piece)
                if size > most:
                    await _discard(body, most)
                    raise Refusal(413, f"at most {most:,} bytes can be sent in this call")
                file.write(piece)
        return await run_in_threadpool(keep, repo, draft)
    except (XetFormatError, ShardError) as error:
        raise Refusal(400, str(error)) from error
    except NoSpaceError as error:
        raise Refusal(507, str(error)) from error
    finally:
        draft.unlink(missing_ok=True)


async def _discard(body: AsyncIterator[bytes], most: int) -> None:
    """Read on for so many bytes: whoever is still sending when it is refused sees a broken line, not the reason."""
    async for piece in body:
        most -= len(piece)
        if most < 0:
            return


def _reconstruction_v1(call: Call) -> Response:
    plan = _plan(call)
    fetches = {
        to_text(xorb): [
            {"range": chunks, "url": url, "url_range": place}
            for chunks, url, place in _links(call, xorb, _merged(plan.pieces, xorb))
        ]
        for xorb in {piece.xorb for piece in plan.pieces}
    }
    return JSONResponse({**_terms(plan), "fetch_info": fetches})


def _reconstruction_v2(call: Call) -> Response:
    plan = _plan(call)
    fetches = {
        to_text(xorb): [
            {"url": url, "ranges": [{"chunks": chunks, "bytes": place}]}
            for chunks, url, place in _links(call, xorb, _merged(plan.pieces, xorb))
        ]
        for xorb in {piece.xorb for piece in plan.pieces}
    }
    return JSONResponse({**_terms(plan), "xorbs": fetches})


def _plan(call: Call) -> Plan:
    repo = _granted(call, "read")
    start, end = 0, None
    if text := call.request.headers.get("range"):
        found = _RANGE.fullmatch(text.strip())
        if found is None or (found[2] and int(found[2]) < int(found[1])):
            raise Refusal(400, "a range is written as bytes=FIRST-LAST")
        start, end = int(found[1]), int(found[2]) + 1 if found[2] else None
    try:
        plan = XetFiles(repo.objects, call.hub.xorbs).plan(_hash(call, "file"), start, end)
    except RangeError as error:
        raise Refusal(416, str(error)) from None
    except XetFormatError as error:
        raise Refusal(404, f"{error}; download without Xet (HF_HUB_DISABLE_XET=1)") from None
    if plan is None:
        raise Refusal(404, "this repo has no file with that Xet hash", code="EntryNotFound")
    return plan


def _terms(plan: Plan) -> dict[str, Any]:
    terms = [
        {
            "hash": to_text(piece.xorb),
            "unpacked_length": piece.size,
            "range": {"start": piece.start, "end": piece.end},
        }
        for piece in plan.pieces
    ]
    return {"offset_into_first_range": plan.skip, "terms": terms}


def _merged(pieces: list[Piece], xorb: bytes) -> list[tuple[int, int]]:
    """The chunk ranges of one xorb that pieces name, in order, those that touch as one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted((piece.start, piece.end) for piece in pieces if piece.xorb == xorb):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _links(
    call: Call, xorb: bytes, ranges: list[tuple[int, int]]
) -> Iterator[tuple[dict[str, int], str, dict[str, int]]]:
    """For each range of chunks: the range, a link to its bytes, and their place in the xorb (last one included)."""
    index = call.hub.xorbs.index(xorb)
    if index is None:
        raise Refusal(404, f"xorb {to_text(xorb)} has gone; download without Xet (HF_HUB_DISABLE_XET=1)")
    for start, end in ranges:
        first, last = index.place(start), index.place(end) - 1
        claims = {"use": "xorb", "xorb": to_text(xorb), "first": first, "last": last}
        ticket = call.hub.tickets.issue(claims, seconds=LINK_SECONDS)
        url = f"{content_server(call)}/v1/blobs/{to_text(xorb)}?ticket={ticket}"
        yield {"start": start, "end": end}, url, {"start": first, "end": last}


def _find_chunk(call: Call) -> Response:
    _granted(call, "read")
    _hash(call, "chunk")
    raise Refusal(404, "chunks are not found across clients here")


def _blob(call: Call) -> Response:
    xorb = _hash(call, "xorb")
    claims = call.hub.tickets.read(call.query("ticket") or "", use="xorb", xorb=call.names["xorb"])
    if claims is None:
        raise Refusal(403, "this link was not made by this Hub, or its time is up")
    first, last = int(claims["first"]), int(claims["last"])
    asked = call.request.headers.get("range")
    if asked is not None and asked.strip() != f"bytes={first}-{last}":
        raise Refusal(403, f"this link is for the bytes {first}-{last}")
    index = call.hub.xorbs.index(xorb)
    if index is None:
        raise Refusal(404, f"xorb {call.names['xorb']} has gone")
    headers = {"Content-Length": str(last + 1 - first)}
    headers["Content-Range"] = f"bytes {first}-{last}/{index.place(len(index))}"
    return StreamingResponse(
        _read(call.hub.xorbs.path(xorb), first, last + 1), 206, headers, "application/octet-stream"
    )


def _read(path: Path, start: int, end: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(start)
        while start < end and (data := file.read(min(_BLOCK, end - start))):
            start += len(data)
            yield data
