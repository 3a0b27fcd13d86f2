"""What is pulled is one commit of what was pushed, whole and unchanged; anything else is refused, saying why."""

from __future__ import annotations

import http.server
import json
import logging
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from made_adapters import logits, make_llama, make_tokenizer
from pulling import BASE_ID, REPO, Pulling, change_json, change_weights, tree
from safetensors.torch import save

import hfplug
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.errors import (
    AdapterError,
    HubAccessError,
    HubNotFoundError,
    HubUnavailableError,
    MismatchError,
    UnsafeFileError,
)
from hfplug.hub.address import parse_address
from hfplug.hub.pull import load_from_hub, pull_adapter

GONE = "0" * 40


@pytest.fixture
def pulling(hub, tmp_path):
    return Pulling(hub, tmp_path)


@pytest.fixture
def load(pulling, hub):
    """``load_from_hub`` as alice, over the base in its folder."""

    def make(repo_id=REPO, **options):
        options = {"base": pulling.base, "token": hub.token, "cache_dir": hub.cache, **options}
        return load_from_hub(repo_id, endpoint=hub.endpoint, **options)

    return make


# ------------------------------------------------------------------------------------------------ as it should be


def test_it_is_the_commit_that_was_pushed_byte_for_byte_and_answers_the_same(pulling, load):
    folder = pulling.export()
    commit = pulling.push(folder)
    pulled = pulling.pull()
    assert (pulled.repo_id, pulled.commit, pulled.source, pulled.note) == (REPO, commit, "hub", None)
    assert pulled.adapter.path.name == commit
    ours, theirs = tree(folder), tree(pulled.adapter.path)
    same = [name for name in theirs if name not in ("README.md", "adapter_config.json", "hfplug_lock.json")]
    assert all(ours[name] == theirs[name] for name in same if name != "hfplug_record.json")
    loaded = load(verify="probe")
    assert torch.equal(logits(loaded), logits(hfplug.load_adapter(folder, base=pulling.base)))


def test_a_second_pull_asks_for_the_commit_and_nothing_else(pulling, hub):
    pulling.push()
    pulling.pull()
    before = len(hub.faults.seen)
    pulling.pull()
    asked = [what for what in hub.faults.seen[before:] if "agent-harnesses" not in what]
    assert len(asked) == 1 and "/api/models/alice/pulled" in asked[0]


def test_a_branch_a_tag_and_a_commit_are_each_resolved(pulling, hub):
    first = pulling.push(pulling.export(seed=1))
    hub.api.create_tag(REPO, tag="v1")
    second = pulling.push(pulling.export("second", seed=2))
    pulling.push(pulling.export("third", seed=3), revision="a/branch")
    assert pulling.pull().commit == second
    assert pulling.pull(revision="v1").commit == first
    assert pulling.pull(f"hf://{REPO}@v1").commit == first
    assert pulling.pull(f"hf://{REPO}@{first}").commit == first
    other = pulling.pull(f"hf://{REPO}@a/branch").commit
    assert other not in (first, second)
    assert pulling.pull(revision="a/branch", offline="on").commit == other


def test_a_push_in_the_middle_of_a_pull_does_not_mix_two_commits(pulling, hub, monkeypatch):
    first = pulling.push(pulling.export(seed=1))
    real = hub.api.hf_hub_download.__func__
    pushed = []

    def download(self, *args, **kwargs):
        if not pushed:
            pushed.append("on its way")
            pushed[0] = pulling.push(pulling.export("second", seed=2))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(type(hub.api), "hf_hub_download", download)
    pulled = pulling.pull()
    assert pulled.commit == first != pushed[0]
    expected = (pulling.folder / "export" / "adapter_model.safetensors").read_bytes()
    assert (pulled.adapter.path / "adapter_model.safetensors").read_bytes() == expected


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_a_repo_of_plain_peft_pulls_and_loads_with_a_note(pulling, hub, load, kind, caplog):
    folder, tuned = pulling.plain(kind=kind)
    hub.api.create_repo(REPO)
    commit = hub.api.upload_folder(folder_path=folder, repo_id=REPO).oid
    pulled = pulling.pull()
    assert pulled.commit == commit and pulled.adapter.lock is None
    loaded = load()
    assert torch.equal(logits(loaded), logits(tuned))
    assert "no lock of hfplug" in caplog.text
    assert ("no method for adapters of PEFT type IA3" in caplog.text) == (
        kind == "ia3" and "ia3" not in hfplug.method_names()
    )


def test_weights_that_were_rounded_for_the_push_pass_their_checks(pulling, load):
    pulling.push(pulling.export(), dtype="bfloat16")
    assert load(verify="probe") is not None


def test_a_resized_vocabulary_comes_back(pulling, load, hub):
    from transformers import AutoModelForCausalLM

    grown = AutoModelForCausalLM.from_pretrained(pulling.base)
    grown.resize_token_embeddings(70)
    pulling.push(pulling.export(model=grown))
    with pytest.raises(MismatchError, match="70 rows.*the base has 64.*they would be random"):
        load(tokenizer=make_tokenizer([f"word{number}" for number in range(64)]))
    assert load().get_input_embeddings().weight.shape[0] == 70


def test_only_files_of_an_adapter_are_fetched(pulling, hub):
    folder = pulling.export()
    pulling.push(folder)
    for name in ("optimizer.pt", "training_args.bin", "modeling_evil.py", "notes.txt", "sub/adapter_config.json"):
        pulling.upload(name, b"\x80never fetched")
    pulled = pulling.pull()
    assert all(AdapterDir.allowed(name) for name in tree(pulled.adapter.path))
    assert hub.faults.count(r"resolve/.*(optimizer|training_args|evil|notes|sub/)") == 0


def test_a_folder_needs_no_hub(pulling, hub):
    folder = pulling.export()
    hub.stop()
    pulled = pulling.pull(str(folder))
    assert (pulled.source, pulled.commit, pulled.repo_id, pulled.adapter.path) == ("folder", None, None, folder)
    with pytest.raises(AdapterError, match="a folder has no revision"):
        pulling.pull(str(folder), revision="v1")
    with pytest.raises(AdapterError, match="There is no folder"):
        pulling.pull("./nowhere")


def test_the_copy_is_whole_the_same_and_never_over_something_foreign(pulling, tmp_path):
    pulling.push()
    out = tmp_path / "copies" / "mine"
    pulled = pulling.pull(out=out)
    assert pulled.adapter.path == out and not out.is_symlink()
    assert tree(out) == tree(pulling.pull().adapter.path)
    assert not any(path.is_symlink() for path in out.rglob("*"))
    (out / "notes.txt").write_text("mine")
    pulling.push(pulling.export("second", seed=2))
    again = pulling.pull(out=out)
    assert (out / "notes.txt").read_text() == "mine" and again.adapter.previous.is_dir()
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    with pytest.raises(AdapterError, match="neither empty nor an adapter's folder"):
        pulling.pull(out=other)
    assert tree(other) == {"chapter.txt": b"years of work"}


def test_a_full_model_is_pulled_too(pulling, hub, tmp_path):
    make_llama(seed=3).save_pretrained(tmp_path / "full", max_shard_size="5KB")
    make_tokenizer().save_pretrained(tmp_path / "full")
    hub.api.create_repo(REPO)
    hub.api.upload_folder(folder_path=tmp_path / "full", repo_id=REPO)
    pulled = pulling.pull()
    assert pulled.adapter.kind == "full" and len(pulled.adapter.weights) > 1
    assert torch.equal(logits(hfplug.load_adapter(pulled.adapter.path)), logits(make_llama(seed=3)))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("alice/x", ("alice/x", None)),
        ("hf://alice/x", ("alice/x", None)),
        ("hf://alice/x/", ("alice/x", None)),
        ("hf://alice/x@refs/pr/1", ("alice/x", "refs/pr/1")),
        ("/nowhere/at/all", (None, None)),
        ("a/b/c", (None, None)),
        (Path("alice/x"), (None, None)),
    ],
)
def test_an_address_is_a_repo_or_a_folder(address, expected):
    assert parse_address(address) == expected


@pytest.mark.parametrize("address", ["hf://", "hf://a/b/c", "hf://../x", "hf://alice/x@../../etc", "hf://alice/x@/etc"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(AdapterError):
        parse_address(address)


# ------------------------------------------------------------------------------------------------ who may see it


def test_a_private_repo_needs_its_owner(pulling, hub):
    pulling.push(private="on")
    assert pulling.pull().source == "hub"
    with pytest.raises(HubNotFoundError, match="private and not yours"):
        pulling.pull(token=hub.other_token, cache_dir=hub.home / "empty")
    with pytest.raises(HubAccessError, match="there is no token.*hf auth login"):
        pulling.pull(token=False, cache_dir=hub.home / "empty")


@pytest.mark.parametrize("cache", ["cold", "warm"])
def test_a_gated_repo_says_where_to_ask(pulling, hub, cache):
    pulling.push()
    if cache == "warm":
        pulling.pull(token=hub.other_token)
    hub.api.update_repo_settings(REPO, gated="manual")
    with pytest.raises(HubAccessError, match=f"gated.*Ask for access at {hub.endpoint}/{REPO}"):
        pulling.pull(token=hub.other_token)
    with pytest.raises(HubAccessError, match="gated"):
        pulling.pull(token=False)
    assert pulling.pull().source == "hub"


@pytest.mark.parametrize("what", ["deleted", "made private", "a branch that is gone"])
def test_the_cache_is_never_served_for_what_is_gone(pulling, hub, what):
    commit = pulling.push()
    hub.api.create_branch(REPO, branch="trial")
    pulling.pull()
    pulling.pull(revision="trial")
    options = {}
    if what == "deleted":
        hub.api.delete_repo(REPO)
    elif what == "made private":
        hub.api.update_repo_settings(REPO, private=True)
        options = {"token": hub.other_token}
    else:
        hub.api.delete_branch(REPO, branch="trial")
        options = {"revision": "trial"}
    with pytest.raises(HubNotFoundError, match=f"copy of commit {commit} is in the cache and was not used"):
        pulling.pull(**options)
    assert pulling.pull(offline="on", **options).source == "cache"


def test_a_repo_that_never_was_says_so(pulling):
    with pytest.raises(HubNotFoundError, match="there is no alice/nothing"):
        pulling.pull("alice/nothing")
    pulling.push()
    with pytest.raises(HubNotFoundError, match="no such branch, tag or commit"):
        pulling.pull(revision=GONE)


# ------------------------------------------------------------------------------------------------ without a network


def test_without_a_hub_the_cached_commit_is_served_and_named(pulling, hub, caplog):
    commit = pulling.push()
    pulling.pull()
    hub.stop()
    pulled = pulling.pull()
    assert (pulled.source, pulled.commit) == ("cache", commit)
    for words in (commit, "did not answer", "whether it is the newest is not known"):
        assert words in caplog.text and words in pulled.note
    with pytest.raises(HubUnavailableError, match=f"'v9' is not in the cache.*holds the commits {commit}"):
        pulling.pull(revision="v9")
    with pytest.raises(HubUnavailableError, match="alice/other at revision 'main' is not in the cache"):
        pulling.pull("alice/other")


def test_offline_asks_nobody(pulling, hub):
    commit = pulling.push()
    pulling.pull()
    before = len(hub.faults.seen)
    assert pulling.pull(offline="on").commit == commit
    assert pulling.pull(offline="on", revision=commit).source == "cache"
    assert len(hub.faults.seen) == before
    with pytest.raises(AdapterError, match="'auto' or 'on'"):
        pulling.pull(offline="maybe")


def test_hf_hub_offline_is_obeyed(pulling, hub):
    commit = pulling.push()
    pulling.pull()
    code = f"from hfplug import pull_adapter; pulled = pull_adapter({REPO!r}); print(pulled.commit, pulled.note)"
    environment = hub.environment(HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(hub.cache))
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(commit) and "HF_HUB_OFFLINE is set" in run.stdout


def test_a_cached_copy_that_is_not_whole_is_not_served(pulling, hub):
    commit = pulling.push()
    pulled = pulling.pull()
    (pulled.adapter.path / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match=f"cached copy of {REPO} at commit {commit} is not whole.*pull it again"):
        pulling.pull(offline="on")
    assert pulling.pull().source == "hub"


def test_a_damaged_file_in_the_cache_is_noticed(pulling, hub):
    pulling.push()
    file = pulling.pull().adapter.path / "adapter_model.safetensors"
    blob = file.resolve()
    damaged = bytearray(blob.read_bytes())
    damaged[-1] ^= 1
    blob.write_bytes(damaged)
    with pytest.raises(AdapterError, match="damaged on the way, or in the cache.*Delete"):
        pulling.pull()
    with pytest.raises(AdapterError, match="is not the file that was exported"):
        pulling.pull(offline="on")
    blob.unlink()
    assert pulling.pull().source == "hub"


@pytest.mark.parametrize("kind", ["500", "429", "reset", "truncated"])
@pytest.mark.parametrize("match", ["GET /api/models", "HEAD .*/resolve/", "GET .*/resolve/.*safetensors"])
def test_a_failure_that_passes_is_waited_out(pulling, hub, kind, match):
    commit = pulling.push()
    hub.faults.next(1, kind, match, retry_after=0)
    assert pulling.pull().commit == commit
    assert hub.faults.struck


def test_a_hub_that_keeps_failing_leaves_the_cache_to_a_warm_pull_and_says_so_to_a_cold_one(pulling, hub, tmp_path):
    commit = pulling.push()
    pulling.pull()
    hub.faults.next(100, "500", "/api/models")
    pulled = pulling.pull()
    assert (pulled.source, pulled.commit) == ("cache", commit) and "answers 500" in pulled.note
    with pytest.raises(HubUnavailableError, match="not in the cache.*answers 500"):
        pulling.pull(cache_dir=tmp_path / "cold")
    hub.faults.clear()
    hub.faults.next(100, "500", "/resolve/")
    with pytest.raises(HubUnavailableError):  # never half of it
        pulling.pull(cache_dir=tmp_path / "cold")


# ------------------------------------------------------------------------------------------------ what is refused


def test_a_pickle_only_is_refused_and_not_fetched(pulling, hub):
    folder, _ = pulling.plain()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    hub.api.create_repo(REPO)
    hub.api.upload_folder(folder_path=folder, repo_id=REPO)
    with pytest.raises(UnsafeFileError, match="only as adapter_model.bin, a pickle.*not downloaded.*save_pretrained"):
        pulling.pull()
    assert hub.faults.count("resolve/") == 0


def test_a_repo_without_an_adapter_says_what_is_there(pulling, hub):
    hub.api.create_repo(REPO)
    with pytest.raises(AdapterError, match="holds no adapter"):
        pulling.pull()
    pulling.upload("run-3/adapter_config.json", b"{}")
    with pytest.raises(AdapterError, match="There is one in its folder 'run-3'"):
        pulling.pull()
    pulling.upload("adapter_config.json", b"{}")
    with pytest.raises(AdapterError, match="lacks adapter_model.safetensors"):
        pulling.pull()


def test_a_changed_tensor_is_refused(pulling, load):
    folder = pulling.export()
    pulling.push(folder)
    pulling.upload("adapter_model.safetensors", change_weights(folder, lambda t: next(iter(t.values())).mul_(1.001)))
    with pytest.raises(AdapterError, match="adapter_model.safetensors is not the file that was exported"):
        pulling.pull()
    with pytest.raises(AdapterError, match="is not the file that was exported"):
        load()


def test_changed_settings_are_refused(pulling):
    folder = pulling.export()
    pulling.push(folder)
    pulling.upload("adapter_config.json", change_json(folder / "adapter_config.json", lora_alpha=512))
    with pytest.raises(AdapterError, match="does not hold the settings"):
        pulling.pull()


def test_nan_is_refused_even_without_a_lock(pulling, hub):
    folder, _ = pulling.plain()
    change_weights(folder, lambda tensors: next(iter(tensors.values())).fill_(float("nan")))
    hub.api.create_repo(REPO)
    hub.api.upload_folder(folder_path=folder, repo_id=REPO)
    with pytest.raises(AdapterError, match="are NaN or infinite"):
        pulling.pull()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"auto_mapping": {"base_model_class": "Evil", "parent_library": "os"}}, "asks PEFT to import 'os'"),
        ({"auto_mapping": {"parent_library": "transformers_evil.models"}}, "transformers_evil"),
        ({"peft_type": None}, "no 'peft_type'"),
        ({"peft_type": "XLORA", "adapters": {"0": "mallory/pickle"}}, None),
    ],
)
def test_a_hostile_configuration_is_refused(pulling, hub, load, values, words):
    folder, _ = pulling.plain()
    (folder / "adapter_config.json").write_bytes(change_json(folder / "adapter_config.json", **values))
    hub.api.create_repo(REPO)
    hub.api.upload_folder(folder_path=folder, repo_id=REPO)
    with pytest.raises(AdapterError, match=words or "does not stand alone"):
        load()


def test_hostile_bytes_are_refused(pulling, hub):
    pulling.push()
    for name, data, words in [
        ("adapter_config.json", b"[]", "must hold an object"),
        ("adapter_config.json", b'{"peft_type": ', "cannot be read as JSON"),
        ("adapter_model.safetensors", b"\xff" * 100, "not a whole safetensors file"),
        ("adapter_model.safetensors", b"version https://git-lfs", "Git LFS pointer"),
        ("adapter_model.safetensors", save({"x": torch.ones(2)})[:-3], "not a whole safetensors file"),
    ]:
        keep = {n: b for n, b in tree(pulling.pull(revision=pulling.push()).adapter.path).items()}
        pulling.upload(name, data)
        with pytest.raises(AdapterError, match=words):
            pulling.pull()
        pulling.upload(name, keep[name])


def test_a_link_in_the_cache_that_leaves_it_is_refused(pulling, tmp_path):
    pulling.push()
    path = pulling.pull().adapter.path
    (tmp_path / "secret.json").write_text("{}")
    (path / "tokenizer_config.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(UnsafeFileError, match="a link that leaves its folder"):
        pulling.pull(offline="on")


class _Hostile(http.server.BaseHTTPRequestHandler):
    """Says that a file's ETag is a path: huggingface_hub names a file of its cache after it."""

    etag = '"../../../../escaped"'

    def do_GET(self):
        body = b'{"peft_type": "LORA"}'
        if "/api/models/" in self.path:
            files = [{"rfilename": n} for n in ("adapter_config.json", "adapter_model.safetensors", "../../evil.json")]
            body = json.dumps({"id": "alice/x", "sha": GONE, "siblings": files, "private": False}).encode()
        self.send_response(404 if "harness" in self.path else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", GONE)
        self.send_header("ETag", self.etag)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


def test_a_hostile_server_cannot_write_outside_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hostile)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(UnsafeFileError, match="which leaves the cache"):
            pull_adapter(
                "alice/x", endpoint=f"http://127.0.0.1:{server.server_port}", cache_dir=tmp_path / "deep" / "cache"
            )
    finally:
        server.shutdown()
        server.server_close()
    assert not [path for path in tmp_path.rglob("*") if path.name in ("escaped", "evil.json")]


# ------------------------------------------------------------------------------------------------ what does not fit


def test_the_wrong_base_of_the_same_shape_is_told_when_loading(pulling, load, tmp_path):
    pulling.push()
    make_llama(seed=9).save_pretrained(tmp_path / "other")
    with pytest.raises(MismatchError, match=f"weights are not those of the adapter's base.*Load '{BASE_ID}'"):
        load(base=tmp_path / "other")


def test_a_changed_tokenizer_is_told_when_loading(pulling, load):
    pulling.push()
    make_tokenizer(["another", "word"]).save_pretrained(pulling.base)
    with pytest.raises(MismatchError, match="The tokenizer is not the one"):
        load()


def test_stray_and_missing_tensors_are_told_when_loading(pulling, hub, load):
    folder, _ = pulling.plain()
    hub.api.create_repo(REPO)
    change_weights(folder, lambda tensors: tensors.update({"base_model.model.stray": torch.ones(1)}))
    hub.api.upload_folder(folder_path=folder, repo_id=REPO)
    with pytest.raises(MismatchError, match="have no place in this model.*stray"):
        load()
    change_weights(folder, lambda t: [t.pop(name) for name in list(t) if "stray" in name or "layers.1" in name])
    hub.api.upload_folder(folder_path=folder, repo_id=REPO)
    with pytest.raises(MismatchError, match=r"tensors .* are missing, e.g. .*layers.1"):
        load()


def test_a_head_that_would_stay_random_is_told_when_loading(hub, load, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    BertModel(BertConfig(**sizes, num_attention_heads=2)).save_pretrained(tmp_path / "headless")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "headless", num_labels=3)
    get_peft_model(model, LoraConfig(target_modules=["query"])).save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "README.md").unlink()  # names a folder as the base, which a Hub does not accept
    hub.api.create_repo(REPO)
    hub.api.upload_folder(folder_path=tmp_path / "adapter", repo_id=REPO)
    with pytest.raises(MismatchError, match="classifier would stay random"):
        load(base=tmp_path / "headless", task_type="classification")


BY_REVISION = """
import sys, hfplug
from hfplug.models.factory import applied_to
repo, base, revision = sys.argv[1:]
print("a new run is pinned to", applied_to(hfplug.build_model(base)).base_commit)
try:
    hfplug.load_from_hub(repo, verify="probe")
    print("the locked commit loads")
    adapter = hfplug.pull_adapter(repo).adapter
    hfplug.load_adapter(adapter.path, revision=revision)
except hfplug.MismatchError as error:
    print(error)
"""


@pytest.mark.slow
def test_another_revision_of_the_base_is_told_and_the_locked_one_is_the_default(pulling, hub, tmp_path):
    hub.api.create_repo(BASE_ID)
    first = hub.api.upload_folder(folder_path=pulling.base, repo_id=BASE_ID).oid
    adapter = pulling.export(commit=first)
    make_llama(seed=5).save_pretrained(tmp_path / "newer")
    second = hub.api.upload_folder(folder_path=tmp_path / "newer", repo_id=BASE_ID).oid
    pulling.push(adapter)
    command = [sys.executable, "-c", BY_REVISION, REPO, BASE_ID, second]
    run = subprocess.run(command, env=hub.environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f"a new run is pinned to {second}" in run.stdout
    assert "the locked commit loads" in run.stdout
    assert f"read at commit {second}, the adapter was made at {first}" in run.stdout
    assert f"Load '{BASE_ID}' with revision='{first}'." in run.stdout


THROUGH_XET = """
import sys, hfplug
first = hfplug.pull_adapter(sys.argv[1])
again = hfplug.pull_adapter(sys.argv[1], offline="on")
print(first.source, again.source, (first.adapter.path / "adapter_model.safetensors").resolve())
"""


@pytest.mark.slow
@pytest.mark.parametrize("xet", ["on", "off"])
def test_it_comes_through_xet_and_without(pulling, hub, xet):
    pytest.importorskip("hf_xet")
    folder = pulling.export()
    switch = {"HF_HUB_DISABLE_XET": "1"} if xet == "off" else {}
    code = f"import hfplug; hfplug.push_adapter({str(folder)!r}, {REPO!r})\n{THROUGH_XET}"
    command = [sys.executable, "-c", code, REPO]
    run = subprocess.run(command, env=hub.environment(**switch), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("hub cache")


def test_the_token_is_in_no_log_no_error_and_no_file(pulling, hub, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    pulling.push()
    pulling.pull(out=tmp_path / "out")
    hub.faults.next(1, "500", "/api/models")
    errors = []
    for options in ({"revision": "none"}, {"repo_id": "alice/none"}):
        with pytest.raises(HubNotFoundError) as caught:
            pulling.pull(**options)
        errors.append(repr(caught.value))
    hub.stop()
    pulling.pull()
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("hfplug")]
    assert not any(hub.token in text for text in [*ours, *errors])
    shutil.rmtree(hub.root)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and hub.token.encode() in path.read_bytes()]
