"""The settings of a Space: what a file may hold, what the environment overrides, and what is said when it is wrong."""

from __future__ import annotations

import dataclasses
import json

import pytest

from hfplug.errors import SpaceError
from hfplug.space.config import SpaceConfig, VariantSource, parse_variant, read_config
from hfplug.space.config_parts import KEYS

TOKEN = "hf_" + "x" * 34
FULL = {
    "title": "Mine",
    "base": "google/flan-t5-base",
    "revision": "main",
    "variants": [{"name": "lora", "source": "me/lora", "revision": "v1"}, {"name": "mine", "source": "out/lora"}],
    "report": "study",
    "examples": "examples.jsonl",
    "add_adapters": "off",
    "allowed_owners": ["me", "you"],
    "allowed_bases": ["mirror/flan-t5-base"],
    "limits": {"max_new_tokens": 50, "pull_bytes": 1000},
    "votes": "me/votes",
    "votes_text": "on",
    "votes_folder": "kept",
    "endpoint": "http://127.0.0.1:8787",
}


def write(tmp_path, values):
    (tmp_path / "space.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return tmp_path / "space.json"


def refused(path, **environment):
    with pytest.raises(SpaceError) as caught:
        read_config(path, environment=environment)
    return str(caught.value)


def test_without_any_settings_it_runs_offline_on_the_built_in_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read_config(environment={})
    assert config == SpaceConfig() and config.variants == () and config.report is None
    from hfplug.demo.base import base_path

    assert config.base_source == str(base_path())


def test_the_adapters_of_the_demo_in_this_folder_are_its_columns_the_full_one_first(tmp_path, monkeypatch, adapters):
    study = tmp_path / "hfplug-demo" / "study"
    (study / "adapters").mkdir(parents=True)
    for name in ("lora", "prompt_tuning"):
        (study / "adapters" / name).symlink_to(adapters[name])
    (study / "adapters" / "full").mkdir()
    (study / "adapters" / "full" / "config.json").write_text("{}")
    (study / "adapters" / "lora.previous-1").mkdir()
    (study / "report.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    config = read_config(environment={})
    assert [variant.name for variant in config.variants] == ["full", "lora", "prompt_tuning"]
    assert config.report == str(study) and config.shows_demo
    assert all(config.folder_of(variant).is_dir() for variant in config.variants)


def test_every_key_of_a_file_is_read_and_written_again(tmp_path):
    config = read_config(write(tmp_path, FULL), environment={})
    assert set(FULL) == set(KEYS) == {item.name for item in dataclasses.fields(SpaceConfig)} - {"folder"}
    assert config.variants[0] == VariantSource(name="lora", source="me/lora", revision="v1")
    assert (config.limits.max_new_tokens, config.limits.pull_bytes) == (50, 1000)
    assert config.to_json() == FULL
    assert read_config(tmp_path, environment={}) == config
    assert config.path("study") == tmp_path / "study"


def test_the_environment_goes_before_the_file(tmp_path):
    config = read_config(
        write(tmp_path, FULL),
        environment={
            "HFPLUG_SPACE_TITLE": "Theirs",
            "HFPLUG_SPACE_VARIANTS": "a=me/a@v2, b=me/b",
            "HFPLUG_SPACE_ALLOWED_OWNERS": "you",
            "HFPLUG_SPACE_MAX_NEW_TOKENS": "7",
            "HFPLUG_SPACE_VOTES": "hf://datasets/you/votes",
            "HFPLUG_SPACE_VARIANT_BYTES": "1_000",
            "HFPLUG_SPACE_VOTES_TOKEN": TOKEN,
            "HFPLUG_SPACE_REPORT": "",
            "OTHER": TOKEN,
        },
    )
    assert (config.title, config.allowed_owners, config.votes, config.report) == (
        "Theirs",
        ("you",),
        "you/votes",
        "study",
    )
    assert [(v.name, v.source, v.revision) for v in config.variants] == [("a", "me/a", "v2"), ("b", "me/b", None)]
    assert (config.limits.max_new_tokens, config.limits.pull_bytes, config.limits.variant_bytes) == (7, 1000, 1000)
    assert TOKEN not in repr(config) + json.dumps(config.to_json())


def test_the_file_may_be_named_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere", {"title": "There"})
    config = read_config(environment={"HFPLUG_SPACE_CONFIG": "elsewhere/space.json"})
    assert (config.title, config.folder) == ("There", tmp_path / "elsewhere")
    write(tmp_path, {"title": "Here"})
    assert read_config(environment={}).title == "Here"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must hold a JSON object, not a list"),
        ("[" * 100_000, "cannot be read as JSON"),
        ({"bas": "x"}, "Did you mean 'base'?"),
        ({"limits": {"max_new_token": 1}}, "Did you mean 'max_new_tokens'?"),
        ({"limits": {"max_new_tokens": 0}}, "at least 1"),
        ({"limits": {"max_new_tokens": True}}, "whole number"),
        ({"limits": []}, "must be an object"),
        ({"title": ""}, "'title'"),
        ({"title": "a\nb"}, "'title'"),
        ({"title": 3}, "'title'"),
        ({"add_adapters": True}, "must be 'on' or 'off'"),
        ({"variants": {}}, "must be a list"),
        ({"variants": [{"name": "a"}]}, "'name' and 'source'"),
        ({"variants": [{"name": "a", "source": "b/c", "x": 1}]}, "has the key 'x'"),
        ({"variants": [{"name": "<b>", "source": "b/c"}]}, "must be a word"),
        ({"variants": [{"name": "base", "source": "b/c"}]}, "not 'base'"),
        ({"variants": [{"name": "a", "source": "b/c", "revision": "../x"}]}, "no branch"),
        ({"variants": [{"name": "a", "source": "b/c"}] * 2}, "Two variants are called 'a'"),
        ({"variants": [{"name": f"v{n}", "source": "b/c"} for n in range(17)]}, "at most 16"),
        ({"votes": "somewhere"}, "dataset repo"),
        ({"endpoint": "http://me:secret@hub"}, "without a password"),
        ({"endpoint": "ftp://hub"}, "address of a Hub"),
    ],
)
def test_what_is_wrong_is_said_with_the_key(tmp_path, values, said):
    assert said in refused(write(tmp_path, values))


@pytest.mark.parametrize("values", [{"title": f"x {TOKEN}"}, {TOKEN: 1}, {"limits": {"a": {"b": [TOKEN]}}}])
def test_a_file_that_holds_a_token_is_refused_without_repeating_it(tmp_path, values):
    text = refused(write(tmp_path, values))
    assert "access token" in text and "HF_TOKEN" in text and TOKEN not in text


def test_an_unknown_variable_and_one_that_is_no_number_are_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Did you mean 'HFPLUG_SPACE_TITLE'?" in refused(None, HFPLUG_SPACE_TITEL="x")
    assert "must be a whole number" in refused(None, HFPLUG_SPACE_MAX_QUEUE="many")
    assert TOKEN not in refused(None, HFPLUG_SPACE_TITLE=TOKEN)
    assert "There is no file" in refused("absent.json")


@pytest.mark.parametrize("text", ["lora", "=me/x", "lora=", "lo ra=me/x", "base=me/x", "a=me/x@../y"])
def test_a_variant_that_is_typed_wrong(text):
    with pytest.raises(SpaceError):
        parse_variant(text)


def test_a_folder_may_hold_an_at_sign(tmp_path):
    (tmp_path / "a@b").mkdir()
    assert parse_variant(f"x={tmp_path / 'a@b'}") == VariantSource(name="x", source=str(tmp_path / "a@b"))
    assert parse_variant("x=hf://me/y@v1") == VariantSource(name="x", source="me/y", revision="v1")


def test_a_variant_without_a_name_is_called_as_its_folder_or_its_repo(tmp_path):
    (tmp_path / "prompt").mkdir()
    assert parse_variant("me/my-lora@v1") == VariantSource(name="my-lora", source="me/my-lora", revision="v1")
    assert parse_variant(str(tmp_path / "prompt")) == VariantSource(name="prompt", source=str(tmp_path / "prompt"))
