"""What is pushed loads everywhere, arrives once, and holds no secret; the command says what it did."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from made_adapters import BASE, logits, make_llama, make_t5, make_tokenizer, save_lora, save_prompt
from safetensors.torch import load_file

from hfplug import push_adapter
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.lock import make_lock
from hfplug.adapters.record import Record
from hfplug.adapters.task import Task
from hfplug.cli.main import main
from hfplug.errors import HubAccessError, HubUnavailableError, UnsafeFileError
from hfplug.hub.collections import collection_title
from hfplug.hub.push import default_name, preview_push

REPO = "alice/my-adapter"
PLAIN = """
import sys
from peft import AutoPeftModelForSeq2SeqLM, PeftModel
from transformers import AutoModelForSeq2SeqLM
sys.path.insert(0, sys.argv[3])
from made_adapters import logits

repo, base = sys.argv[1:3]
one = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(base), repo).eval()
two = AutoPeftModelForSeq2SeqLM.from_pretrained(repo).eval()
print([logits(model).flatten()[:40].tolist() for model in (one, two)])
"""


@pytest.fixture
def push(hub):
    """``push_adapter`` as alice."""

    def make(adapter, repo_id=REPO, **options):
        return push_adapter(adapter, repo_id, endpoint=hub.endpoint, token=hub.token, timeout=10, **options)

    return make


@pytest.fixture
def base_commit(hub, tmp_path):
    """A tiny T5 on the Hub, and its commit."""
    make_t5().save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    hub.api.create_repo(BASE)
    hub.api.upload_folder(folder_path=tmp_path / "base", repo_id=BASE)
    return hub.api.model_info(BASE).sha


@pytest.fixture
def make_adapter(tmp_path):
    """``make_adapter(commit)``: one as an export leaves it, and its logits."""

    def make(commit=None, seed=1, **parts):
        tuned = save_lora(tmp_path / f"source-{seed}", base=BASE, seed=seed)
        record = Record(
            method="lora",
            method_settings={"r": 2},
            all_method_settings={"r": 2, "alpha": 8},
            task="summary",
            base=BASE,
            base_commit=commit,
            data={"source": "me/talks", "revision": "b" * 40, "eval_split": "test", "eval_rows": 200},
            model_performance={"metrics": {"rouge1": {"value": 0.31, "low": 0.28, "high": 0.34, "confidence": 0.95}}},
            parameter_efficiency={"share": 0.01},
            memory_efficiency={"peak_training_bytes": 1_000_000},
            inference_cost={"generated_tokens_per_second": 30.0},
            training_speed={"seconds_per_step": 0.25},
            examples=({"input": "A: hi", "output": "They greet."},),
        )
        lock = make_lock(tuned, make_tokenizer(), base_name=BASE, base_commit=commit)
        task = Task(name="summary", prompt="Summarize.\n\n{dialogue}")
        parts = {"record": record, "lock": lock, "task": task} | parts
        return AdapterDir.write(tmp_path / "adapter", source=tmp_path / f"source-{seed}", **parts), logits(tuned)

    return make


def commits(hub, repo_id=REPO):
    return [commit.title for commit in hub.api.list_repo_commits(repo_id)][:-1]


def card_of(hub, repo_id=REPO):
    return Path(hub.api.hf_hub_download(repo_id, "README.md", cache_dir=hub.cache)).read_text(encoding="utf-8")


def in_a_process(hub, code, *arguments, **environment):
    words = [sys.executable, "-c", code, *arguments, str(Path(__file__).parent)]
    done = subprocess.run(words, env=hub.environment(**environment), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_plain_peft_loads_what_was_pushed_both_ways(hub, push, make_adapter, base_commit):
    adapter, expected = make_adapter(base_commit)
    push(adapter)
    shown = json.loads(in_a_process(hub, PLAIN, REPO, BASE).splitlines()[-1])
    for found in shown:
        assert torch.allclose(torch.tensor(found), expected.flatten()[:40], atol=1e-5)


@pytest.mark.slow
def test_auto_peft_takes_the_base_at_the_commit_of_the_lock(hub, push, make_adapter, base_commit, tmp_path):
    adapter, expected = make_adapter(base_commit)
    push(adapter)
    make_t5(seed=9).save_pretrained(tmp_path / "base")
    hub.api.upload_folder(folder_path=tmp_path / "base", repo_id=BASE)
    newest, locked = json.loads(in_a_process(hub, PLAIN, REPO, BASE).splitlines()[-1])
    assert torch.allclose(torch.tensor(locked), expected.flatten()[:40], atol=1e-5)
    assert not torch.allclose(torch.tensor(newest), expected.flatten()[:40], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["ours", "plain"])
def test_the_cards_own_code_runs(hub, push, make_adapter, base_commit, which):
    adapter, expected = make_adapter(base_commit)
    push(adapter)
    code = re.findall(r"```python\n(.*?)\n```", card_of(hub), re.S)[["ours", "plain"].index(which)]
    tail = "\nimport sys; sys.path.insert(0, sys.argv[1])\nfrom made_adapters import logits\n"
    tail += "print(logits(model.eval()).flatten()[:40].tolist())"
    found = json.loads(in_a_process(hub, code + tail).splitlines()[-1])
    assert torch.allclose(torch.tensor(found), expected.flatten()[:40], atol=1e-5)


def test_the_hub_reads_everything_from_the_card(hub, push, make_adapter, base_commit):
    adapter, _ = make_adapter(base_commit)
    push(adapter, licence="apache-2.0", private="off")
    front = ModelCard(card_of(hub)).data.to_dict()
    (result,) = front.pop("model-index")[0]["results"]
    assert front == {
        "base_model": BASE,
        "base_model_relation": "adapter",
        "datasets": ["me/talks"],
        "library_name": "peft",
        "license": "apache-2.0",
        "pipeline_tag": "summarization",
        "tags": ["hfplug", "lora", "method:lora", "task:summary"],
    }
    assert result["dataset"] == {
        "name": "me/talks",
        "type": "me/talks",
        "split": "test",
        "revision": "b" * 40,
        "args": {"eval_rows": 200},
    }
    (metric,) = result["metrics"]
    assert metric == {
        "type": "rouge",
        "name": "rouge1",
        "value": 0.31,
        "args": {"low": 0.28, "high": 0.34, "confidence": 0.95},
    }
    for tag in ("hfplug", "method:lora", "task:summary", f"base_model:adapter:{BASE}"):
        assert [model.id for model in hub.anonymous.list_models(filter=tag)] == [REPO], tag


def test_the_card_says_what_a_reader_needs(hub, push, make_adapter, base_commit):
    adapter, _ = make_adapter(base_commit)
    push(adapter, dtype="bfloat16")
    card = card_of(hub)
    for line in (
        f"at commit `{base_commit}`",
        "its weights in `bfloat16`",
        f"Measured on 200 rows of `me/talks`, split `test`, revision `{'b' * 40}`.",
        "| metric | value | 95 % interval |",
        "| rouge1 | 0.31 | 0.28 to 0.34 |",
        "| parameter efficiency | share | 1 % |",
        "| memory efficiency | peak training bytes | 1 MB |",
        "| model performance | metrics | rouge1 0.31 |",
        "| inference cost | generated tokens per second | 30 |",
        "| training speed | seconds per step | 0.25 |",
        "Settings of `lora` that are not its defaults: `r` = `2`.",
        f'hfplug.load_from_hub("{REPO}")',
        f'PeftModel.from_pretrained(base, "{REPO}")',
        "They greet.",
    ):
        assert line in card, line
    assert re.search(r"\| torch \| \d", card) and re.search(r"\| peft \| \d", card)


@pytest.mark.slow
def test_a_prompt_loads_in_plain_peft_too(hub, push, tmp_path, base_commit):
    tuned = save_prompt(tmp_path / "prompt", base=BASE)
    push(tmp_path / "prompt", "alice/prompt")
    shown = json.loads(in_a_process(hub, PLAIN, "alice/prompt", BASE).splitlines()[-1])
    assert torch.allclose(torch.tensor(shown[1]), logits(tuned).flatten()[:40], atol=1e-5)


def test_a_peft_folder_goes_as_it_is(hub, push, tmp_path):
    save_prompt(tmp_path / "prompt", base=BASE)
    (tmp_path / "prompt" / "training_args.bin").write_bytes(b"\x80secret")
    sent = push(tmp_path / "prompt", "alice/prompt")
    assert set(hub.api.list_repo_files("alice/prompt")) == {
        ".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    assert "method:prompt_tuning" in ModelCard(card_of(hub, "alice/prompt")).data.tags
    assert any("training_args.bin" in note for note in sent.notes)


def test_a_full_model_is_pushed_as_a_full_model(hub, push, tmp_path):
    make_llama().save_pretrained(tmp_path / "full")
    make_tokenizer().save_pretrained(tmp_path / "full")
    adapter = AdapterDir.write(
        tmp_path / "adapter",
        source=tmp_path / "full",
        record=Record(method="full", base="google/tiny", base_commit="c" * 40),
    )
    push(adapter, "alice/full")
    front = ModelCard(card_of(hub, "alice/full")).data
    assert (front.library_name, front.base_model, front.base_model_relation) == (
        "transformers",
        "google/tiny",
        "finetune",
    )
    files = set(hub.api.list_repo_files("alice/full"))
    assert {"config.json", "model.safetensors", "tokenizer.json", "hfplug_record.json"} <= files
    path = hub.api.hf_hub_download("alice/full", "model.safetensors", cache_dir=hub.cache)
    expected = load_file(tmp_path / "full" / "model.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in load_file(path).items())


def test_a_model_in_one_file_takes_the_place_of_its_shards(hub, push, tmp_path):
    make_llama().save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    push(tmp_path / "shards", "alice/full")
    make_llama().save_pretrained(tmp_path / "whole")
    sent = push(tmp_path / "whole", "alice/full")
    files = hub.api.list_repo_files("alice/full")
    assert "model.safetensors" in files and not any("-of-" in name or "index" in name for name in files)
    assert any("Taken out" in note for note in sent.notes) and len(commits(hub, "alice/full")) == 2


def test_pushing_again_changes_nothing(hub, push, make_adapter):
    adapter, _ = make_adapter("d" * 40)
    first, again = push(adapter), push(adapter)
    assert first.changed and not again.changed and again.commit == first.commit
    assert len(commits(hub)) == 1
    other, _ = make_adapter("d" * 40, seed=2)
    assert push(other).changed and len(commits(hub)) == 2


def test_no_token_is_anywhere_after_a_push(hub, push, make_adapter, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    adapter, _ = make_adapter("d" * 40, record=Record(method="lora", all_method_settings={"hub_token": hub.token}))
    (adapter.path / "training_args.bin").write_bytes(hub.token.encode())
    with caplog.at_level("DEBUG"):
        sent = push(adapter)
    for name in hub.api.list_repo_files(REPO):
        path = hub.api.hf_hub_download(REPO, name, cache_dir=hub.cache)
        assert hub.token.encode() not in Path(path).read_bytes(), name
    for commit in hub.api.list_repo_commits(REPO):
        assert hub.token not in commit.title + commit.message
    assert hub.token not in caplog.text + repr(sent)
    (adapter.path / "README.md").write_text(f"# Mine\n\n{hub.token}\n")
    with pytest.raises(UnsafeFileError) as caught:
        push(adapter)
    assert hub.token not in str(caught.value)


def test_no_error_repeats_a_token_that_a_server_quotes(hub, make_adapter):
    adapter, _ = make_adapter()
    for token in ("hf_" + "w" * 34, "not-of-the-usual-shape"):
        with pytest.raises(HubAccessError) as caught:
            push_adapter(adapter, REPO, endpoint=hub.endpoint, token=token)
        import traceback

        assert token not in "".join(traceback.format_exception(caught.value))


def test_the_name_is_made_of_base_task_and_method(hub, push, make_adapter):
    adapter, _ = make_adapter()
    assert push(adapter, None).repo_id == "alice/tiny-t5-summary-lora"
    assert push(adapter, "short").repo_id == "alice/short"
    assert default_name(adapter, owner="alice", base_id="google/flan-t5-base") == "flan-t5-base-summary-lora"


def test_a_default_name_is_one_that_the_hub_takes(make_adapter, tmp_path):
    from huggingface_hub.utils import validate_repo_id

    names = set()
    for base, task in (
        ("x/" + "long" * 30 + "a", "t"),
        ("x/" + "long" * 30 + "b", "t"),
        ("/home/me/My Base..v2--x.git", "Sum up: all!"),
        ("x/.hidden-", "--"),
        (None, ""),
    ):
        record = Record(method="lora", base=base, task=task)
        adapter, _ = make_adapter(record=record, lock=None, task=None)
        name = default_name(adapter, owner="somebody")
        validate_repo_id(f"somebody/{name}")
        names.add(name)
    assert len(names) == 5


def test_a_push_waits_as_long_as_the_hub_asks_and_arrives_once(hub, push, make_adapter):
    adapter, _ = make_adapter()
    hub.faults.next(2, "429", "POST .*/commit/", retry_after=1)
    began = time.monotonic()
    assert push(adapter).changed and len(commits(hub)) == 1
    assert time.monotonic() - began >= 2


def test_a_hub_that_stays_away_is_given_up_with_what_to_do(make_adapter):
    adapter, _ = make_adapter()
    with pytest.raises(HubUnavailableError, match=r"cannot be reached.*HF_ENDPOINT"):
        push_adapter(adapter, REPO, endpoint="http://127.0.0.1:9", token="x" * 12, tries=2)


# ---------------------------------------------------------------------------------------------- collection


def test_long_names_of_bases_are_told_apart_in_the_titles():
    name = "a-name-that-is-longer-than-a-title-may-be-on-the-hub"
    titles = [collection_title(f"{owner}/{name}") for owner in ("one", "two")]
    assert titles[0] != titles[1] and max(map(len, titles)) <= 60


def test_a_collection_holds_the_adapters_of_one_base(hub, push, make_adapter):
    adapter, _ = make_adapter()
    for name in ("alice/one", "alice/two", "alice/one"):
        sent = push(adapter, name, collection="on")
    (collection,) = hub.api.list_collections(owner="alice")
    assert collection.title == f"hfplug adapters of {BASE}"
    items = hub.api.get_collection(collection.slug).items
    assert sorted(item.item_id for item in items) == ["alice/one", "alice/two"]
    assert f"{hub.endpoint}/collections/{collection.slug}" in sent.notes[-1]


def test_a_collection_is_kept_after_a_failure_that_passes(hub, push, make_adapter):
    hub.faults.next(1, "500", "/api/collections")
    sent = push(make_adapter()[0], collection="on")
    assert hub.faults.left == 0 and "In the collection" in sent.notes[-1]


def test_a_hub_without_collections_gets_the_adapter_all_the_same(hub, push, make_adapter):
    hub.faults.next(9, "500", "/api/collections")
    adapter, _ = make_adapter()
    sent = push(adapter, collection="on")
    assert sent.changed and "No collection is kept" in sent.notes[-1]


# ------------------------------------------------------------------------------------------------- command


@pytest.fixture
def at_hub(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    return hub


def test_the_command_pushes_and_says_where_to_look(at_hub, make_adapter, capsys):
    adapter, _ = make_adapter()
    assert main(["push", str(adapter.path), "--private", "--licence", "mit", "--message", "by hand"]) == 0
    out = capsys.readouterr().out
    assert f"Pushed alice/tiny-t5-summary-lora at {at_hub.api.model_info('alice/tiny-t5-summary-lora').sha[:12]}" in out
    assert commits(at_hub, "alice/tiny-t5-summary-lora") == ["by hand"]
    assert at_hub.api.model_info("alice/tiny-t5-summary-lora").private
    assert main(["push", str(adapter.path), "--private"]) == 0
    assert "Nothing to push" in capsys.readouterr().out


def test_a_dry_run_shows_everything_and_changes_nothing(at_hub, make_adapter, capsys):
    adapter, _ = make_adapter()
    assert main(["push", str(adapter.path), REPO, "--dry-run", "--dtype", "bfloat16"]) == 0
    out = capsys.readouterr().out
    for part in (
        "which would be made",
        "adapter_model.safetensors",
        "base_model: alice/tiny-t5",
        "6 files would change",
    ):
        assert part in out, out
    main(
        ["push", str(adapter.path), REPO, "--dry-run", "--private", "--create-pr", "--collection", "--message", "hello"]
    )
    out = capsys.readouterr().out
    assert [part for part in ("private", "pull request", "collection", "'hello'") if part not in out] == []
    assert not at_hub.api.repo_exists(REPO)
    main(["push", str(adapter.path), REPO])
    before = at_hub.api.model_info(REPO).sha
    capsys.readouterr()
    main(["push", str(adapter.path), REPO, "--dry-run"])
    assert "Nothing would change." in capsys.readouterr().out
    assert at_hub.api.model_info(REPO).sha == before


def test_what_the_preview_says_is_what_the_push_does(hub, push, make_adapter):
    adapter, _ = make_adapter()
    push(adapter)
    other, _ = make_adapter(seed=2)
    preview = preview_push(other, REPO, endpoint=hub.endpoint, token=hub.token)
    before = {file.rfilename: file.blob_id for file in hub.api.model_info(REPO, files_metadata=True).siblings}
    push(other)
    after = {file.rfilename: file.blob_id for file in hub.api.model_info(REPO, files_metadata=True).siblings}
    assert {name for name in after if before.get(name) != after[name]} == set(preview.add)


def test_a_mistake_is_one_line_with_what_to_type(at_hub, make_adapter, capsys, monkeypatch):
    adapter, _ = make_adapter()
    assert main(["push", str(adapter.path), "bob/his"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "the token may not do that" in err and "hf auth login" in err
    assert main(["push", str(adapter.path / "nowhere"), REPO]) == 2
    assert "There is no folder" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", str(adapter.path)]) == 2
    assert "there is no token. Type: hf auth login" in capsys.readouterr().err
