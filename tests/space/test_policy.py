"""A Space takes an adapter only if it is what it has to be, and says otherwise in words for people."""

from __future__ import annotations

import json
import threading
import time

import pytest
from huggingface_hub import CommitOperationAdd
from space_parts import ALICES_TOKEN, export_adapter

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.errors import HfplugError, SpaceError
from hfplug.space.added_cache import SPARE, tidy, visitors_cache
from hfplug.space.config import SpaceConfig, SpaceLimits, VariantSource
from hfplug.space.policy import resolve_own, resolve_variant
from hfplug.space.words import UNEXPECTED, for_people, plain_line

REPO = "alice/summary-lora"


@pytest.fixture
def config(space_hub, tmp_path):
    return SpaceConfig(endpoint=space_hub.endpoint, folder=tmp_path)


@pytest.fixture
def pushed(space_hub, adapters):
    return space_hub.push(adapters["lora"], REPO)


def refused(config, source, revision=None, **more):
    """What a visitor is told."""
    with pytest.raises(SpaceError) as caught:
        resolve_variant(config, source, revision, **more)
    text = str(caught.value)
    assert "Traceback" not in text and "\n" not in text and "<" not in text and len(text) < 700
    return text


def weights_in(folder):
    return [path for path in folder.rglob("*.safetensors")]


def upload(hub, name, data, repo_id=REPO):
    return hub.api.create_commit(repo_id, [CommitOperationAdd(name, data)], commit_message="c").oid


def test_an_adapter_of_this_base_is_fetched_at_one_commit_and_can_be_opened(config, pushed):
    found = resolve_variant(config, REPO)
    assert (found.name, found.repo_id, found.commit) == (REPO, REPO, pushed)
    assert AdapterDir.open(found.folder).lock.probe
    assert found.size == sum(file.stat().st_size for file in AdapterDir.open(found.folder).files())


def test_a_revision_is_part_of_its_name_so_that_two_of_one_repo_are_two_columns(config, pushed, space_hub, tmp_path):
    newer = space_hub.push(export_adapter(tmp_path / "newer", seed=2), REPO)
    old, new = resolve_variant(config, REPO, pushed), resolve_variant(config, f"{REPO}@main")
    assert (old.commit, new.commit) == (pushed, newer)
    assert (old.name, new.name) == (f"{REPO}@{pushed[:7]}", f"{REPO}@{newer[:7]}")


@pytest.mark.parametrize(
    "source",
    [
        "", "   ", "alice", "../x", "../../etc/passwd", "/etc", "/etc/passwd", "~/adapter", "./adapter", "alice/..",
        "alice/../x", "alice/x/y", "hf://alice/x", "https://huggingface.co/alice/x", "file:///etc/passwd",
        "C:\\adapter", "alice/x\x00", "alice/x\nb", "al\u202eice/x", "älice/x", "alice/-x", "alice/x.git",
        "<script>alert(1)</script>/x", "alice/<img src=x onerror=alert(1)>", "a" * 10_000, f"alice/{'x' * 10_000}",
        "alice/x@", "alice/x@../../y", "alice/x@main..other", "alice/x@refs/pr/1", "alice/x@a b", "alice/x@<b>",
    ],
)  # fmt: skip
def test_what_is_no_repo_is_refused_without_a_call_and_without_being_repeated(source):
    # Nothing listens there: whoever called would say that the Hub cannot be reached.
    text = refused(SpaceConfig(endpoint="http://127.0.0.1:9"), source)
    assert "Hub cannot be reached" not in text
    assert len(source.strip()) < 6 or source not in text


def test_a_folder_of_that_name_is_never_read(config, adapters, tmp_path, monkeypatch):
    (tmp_path / "alice").mkdir()
    (tmp_path / "alice" / "summary-lora").symlink_to(adapters["lora"])
    monkeypatch.chdir(tmp_path)
    assert "There is no public repo alice/summary-lora" in refused(config, REPO)


def test_a_private_repo_is_as_if_it_were_not_there_also_for_a_space_that_may_read_it(
    config, space_hub, adapters, monkeypatch
):
    space_hub.push(adapters["lora"], "alice/hidden", private="on")
    monkeypatch.setenv("HF_TOKEN", ALICES_TOKEN)
    one, other = refused(config, "alice/hidden"), refused(config, "alice/absent")
    assert one.replace("hidden", "absent") == other
    assert ALICES_TOKEN not in one


def test_a_gated_repo_is_said_to_be_gated(config, pushed, space_hub, monkeypatch):
    space_hub.api.update_repo_settings(REPO, gated="auto")
    monkeypatch.setenv("HF_TOKEN", ALICES_TOKEN)
    assert "is gated" in refused(config, REPO)


def test_an_unknown_revision_is_said_to_be_missing(config, pushed):
    assert "with a revision v9" in refused(config, REPO, "v9")


def test_a_repo_without_an_adapter_and_one_with_a_pickle_only(config, space_hub, pushed, tmp_path):
    space_hub.api.create_repo("alice/empty")
    assert "holds no adapter" in refused(config, "alice/empty")
    space_hub.api.delete_file("adapter_model.safetensors", REPO)
    upload(space_hub, "adapter_model.bin", b"cos\nsystem\n(S'true'\ntR.")
    assert "pickle" in refused(config, REPO)
    assert not list(visitors_cache().rglob("*.bin"))


def test_what_is_too_large_is_refused_before_a_byte_of_it_is_fetched(config, pushed, space_hub, tmp_path):
    small = SpaceConfig(endpoint=config.endpoint, folder=tmp_path, limits=SpaceLimits(pull_bytes=1000))
    assert "fetches at most" in refused(small, REPO)
    space_hub.api.create_repo("alice/whole")
    upload(space_hub, "config.json", b'{"model_type": "t5"}', "alice/whole")
    upload(space_hub, "model.safetensors", b"x" * 5000, "alice/whole")
    assert "It is a whole model" in refused(small, "alice/whole")
    assert not weights_in(visitors_cache())


def test_an_adapter_that_names_another_base_is_refused_before_its_weights_are_fetched(
    config, space_hub, tmp_path, monkeypatch
):
    ours = SpaceConfig(endpoint=config.endpoint, folder=tmp_path, base="google/flan-t5-base")
    commit = "a" * 40
    space_hub.push(export_adapter(tmp_path / "other", base_name="bob/other-t5", base_commit=commit), "alice/other")
    text = refused(ours, "alice/other")
    assert "is for the base bob/other-t5; this Space runs google/flan-t5-base" in text
    assert not weights_in(visitors_cache())
    allowed = SpaceConfig(
        endpoint=config.endpoint, folder=tmp_path, base="google/flan-t5-base", allowed_bases=("bob/Other-T5",)
    )
    assert resolve_variant(allowed, "alice/other").commit


def test_another_commit_of_the_base_is_said(config, space_hub, tmp_path):
    ours = SpaceConfig(endpoint=config.endpoint, folder=tmp_path, base="bob/some-t5")
    space_hub.push(export_adapter(tmp_path / "some", base_name="bob/some-t5", base_commit="a" * 40), "alice/some")
    assert resolve_variant(ours, "alice/some", base_commit="a" * 40).notes == ()
    (note,) = resolve_variant(ours, "alice/some", base_commit="b" * 40).notes
    assert "aaaaaaaaaaaa" in note and "bbbbbbbbbbbb" in note


def test_a_base_without_a_name_is_known_by_the_lock_or_not_at_all(config, pushed, space_hub, small_t5, tmp_path):
    (note,) = resolve_variant(config, REPO).notes
    assert "names no base on a Hub" in note
    space_hub.push(export_adapter(tmp_path / "small", base=small_t5), "alice/small")
    assert "was made for another base than hfplug's built-in base" in refused(config, "alice/small")
    space_hub.api.delete_file("hfplug_lock.json", REPO)
    assert "nothing in the repo shows that they are the same" in refused(config, REPO)


@pytest.fixture
def small_t5(tmp_path):
    """Another base than the built-in one, with its tokenizer."""
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    from hfplug.demo.base import base_path

    tokenizer = AutoTokenizer.from_pretrained(base_path())
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "small-t5")
    tokenizer.save_pretrained(tmp_path / "small-t5")
    return tmp_path / "small-t5"


def test_changed_weights_are_refused_by_the_lock(config, pushed, space_hub, adapters):
    from safetensors.torch import load_file, save

    tensors = load_file(adapters["lora"] / "adapter_model.safetensors")
    changed = {name: tensor + 1 for name, tensor in tensors.items()}
    upload(space_hub, "adapter_model.safetensors", save(changed, metadata={"format": "pt"}))
    assert "is not the file that was exported" in refused(config, REPO)


def test_settings_that_ask_for_code_are_refused(config, pushed, space_hub, adapters):
    settings = json.loads((adapters["lora"] / "adapter_config.json").read_text())
    settings["auto_mapping"] = {"base_model_class": "X", "parent_library": "<script>os"}
    upload(space_hub, "adapter_config.json", json.dumps(settings).encode())
    assert "‹script›os" in refused(config, REPO)


def test_only_the_allowed_owners_and_none_where_adding_is_off(config, pushed, tmp_path):
    only_bob = SpaceConfig(endpoint=config.endpoint, folder=tmp_path, allowed_owners=("bob", "carol"))
    assert "of bob and carol only, not of alice" in refused(only_bob, REPO)
    off = SpaceConfig(endpoint=config.endpoint, folder=tmp_path, add_adapters="off")
    assert "takes no others" in refused(off, REPO)
    alice = SpaceConfig(endpoint=config.endpoint, folder=tmp_path, allowed_owners=("Alice",))
    assert resolve_variant(alice, REPO).commit == pushed


def test_a_strangers_pull_request_to_an_allowed_owner_is_not_the_owners(config, pushed, space_hub, tmp_path):
    alice = SpaceConfig(endpoint=config.endpoint, folder=tmp_path, allowed_owners=("alice",))
    add = [CommitOperationAdd("notes.txt", b"mine")]
    request = space_hub.other_api.create_commit(REPO, add, commit_message="c", create_pr=True)
    assert "may be a stranger's pull request" in refused(alice, REPO, request.oid)
    assert "not a branch" in refused(alice, REPO, "refs/pr/1")
    space_hub.api.create_tag(REPO, tag="v1")
    upload(space_hub, "more.txt", b"x")
    assert resolve_variant(alice, REPO, pushed).commit == resolve_variant(alice, REPO, "v1").commit == pushed


def test_a_hub_that_does_not_answer_is_said_to_be_the_reason(config, pushed, space_hub):
    space_hub.gate.refuse["/api/models"] = 503
    assert "the Hub cannot be reached at the moment" in refused(config, REPO)


def test_adding_ends_when_its_time_is_up_and_a_third_at_once_is_told_to_wait(pushed, space_hub, tmp_path):
    space_hub.gate.slow["/resolve/"] = 1.5
    hasty = SpaceConfig(endpoint=space_hub.endpoint, folder=tmp_path, limits=SpaceLimits(pull_seconds=1))
    began = time.monotonic()
    said = []
    both = [threading.Thread(target=lambda: said.append(refused(hasty, REPO))) for _ in range(2)]
    for thread in both:
        thread.start()
    time.sleep(0.3)
    assert "Try again in a minute" in refused(hasty, REPO)
    for thread in both:
        thread.join()
    assert all("was not here within 1 seconds" in text for text in said) and len(said) == 2
    assert time.monotonic() - began < 3
    space_hub.gate.slow.clear()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            assert resolve_variant(SpaceConfig(endpoint=space_hub.endpoint, folder=tmp_path), REPO).commit == pushed
            break
        except SpaceError:
            time.sleep(0.2)
    else:
        pytest.fail("the places of the two are never free again")


def test_a_variant_of_the_settings_may_be_a_folder_private_and_large(
    config, space_hub, adapters, tmp_path, monkeypatch
):
    (tmp_path / "mine").symlink_to(adapters["lora"])
    found = resolve_own(config, VariantSource(name="mine", source="mine"))
    assert (found.name, found.commit, found.repo_id) == ("mine", None, None)
    space_hub.push(adapters["prompt_tuning"], "alice/private", private="on")
    monkeypatch.setenv("HF_TOKEN", ALICES_TOKEN)
    tight = SpaceConfig(endpoint=config.endpoint, folder=tmp_path, limits=SpaceLimits(pull_bytes=1))
    assert resolve_own(tight, VariantSource(name="p", source="alice/private")).name == "p"
    with pytest.raises(HfplugError):
        resolve_own(config, VariantSource(name="absent", source="alice/absent"))


def test_words_for_people_hold_no_path_no_token_no_markup_and_no_trace(monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", "a-secret-of-another-shape")
    text = plain_line(
        f"/home/me/.cache/x/lora.safetensors holds {ALICES_TOKEN} and a-secret-of-another-shape\n<b>\x1b[0m alice/x"
    )
    assert text == "lora.safetensors holds [removed] and [removed] ‹b›[0m alice/x"
    assert len(plain_line("x" * 5000)) == 600
    assert for_people(ValueError("/etc/passwd")) == UNEXPECTED and "/etc/passwd" in caplog.text
    assert for_people(SpaceError("No.", fix="Type: hfplug")) == "No. Type: hfplug"


def test_visitors_cannot_fill_the_disk_the_oldest_of_theirs_go(config, pushed, space_hub, tmp_path):
    few = SpaceConfig(endpoint=config.endpoint, folder=tmp_path, limits=SpaceLimits(added_variants=0))
    commits = [pushed, *(upload(space_hub, "notes.txt", f"{number}".encode()) for number in range(SPARE + 1))]
    first = resolve_variant(few, REPO, commits[0])
    for commit in commits[1:-1]:
        resolve_variant(few, REPO, commit)
    again = resolve_variant(few, REPO, commits[0])  # asked for again, so no longer the oldest
    assert again.folder == first.folder
    resolve_variant(few, REPO, commits[-1])
    held = {path.name for path in visitors_cache().glob("models--*/snapshots/*")}
    assert held == {commits[0], *commits[-3:]}
    assert AdapterDir.open(first.folder).files()
    assert tidy(visitors_cache(), 0) > 0 and not weights_in(visitors_cache())
