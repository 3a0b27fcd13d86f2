"""A deployed Space really runs: what the Hub holds is fetched into a folder and started there, as Spaces do it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time

import pytest
from gradio_client import Client
from huggingface_hub import snapshot_download
from space_parts import ALICES_TOKEN

from hfplug.demo.base import base_path
from hfplug.demo.tasks import TASKS
from hfplug.space.config import SpaceConfig, VariantSource
from hfplug.space.deploy import deploy
from hfplug.space.examples import load_examples
from hfplug.space.space_files import space_files

SPACE, LORA = "alice/compare", "alice/summary-lora"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def running(folder, hub, home):
    """The Space's app in a process of its own, as on the Hub: the folder is the current one, and no token is there."""
    port = free_port()
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HFPLUG_", "GRADIO_", "PYTHON"))
    }
    environment = {
        **kept, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
        "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port),
    }  # fmt: skip
    log = open(folder.parent / "log.txt", "w+", encoding="utf-8")  # noqa: SIM115
    process = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None and time.monotonic() < end, (folder.parent / "log.txt").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def plain_answer(folder, dialogue):
    """What plain PEFT and transformers answer."""
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_path())
    model = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(base_path()), folder).eval()
    task = TASKS["summary"]
    ids = tokenizer(task.prompt.replace("{dialogue}", dialogue), return_tensors="pt")
    made = model.generate(**ids, max_new_tokens=task.decoding["max_new_tokens"], do_sample=False)
    return tokenizer.decode(made[0], skip_special_tokens=True)


@pytest.mark.slow
def test_a_deployed_space_starts_from_what_the_hub_holds_and_answers(space_hub, adapters, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", ALICES_TOKEN)
    commit = space_hub.push(adapters["lora"], LORA)
    chosen = (VariantSource(name="lora", source=LORA),)
    config = SpaceConfig(endpoint=space_hub.endpoint, folder=tmp_path, variants=chosen)
    deploy(space_files(config), SPACE, endpoint=space_hub.endpoint)
    folder = tmp_path / "space"
    snapshot_download(SPACE, repo_type="space", local_dir=folder, endpoint=space_hub.endpoint, token=ALICES_TOKEN)
    with running(folder, space_hub, tmp_path / "home") as address:
        client = Client(address, verbose=False)
        shown = {item["name"]: item for item in client.predict(api_name="/variants")}
        assert list(shown) == ["base", "lora"] and shown["lora"]["state"] == "ready", shown
        assert shown["lora"]["banner"] is None and shown["base"]["banner"] is None
        example = load_examples(SpaceConfig())[0]
        done = client.predict(example.dialogue, api_name="/compare")
    texts = {column["variant"]: column["text"] for column in done["columns"]}
    expected = plain_answer(adapters["lora"], example.dialogue)
    assert texts["lora"] == expected and texts["base"] != texts["lora"]
    # Nothing of the installed package was used: the sources that came with the Space were compiled.
    assert list((folder / "hfplug" / "__pycache__").glob("__init__.*.pyc"))
    assert re.search(rf'"revision": "{commit}"', (folder / "space.json").read_text())
