"""A real browser before a real Space: the built-in base, real adapters, a Hub on loopback.

Screenshots go to the folder that ``HFPLUG_TEST_SCREENSHOTS`` names. Another browser than the one found:
``HFPLUG_TEST_CHROMIUM=/path/to/chromium``.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from browsing import Visitor, running_space
from huggingface_hub import HfApi, constants
from made_variants import failing_probe, fully_tuned, pickled, retold
from space_parts import ALICES_TOKEN, BOBS_TOKEN, export_adapter

from hfplug.hub.push import push_adapter
from hfplug.hub.server import running_hub

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory):
    """Where screenshots go."""
    folder = Path(os.environ.get("HFPLUG_TEST_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="package")
def browser():
    """A headless Chromium."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    path = os.environ.get("HFPLUG_TEST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: looked for {', '.join(NAMES)} and HFPLUG_TEST_CHROMIUM")
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="package")
def package_patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="package")
def variant_folders(tmp_path_factory):
    """Real variants on the built-in base: a fully tuned one, two adapters, and one whose probe fails."""
    folder = tmp_path_factory.mktemp("variants")
    lora = export_adapter(folder / "lora", "lora")
    return {
        "full": fully_tuned(folder / "full"),
        "lora": lora,
        "prompt_tuning": export_adapter(folder / "prompt_tuning", "prompt_tuning"),
        "drifted": failing_probe(lora, folder / "drifted"),
    }


@pytest.fixture(scope="package")
def filled_hub(tmp_path_factory, package_patch, variant_folders):
    """A Hub with adapters to add: a good one, one of somebody else, a pickle, and one with a hostile card."""
    folder = tmp_path_factory.mktemp("hub")
    package_patch.setenv("NO_PROXY", "127.0.0.1,localhost")
    package_patch.delenv("HF_TOKEN", raising=False)
    package_patch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    package_patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with running_hub(folder / "hub", tokens={ALICES_TOKEN: "alice", BOBS_TOKEN: "bob"}) as running:
        more = export_adapter(folder / "more", "lora", seed=5)
        for token, repo_id, source in (
            (ALICES_TOKEN, "alice/more-lora", more),
            (BOBS_TOKEN, "bob/his-lora", more),
            (ALICES_TOKEN, "alice/hostile", retold(more, folder / "hostile")),
        ):
            push_adapter(source, repo_id, endpoint=running.endpoint, token=token, timeout=30)
        api = HfApi(endpoint=running.endpoint, token=ALICES_TOKEN)
        api.create_repo("alice/pickled")
        api.upload_folder(repo_id="alice/pickled", folder_path=pickled(more, folder / "pickled"))
        yield running


@pytest.fixture(scope="package")
def space(tmp_path_factory, filled_hub, variant_folders):
    """A running Space."""
    folder = tmp_path_factory.mktemp("space")
    values = {
        "title": "Side <i>by</i> side",
        "variants": [{"name": name, "source": str(path)} for name, path in variant_folders.items()],
        "votes": "votes.jsonl",
        "allowed_owners": ["alice"],
        "endpoint": filled_hub.endpoint,
    }
    with running_space(values, folder) as running:
        yield running


@pytest.fixture
def runs(space, monkeypatch):
    """Every run that the Space starts in this test, as it goes."""
    started, ask = [], space.opened.ask

    def noted(asking):
        started.append(ask(asking))
        return started[-1]

    monkeypatch.setattr(space.opened, "ask", noted)
    return started


@pytest.fixture
def visit(browser, space, screenshots, request):
    """``visit(width=1280, theme="light", query="")``: somebody opens the page, whose console must stay empty."""
    opened = []

    def come(*, width=1280, theme="light", query="", context=None):
        visitor = Visitor(browser, space, width=width, theme=theme, query=query, context=context)
        opened.append(visitor)
        return visitor

    yield come
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    for number, visitor in enumerate(opened):
        if not visitor.page.is_closed():
            visitor.shot(screenshots / f"{name}{f'-{number}' if number else ''}.png")
        visitor.leave()
    assert [words for visitor in opened for words in visitor.complaints] == []
