"""A Space's variables, secrets and hardware are kept, shown to its owner alone, and no secret's value lies anywhere."""

from __future__ import annotations

import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

SPACE = "alice/space"
CARD = """---
title: Mine
emoji: 🔌
colorFrom: blue
colorTo: gray
sdk: gradio
sdk_version: "6.0.0"
python_version: "3.11"
app_file: app.py
---
# Mine
"""


@pytest.fixture
def space(hub):
    hub.api.create_repo(SPACE, repo_type="space", space_sdk="gradio")
    return hub


def put(hub, **files):
    operations = [CommitOperationAdd(name.replace("__", "."), text.encode()) for name, text in files.items()]
    return hub.api.create_commit(SPACE, operations, commit_message="c", repo_type="space")


def test_variables_are_set_changed_and_taken_away(space):
    assert space.api.get_space_variables(SPACE) == {}
    space.api.add_space_variable(SPACE, "MODE", "one", description="which")
    assert space.api.add_space_variable(SPACE, "MODE", "two")["MODE"].value == "two"
    assert {key: item.value for key, item in space.api.get_space_variables(SPACE).items()} == {"MODE": "two"}
    assert space.api.delete_space_variable(SPACE, "MODE") == {}
    with pytest.raises(HfHubHTTPError, match="404"):
        space.api.delete_space_variable(SPACE, "MODE")


def test_a_secret_is_known_by_its_name_and_its_value_lies_nowhere(space):
    space.api.add_space_secret(SPACE, "KEY", "do-not-keep-this-value", description="for the tests")
    shown = space.api.get_space_secrets(SPACE)
    assert list(shown) == ["KEY"] and shown["KEY"].description == "for the tests" and shown["KEY"].updated_at
    files = [file for file in space.root.rglob("*") if file.is_file()]
    assert files and all(b"do-not-keep-this-value" not in file.read_bytes() for file in files)
    space.api.delete_space_secret(SPACE, "KEY")
    assert space.api.get_space_secrets(SPACE) == {}


def test_hardware_and_sleep_time_are_kept_and_the_stage_says_that_nothing_runs(space):
    runtime = space.api.get_space_runtime(SPACE)
    assert (runtime.stage, runtime.hardware, runtime.requested_hardware) == ("NO_APP_FILE", None, "cpu-basic")
    put(space, README__md=CARD, app__py="print()")
    runtime = space.api.request_space_hardware(SPACE, "t4-small", sleep_time=600)
    assert (runtime.stage, runtime.requested_hardware, runtime.sleep_time) == ("STOPPED", "t4-small", 600)
    assert space.api.set_space_sleep_time(SPACE, -1).sleep_time == -1


def test_they_may_come_with_the_call_that_creates_it_and_outlive_a_restart(hub):
    made = {"space_secrets": [{"key": "K", "value": "v"}], "space_variables": [{"key": "A", "value": "1"}]}
    hub.api.create_repo(SPACE, repo_type="space", space_sdk="gradio", space_hardware="l4x1", **made)
    hub.stop()
    hub.start()
    assert list(hub.api.get_space_secrets(SPACE)) == ["K"]
    assert hub.api.get_space_variables(SPACE)["A"].value == "1"
    assert hub.api.get_space_runtime(SPACE).requested_hardware == "l4x1"
    assert hub.api.space_info(SPACE).sdk == "gradio"


def test_others_neither_see_nor_change_them(space):
    calls = {
        "secrets": lambda api: api.get_space_secrets(SPACE),
        "variables": lambda api: api.get_space_variables(SPACE),
        "a secret": lambda api: api.add_space_secret(SPACE, "K", "v"),
        "a variable": lambda api: api.add_space_variable(SPACE, "K", "v"),
        "hardware": lambda api: api.request_space_hardware(SPACE, "t4-small"),
    }
    for call in calls.values():
        with pytest.raises(HfHubHTTPError, match="403"):
            call(space.other_api)
        with pytest.raises(HfHubHTTPError, match="401"):
            call(space.anonymous)
    assert space.api.get_space_secrets(SPACE) == {} == space.api.get_space_variables(SPACE)
    with pytest.raises(RepositoryNotFoundError):
        space.api.add_space_secret("alice/absent", "K", "v")


@pytest.mark.parametrize("key", ["", "1A", "A-B", "A B", "Ä", "A" * 256])
def test_a_key_is_the_name_of_an_environment_variable(space, key):
    with pytest.raises(HfHubHTTPError, match="name of an environment variable"):
        space.api.add_space_variable(SPACE, key, "v")


def test_the_front_matter_of_a_space_is_looked_at_before_it_is_taken(space):
    assert put(space, README__md=CARD)
    wrong = {
        "colorFrom: blue": "colorFrom: '#ff0000'",
        "sdk: gradio": "sdk: gradioo",
        'python_version: "3.11"': "python_version: 3.10",
        'sdk_version: "6.0.0"': "sdk_version: latest",
        "app_file: app.py": "app_file: ../app.py",
        "emoji: 🔌": "emoji: plug",
        "title: Mine": f"short_description: {'x' * 61}",
    }
    for right, value in wrong.items():
        with pytest.raises(ValueError, match="Invalid metadata in README.md"):
            put(space, README__md=CARD.replace(right, value))
    with pytest.raises(ValueError, match='"sdk" is required'):
        put(space, README__md=CARD.replace("sdk: gradio\n", ""))
