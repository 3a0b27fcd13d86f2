"""What a pull does not trust: small files, cards and rows of another shape, the Hub of somebody else."""

from __future__ import annotations

import http.server
import threading

import pytest
from huggingface_hub import constants
from pulling import BASE_ID, REPO, Pulling, change_json

from hfplug.cli.main import main
from hfplug.errors import AdapterError, BaseModelError
from hfplug.hub.catalogue import find_adapters
from hfplug.hub.pull import load_from_hub


@pytest.fixture
def pulling(hub, tmp_path):
    return Pulling(hub, tmp_path)


@pytest.mark.parametrize("name", ["adapter_config.json", "README.md", "hfplug_lock.json"])
def test_a_small_file_that_was_edited_in_the_cache_is_noticed(pulling, name):
    pulling.push()
    blob = (pulling.pull().adapter.path / name).resolve()
    before = blob.read_bytes()
    blob.write_bytes(before + b"\n")  # still the same JSON
    with pytest.raises(AdapterError, match="not what the Hub holds.*Delete"):
        pulling.pull()
    blob.unlink()
    assert pulling.pull().source == "hub" and blob.read_bytes() == before


def test_a_card_in_another_encoding_is_copied_readably(pulling, tmp_path):
    folder = pulling.export()
    (folder / "README.md").write_bytes("---\ntags: [hfplug]\n---\nfür alle".encode("latin-1"))
    copy = pulling.pull(str(folder), out=tmp_path / "out").adapter
    assert "r alle" in (copy.path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("adapter_config.json", {"base_model_name_or_path": [1]}),
        ("adapter_config.json", {"peft_type": {"a": 1}}),
        ("adapter_config.json", {"revision": 7, "modules_to_save": 5}),
        ("hfplug_record.json", {"model_performance": {"metrics": [1]}}),
        ("hfplug_record.json", {"method": 3}),
        ("hfplug_record.json", {"model_performance": {"metrics": {"rouge1": 10**400}}}),
        ("hfplug_task.json", {"name": 5}),
    ],
)
def test_one_folder_of_another_shape_does_not_break_the_list(pulling, caplog, name, values):
    good, bad = pulling.export("runs/good"), pulling.export("runs/bad", seed=2)
    for folder in (good, bad):
        (folder.parent / f"{folder.name}-checkpoint" / "trainer_state.json").write_text("{}")
    (bad / name).write_bytes(change_json(bad / name, **values))
    assert [entry.name for entry in find_adapters(folder=good.parent)] == [str(good)]
    assert f"{bad} is left out" in caplog.text


class _Listening(http.server.BaseHTTPRequestHandler):
    """A Hub of somebody else that holds nothing and notes the tokens that it is shown."""

    def do_GET(self):
        self.server.heard.append(self.headers.get("Authorization"))
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def listening(monkeypatch, tmp_path):
    """The Hub that transformers asks: not the one that is pulled from."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Listening)
    server.heard = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ask_for_bases_at(f"http://127.0.0.1:{server.server_port}", tmp_path, monkeypatch)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.shutdown()
    server.server_close()


def ask_for_bases_at(endpoint, folder, monkeypatch):
    """What HF_ENDPOINT does when a program starts."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "bases"))
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_the_token_of_one_hub_is_not_shown_to_another(pulling, hub, listening):
    pulling.push()
    places = {"endpoint": hub.endpoint, "token": hub.token, "cache_dir": hub.cache}
    with pytest.raises(BaseModelError):
        load_from_hub(REPO, **places)
    assert listening.heard and not any(hub.token in str(shown) for shown in listening.heard)
    with pytest.raises(BaseModelError):
        load_from_hub(REPO, base_token="hf_for-the-base", **places)
    assert "Bearer hf_for-the-base" in listening.heard


def test_the_token_opens_a_private_base_at_the_same_hub(pulling, hub, tmp_path, monkeypatch):
    ask_for_bases_at(hub.endpoint, tmp_path, monkeypatch)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub.api.create_repo(BASE_ID, private=True)
    hub.api.upload_folder(folder_path=pulling.base, repo_id=BASE_ID)
    pulling.push()
    assert load_from_hub(REPO, endpoint=hub.endpoint, token=hub.token, cache_dir=hub.cache) is not None


def test_offline_asks_nobody_for_the_base_either(pulling, hub, listening):
    pulling.push()
    pulling.pull()
    with pytest.raises(BaseModelError, match="pass a local folder, or go online once"):
        load_from_hub(REPO, offline="on", cache_dir=hub.cache)
    assert listening.heard == []
    options = {"base": pulling.base, "offline": "on", "cache_dir": hub.cache}
    assert load_from_hub(REPO, **options) is not None and listening.heard == []


def test_pull_prints_no_escapes_and_refuses_a_flag_that_would_do_nothing(pulling, capsys):
    folder, _ = pulling.plain()
    name = "a/b\x1b[31m\x1b]0;owned\x07"
    (folder / "adapter_config.json").write_bytes(
        change_json(folder / "adapter_config.json", base_model_name_or_path=name)
    )
    assert main(["pull", str(folder)]) == 0
    printed = capsys.readouterr()
    assert "base     a/b[31m" in printed.out and not {"\x1b", "\x07"} & {*printed.out, *printed.err}
    assert main(["pull", str(folder), "--base", str(pulling.base)]) == 2
    assert "Add --verify" in capsys.readouterr().err
