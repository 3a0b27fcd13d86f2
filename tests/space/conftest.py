"""A real Hub on loopback for the tests of the Space, and real, tiny adapters on the built-in base."""

from __future__ import annotations

import contextlib
import os

# Read once, when the client is first imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import pytest
from huggingface_hub import HfApi, constants
from space_parts import ALICES_TOKEN, BOBS_TOKEN, Gate, export_adapter

from hfplug.hub.server import running_hub


class HubOfTheSpace:
    """A running Hub with two users.

    Attributes:
        endpoint: Its address. root: Its folder. gate: How to slow it down, lose its answers, or close it.
        api: A client of alice. other_api: One of bob.
    """

    def __init__(self, folder):
        self.root, self.gate = folder / "hub", Gate()
        self._port, self._running = 0, contextlib.ExitStack()
        self.start()
        self.api = HfApi(endpoint=self.endpoint, token=ALICES_TOKEN)
        self.other_api = HfApi(endpoint=self.endpoint, token=BOBS_TOKEN)

    def start(self):
        """Start it (again), on the same port and folder."""
        tokens = {ALICES_TOKEN: "alice", BOBS_TOKEN: "bob"}
        running = running_hub(self.root, port=self._port, tokens=tokens, wrap=self.gate.around)
        self.endpoint = self._running.enter_context(running).endpoint
        self._port = int(self.endpoint.rpartition(":")[2])

    def stop(self):
        """Stop it."""
        self._running.close()

    def push(self, folder, repo_id, **options):
        """Push an adapter as alice; returns the commit."""
        from hfplug.hub.push import push_adapter

        return push_adapter(folder, repo_id, endpoint=self.endpoint, token=ALICES_TOKEN, timeout=10, **options).commit


@pytest.fixture
def space_hub(tmp_path, monkeypatch):
    """A fresh Hub, with a cache of its own; without a token in the environment."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    # Its Rust half keeps threads and caches beyond the test.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub = HubOfTheSpace(tmp_path)
    yield hub
    hub.stop()


@pytest.fixture(scope="session")
def adapters(tmp_path_factory):
    """Folders of real exports on the built-in base, with lock and probe: ``lora`` and ``prompt_tuning``."""
    folder = tmp_path_factory.mktemp("adapters")
    return {name: export_adapter(folder / name, name) for name in ("lora", "prompt_tuning")}


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    """No setting of a Space from the environment that the tests run in."""
    for name in list(os.environ):
        if name.startswith("HFPLUG_SPACE_"):
            monkeypatch.delenv(name)
