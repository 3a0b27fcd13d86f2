"""Routes that nobody needs are closed, and those of the page are not."""

from __future__ import annotations

import sys

import pytest

from hfplug.space.closed_routes import is_closed
from hfplug.space.zero_gpu import announce, device


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=/etc/passwd", "//gradio_api//file=https://example.com", "/file/x", "/gradio_api/upload",
     "/gradio_api/upload_progress", "/gradio_api/proxy=https://x", "/gradio_api/deep_link", "/monitoring/summary",
     "/gradio_api/stream/a/b/1/playlist.m3u8", "/gradio_api/component_server", "/gradio_api/vibe-edit"],
)  # fmt: skip
def test_files_uploads_and_fetching_are_closed(path):
    assert is_closed(path)


@pytest.mark.parametrize(
    "path",
    ["/", "/config", "/theme.css", "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/info",
     "/gradio_api/call/compare", "/gradio_api/heartbeat/a", "/assets/upload-1.js", "/static/img/file=.svg"],
)  # fmt: skip
def test_what_the_page_needs_is_open(path):
    assert not is_closed(path)


def test_off_zero_gpu_nothing_is_decorated_and_the_service_chooses_its_device(monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert announce() is None and device() is None


def test_on_zero_gpu_a_function_is_decorated_and_the_service_stays_on_the_cpu(monkeypatch, tmp_path):
    # Their package is on their machines only; this one has the one name that is used of it.
    (tmp_path / "spaces.py").write_text("def GPU(function):\n    return lambda: f'decorated: {function()}'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "spaces", raising=False)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert device() == "cpu"
    assert announce()().startswith("decorated: ")
    monkeypatch.delitem(sys.modules, "spaces")
