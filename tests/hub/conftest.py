"""A real Hub on loopback for each test, with the real client; nothing is mocked."""

from __future__ import annotations

import contextlib
import os
import time
import types

# Read once, when the client is first imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest
from faults import Faults
from huggingface_hub import HfApi, constants

from hfplug.hub.server import running_hub

ALICES_TOKEN = "hf_" + "alice" * 7 + "aa"
BOBS_TOKEN = "hf_" + "bobbo" * 7 + "bb"


class HubForTests:
    """A running Hub with two users.

    Attributes:
        endpoint: Its address. root: Its folder. faults: How to make it fail.
        owner, token: The user "alice". other, other_token: The user "bob".
        home: A folder for ``HF_HOME``, of this Hub alone. cache: One for ``cache_dir``.
        api, other_api, anonymous: Clients of alice, of bob, and without a token.
    """

    owner, token = "alice", ALICES_TOKEN
    other, other_token = "bob", BOBS_TOKEN

    def __init__(self, folder, **options):
        self.root, self.home, self.cache = folder / "hub", folder / "home", folder / "cache"
        self.faults = Faults()
        self._options = options
        self._port = 0
        self._running = contextlib.ExitStack()
        self.start()
        self.api = HfApi(endpoint=self.endpoint, token=self.token)
        self.other_api = HfApi(endpoint=self.endpoint, token=self.other_token)
        self.anonymous = HfApi(endpoint=self.endpoint, token=False)

    def start(self):
        """Start it (again), on the same port and folder."""
        tokens = {self.token: self.owner, self.other_token: self.other}
        running = running_hub(self.root, port=self._port, tokens=tokens, wrap=self.faults.around, **self._options)
        self.endpoint = self._running.enter_context(running).endpoint
        self._port = int(self.endpoint.rpartition(":")[2])

    def stop(self):
        """Stop it; what it had answered is on the disk."""
        self._running.close()

    def environment(self, **more):
        """The environment for a process that is to use this Hub, as a user would set it."""
        mine = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.home), "HF_TOKEN": self.token}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        quiet = {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return {**kept, **quiet, **mine, **more}


@pytest.fixture
def make_hub(tmp_path, monkeypatch):
    """Makes Hubs; keywords are options of the application, such as ``page_size``."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with contextlib.ExitStack() as stack:

        def make(name="one", **options):
            made = HubForTests(tmp_path / f"hub-{name}", **options)
            stack.callback(made.stop)
            return made

        yield make


@pytest.fixture
def hub(make_hub):
    """A fresh Hub. Large files go through LFS, as where hf-xet is not installed; see ``xet_on``."""
    return make_hub()


@pytest.fixture(autouse=True)
def large_files_through_lfs(request, monkeypatch):
    """Without Xet in this process, unless a test asks for ``xet_on``: its Rust half keeps threads and caches."""
    if "xet_on" not in request.fixturenames:
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def clients_sleep(monkeypatch):
    """Set what the client does when it would wait before it tries again; by default nothing."""

    def instead(call=lambda seconds: None):
        clock = types.SimpleNamespace(**{**vars(time), "sleep": call})
        monkeypatch.setattr("huggingface_hub.utils._http.time", clock)

    return instead


@pytest.fixture
def xet_on():
    """Large files go through Xet, as by default."""
