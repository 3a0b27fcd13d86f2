"""Calls of the LFS protocol: large files in one piece or in parts, each checked against its sha256.

The client sends no token with the bytes, so each address that it may send bytes to is a ticket for one content
of one repo. Whoever has an address can only put there what has the announced sha256 and size.

Source: https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md, and the client's ``lfs-multipart-upload``.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from hfplug.adapters import atomic
from hfplug.hub.server.hub import contributable
from hfplug.hub.server.repo import Repo
from hfplug.hub.server.routing import Call, Refusal, Router
from hfplug.hub.server.store import SHA256, ObjectWriter, WrongContentError, make_inside

_MOST_PARTS = 10_000
_BLOCK = 1 << 20


def add_routes(router: Router) -> None:
    """Add the calls of this file."""
    for repo in ("/{types}/{owner}/{name}.git", "/{owner}/{name}.git"):
        router.add("POST", f"{repo}/info/lfs/objects/batch", _batch)
        router.add("POST", f"{repo}/info/lfs/objects/verify", _verify)
    router.add_streaming("PUT", "/api/lfs/{ticket}", _put, caller="ticket")
    router.add_streaming("PUT", "/api/lfs/{ticket}/parts/{number}", _put_part, caller="ticket")
    router.add("POST", "/api/lfs/{ticket}/complete", _complete, caller="ticket")


def _batch(call: Call) -> Response:
    repo, body = contributable(call), call.json()
    if body.get("operation") != "upload" or body.get("hash_algo", "sha256") != "sha256":
        raise Refusal(400, "only uploads by sha256 go through LFS here; download through resolve")
    if not isinstance(body.get("objects"), list):
        raise Refusal(400, "objects must be a list")
    transfers = body.get("transfers") or ["basic"]
    objects = [_instruct(call, repo, item, "multipart" in transfers) for item in body["objects"]]
    some_in_parts = any("chunk_size" in item.get("actions", {}).get("upload", {}).get("header", {}) for item in objects)
    return JSONResponse({"transfer": "multipart" if some_in_parts else "basic", "objects": objects})


def _instruct(call: Call, repo: Repo, item: Any, multipart: bool) -> dict[str, Any]:
    """Where to send one content; no ``actions`` if it is there."""
    oid, size = (item.get("oid"), item.get("size")) if isinstance(item, dict) else (None, None)
    if not isinstance(oid, str) or not SHA256.fullmatch(oid) or not isinstance(size, int) or size < 0:
        raise Refusal(400, "an object needs an oid (64 hex digits) and a size")
    shown = {"oid": oid, "size": size, "authenticated": True}
    if repo.objects.has(oid):
        return shown
    part_size = call.hub.part_size
    claims = {"use": "lfs", "type": repo.type, "repo": repo.id, "oid": oid, "size": size}
    address = f"{call.base_url}/api/lfs/"
    upload: dict[str, Any] = {"href": address + call.hub.tickets.issue(claims, seconds=24 * 3600)}
    if multipart and size > part_size:
        parts = -(-size // part_size)
        if parts > _MOST_PARTS:
            raise Refusal(413, f"{size} bytes would be {parts} parts; {_MOST_PARTS} is the most")
        ticket = call.hub.tickets.issue({**claims, "upload": secrets.token_hex(16)}, seconds=24 * 3600)
        numbers = {f"{number:05d}": f"{address}{ticket}/parts/{number}" for number in range(1, parts + 1)}
        upload = {"href": f"{address}{ticket}/complete", "header": {"chunk_size": str(part_size), **numbers}}
    verify = {"href": f"{call.base_url}{call.raw_path.removesuffix('batch')}verify"}
    return {**shown, "actions": {"upload": upload, "verify": verify}}


def _verify(call: Call) -> Response:
    repo, body = contributable(call), call.json()
    oid = str(body.get("oid") or "")
    if not SHA256.fullmatch(oid) or not repo.objects.has(oid) or repo.objects.size(oid) != body.get("size"):
        raise Refusal(404, "this content has not been uploaded with this size")
    return JSONResponse({})


def _granted(call: Call) -> tuple[Repo, dict[str, Any]]:
    claims = call.hub.tickets.read(call.names["ticket"], use="lfs")
    repo = call.hub.shelf.find(claims["type"], claims["repo"]) if claims else None
    if claims is None or repo is None:
        raise Refusal(403, "this address for an upload has expired or is not of this Hub")
    call.repo = repo
    return repo, claims


async def _put(call: Call) -> Response:
    repo, claims = _granted(call)
    with repo.objects.writer() as writer:
        await _receive(call, writer, claims["size"])
        await run_in_threadpool(_keep, writer, claims)
    return Response(headers={"ETag": f'"{claims["oid"]}"'})


async def _put_part(call: Call) -> Response:
    repo, claims = _granted(call)
    number = call.names["number"]
    if "upload" not in claims or not re.fullmatch(r"[1-9][0-9]{0,4}", number):
        raise Refusal(404, "no such part")
    part_size = call.hub.part_size
    expected = min(part_size, claims["size"] - (int(number) - 1) * part_size)
    place = _parts(repo, claims) / number
    make_inside(repo.folder, place.parent)
    # A part that is sent twice, the first time half, must not be mixed up: each is whole before it has its name.
    draft = place.with_name(f"{number}.{secrets.token_hex(8)}")
    digest, size = hashlib.sha256(), 0
    try:
        with open(draft, "xb") as file:
            async for piece in call.request.stream():
                size += len(piece)
                if size > expected:
                    break
                digest.update(piece)
                await run_in_threadpool(file.write, piece)
        if size != expected:
            raise Refusal(400, f"part {number} must have {expected} bytes; {size} or more came")
        draft.replace(place)
    finally:
        draft.unlink(missing_ok=True)
    return Response(headers={"ETag": f'"{digest.hexdigest()}"'})


def _complete(call: Call) -> Response:
    repo, claims = _granted(call)
    if "upload" not in claims:
        raise Refusal(404, "this upload is not in parts")
    if repo.objects.has(claims["oid"]):  # the answer to the first call was lost
        return JSONResponse({})
    folder = _parts(repo, claims)
    count = -(-claims["size"] // call.hub.part_size)
    with repo.objects.writer() as writer:
        for number in range(1, count + 1):
            try:
                with open(folder / str(number), "rb") as file:
                    while block := file.read(_BLOCK):
                        writer.write(block)
            except FileNotFoundError:
                raise Refusal(400, f"part {number} of {count} has not come") from None
        _keep(writer, claims)
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)
        atomic.sync_folder(folder.parent)
    return JSONResponse({})


async def _receive(call: Call, writer: ObjectWriter, size: int) -> None:
    async for piece in call.request.stream():
        await run_in_threadpool(writer.write, piece)
        if writer.size > size:
            raise Refusal(400, f"more than the announced {size} bytes came")


def _keep(writer: ObjectWriter, claims: dict[str, Any]) -> None:
    try:
        writer.keep(claims["oid"], claims["size"])
    except WrongContentError as error:
        raise Refusal(400, str(error)) from None


def _parts(repo: Repo, claims: dict[str, Any]) -> Path:
    return repo.folder / "incoming" / f"parts-{claims['upload']}"
