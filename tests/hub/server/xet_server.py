"""A Hub on loopback whose traffic is counted, and processes that use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hfplug.hub.server import running_hub

ALICE, BOB = "hf_aliceTokenOfTheTests", "hf_bobTokenOfTheTests"
REPO = "alice/large"


class Traffic:
    """Every request to a Hub, and its bytes."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def wrap(self, app: Any) -> Any:
        async def counting(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                return await app(scope, receive, send)
            entry: dict[str, Any] = {"call": f"{scope['method']} {scope['path']}", "in": 0, "out": 0, "status": 0}
            self.seen.append(entry)

            async def receive_counting() -> Any:
                message = await receive()
                entry["in"] += len(message.get("body", b""))
                return message

            async def send_counting(message: Any) -> None:
                entry["status"] = message.get("status", entry["status"])
                entry["out"] += len(message.get("body", b""))
                await send(message)

            await app(scope, receive_counting, send_counting)

        return counting

    def take(self) -> list[dict[str, Any]]:
        """What was seen since the last time."""
        seen, self.seen[:] = list(self.seen), []
        return seen


class Server:
    """A running Hub with what the tests look at."""

    def __init__(self, endpoint: str, root: Path, traffic: Traffic) -> None:
        self.endpoint, self.root, self.traffic = endpoint, root, traffic

    def run(self, code: str, *arguments: str, home: Path, xet: str = "on", token: str = ALICE) -> Any:
        """Run ``code`` in a new process; returns what it prints as JSON."""
        drop = ("HF_", "HUGGING", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(drop)}
        environment |= {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_TOKEN": token}
        environment |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        if xet == "off":
            environment["HF_HUB_DISABLE_XET"] = "1"
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.strip().splitlines()[-1])

    def call(self, method: str, path: str, body: bytes | None = None, token: str | None = None) -> tuple[int, bytes]:
        request = urllib.request.Request(self.endpoint + path, data=body, method=method)
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def token(self, access: str, repo: str = REPO, hub_token: str | None = ALICE) -> dict[str, Any]:
        status, body = self.call("GET", f"/api/models/{repo}/xet-{access}-token/main", token=hub_token)
        assert status == 200, body
        return json.loads(body)

    def store(self) -> str:
        """The path of the content server."""
        return self.token("read")["casUrl"].removeprefix(self.endpoint)

    def kept(self) -> set[str]:
        """Every file of the Hub's folder but those of the repos' state."""
        return {str(path) for path in self.root.rglob("*") if path.is_file() and path.suffix != ".json"}


@contextmanager
def counted_hub(root: Path) -> Iterator[Server]:
    """A running Hub with the users alice and bob."""
    traffic = Traffic()
    with running_hub(root, tokens={ALICE: "alice", BOB: "bob"}, wrap=traffic.wrap) as hub:
        yield Server(hub.endpoint, root, traffic)
