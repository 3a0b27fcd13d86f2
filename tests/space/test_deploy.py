"""A Space is deployed in one commit, the second time in none, and what others put there stays."""

from __future__ import annotations

import json
import re
from importlib.metadata import version

import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import RepositoryNotFoundError
from space_parts import ALICES_TOKEN, export_adapter

from hfplug.errors import HfplugError, HubConflictError, HubError, SpaceError, UnsafeFileError
from hfplug.hub.server.cards import problems, read_card
from hfplug.hub.server.space_cards import space_problems
from hfplug.space.config import SpaceConfig, VariantSource, read_config
from hfplug.space.deploy import deploy, preview_deploy
from hfplug.space.space_card import front_matter_of
from hfplug.space.space_files import space_files

SPACE = "alice/compare"
LORA = "alice/summary-lora"
KIND = {"repo_type": "space"}


@pytest.fixture
def hub(space_hub, adapters, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", ALICES_TOKEN)
    space_hub.push(adapters["lora"], LORA)
    return space_hub


def settings(hub, tmp_path, **more):
    variants = (VariantSource(name="lora", source=LORA),)
    return SpaceConfig(**{"endpoint": hub.endpoint, "folder": tmp_path, "variants": variants, **more})


@pytest.fixture
def files(hub, tmp_path):
    # Without the package's sources: they are looked at once, below.
    return space_files(settings(hub, tmp_path), hfplug_requirement="hfplug==0.1.0")


def send(hub, files, **options):
    return deploy(files, SPACE, endpoint=hub.endpoint, **options)


def commits(hub):
    return [item.commit_id for item in hub.api.list_repo_commits(SPACE, **KIND)]


def content(hub, name, revision="main"):
    path = hub.api.hf_hub_download(SPACE, name, revision=revision, **KIND)
    return open(path, encoding="utf-8").read()


def change(hub, **changed):
    adds = [CommitOperationAdd(name.replace("__", "."), text.encode()) for name, text in changed.items()]
    return hub.api.create_commit(SPACE, adds, commit_message="by hand", **KIND).oid


def test_it_is_made_in_one_commit_and_the_second_time_changes_nothing(hub, files):
    done = send(hub, files)
    assert done.changed and done.url == f"{hub.endpoint}/spaces/{SPACE}"
    assert len(commits(hub)) == 2 and commits(hub)[0] == done.commit  # the other one made the repo
    again = send(hub, files)
    assert not again.changed and again.commit == done.commit and len(commits(hub)) == 2
    assert hub.api.space_info(SPACE).sdk == "gradio"


def test_the_front_matter_is_valid_and_pins_what_was_tested(hub, files):
    send(hub, files)
    card = content(hub, "README.md")
    assert problems(card) == ([], []) and space_problems(read_card(card)) == []
    front = front_matter_of(card)
    assert (front["sdk"], front["sdk_version"], front["app_file"]) == ("gradio", version("gradio"), "app.py")
    assert front["models"] == [LORA]
    requirements = content(hub, "requirements.txt")
    lines = [line for line in requirements.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in lines) and "hfplug==0.1.0" in lines


def test_variants_are_settings_at_the_commit_that_was_looked_at(hub, files, tmp_path):
    send(hub, files)
    values = json.loads(content(hub, "space.json"))
    head = hub.api.model_info(LORA).sha
    assert values["variants"] == [{"name": "lora", "source": LORA, "revision": head}]
    assert "endpoint" not in values
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "space.json").write_text(content(hub, "space.json"))
    assert read_config(tmp_path / "there", environment={}).variants[0].revision == head


def test_a_new_commit_of_a_variant_is_one_more_commit_of_the_space(hub, files, tmp_path):
    send(hub, files)
    newer = hub.push(export_adapter(tmp_path / "newer", seed=5), LORA)
    done = send(hub, space_files(settings(hub, tmp_path), hfplug_requirement="hfplug==0.1.0"))
    assert done.changed and len(commits(hub)) == 3
    assert json.loads(content(hub, "space.json"))["variants"][0]["revision"] == newer


def test_the_package_goes_along_without_the_bases_weights_unless_it_is_the_base(hub, tmp_path):
    whole = space_files(settings(hub, tmp_path)).files
    assert "hfplug/demo/base/model.safetensors" in whole and "hfplug/LICENSE" in whole
    hub.push(export_adapter(tmp_path / "some", base_name="bob/some-t5", base_commit="a" * 40), "alice/some")
    theirs = settings(hub, tmp_path, base="bob/some-t5", variants=(VariantSource(name="a", source="alice/some"),))
    light = space_files(theirs).files
    assert {"hfplug/__init__.py", "hfplug/adapters/card_template.md", "hfplug/py.typed"} <= set(light)
    assert not [name for name in light if name.endswith(".safetensors")]
    assert sum(map(len, light.values())) < 4_000_000
    assert not [name for name in whole if "__pycache__" in name or name.startswith(("hfplug/space/compare", "tests"))]


def test_files_of_others_stay_and_old_ones_of_ours_go(hub, files, tmp_path):
    report = tmp_path / "report.json"
    report.write_text("{}")
    send(hub, space_files(settings(hub, tmp_path, report=str(report)), hfplug_requirement="hfplug==0.1.0"))
    change(hub, notes__txt="mine")
    assert content(hub, "report.json") == "{}"
    done = send(hub, files)
    names = hub.api.list_repo_files(SPACE, **KIND)
    assert done.changed and "notes.txt" in names and "report.json" not in names


def test_a_readme_that_people_edited_keeps_their_text_and_keys_but_not_their_versions(hub, files, tmp_path):
    send(hub, files)
    card = content(hub, "README.md")
    edited = card.replace("title: One base, every adapter", "title: Our page\nlicense_name: ours")
    edited = re.sub(r"sdk_version: .*", "sdk_version: 4.0.0", edited) + "\nOur own words.\n"
    change(hub, README__md=edited)
    newer = settings(hub, tmp_path, title="Another title")
    done = send(hub, space_files(newer, hfplug_requirement="hfplug==0.1.0"))
    merged = content(hub, "README.md")
    front = front_matter_of(merged)
    assert (front["title"], front["license_name"]) == ("Our page", "ours") and "Our own words." in merged
    assert front["sdk_version"] != "4.0.0" and any("4.0.0" in note for note in done.notes)


def test_the_readme_that_the_hub_itself_writes_is_nobodys_text(hub, files):
    hub.api.create_repo(SPACE, space_sdk="gradio", **KIND)
    reference = "Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference"
    front = (
        "title: Compare\nemoji: 🐠\ncolorFrom: red\ncolorTo: pink\nsdk: gradio\nsdk_version: 9.9.9\napp_file: app.py"
    )
    change(hub, README__md=f"---\n{front}\npinned: false\n---\n\n{reference}\n")
    send(hub, files)
    card = content(hub, "README.md")
    assert reference not in card and front_matter_of(card)["emoji"] == "🐠"
    assert front_matter_of(card)["sdk_version"] != "9.9.9"


def test_a_file_of_ours_that_somebody_changed_is_replaced_only_if_asked_for(hub, files, tmp_path):
    send(hub, files)
    change(hub, app__py="print('theirs')\n")
    before = commits(hub)
    newer = space_files(settings(hub, tmp_path, title="Newer"), hfplug_requirement="hfplug==0.1.0")
    with pytest.raises(SpaceError, match=r"Somebody changed app\.py"):
        send(hub, newer, variables={"A": "1"})
    assert commits(hub) == before and hub.api.get_space_variables(SPACE) == {}
    done = send(hub, newer, edited="keep")
    assert done.changed and content(hub, "app.py") == "print('theirs')\n"
    assert json.loads(content(hub, "space.json"))["title"] == "Newer"
    assert not send(hub, newer, edited="keep").changed
    with pytest.raises(SpaceError):
        send(hub, newer)
    assert send(hub, newer, edited="replace").changed and "create_app" in content(hub, "app.py")
    assert not send(hub, newer).changed


def test_a_space_that_is_not_ours_is_left_alone(hub, files):
    hub.api.create_repo(SPACE, space_sdk="gradio", **KIND)
    change(hub, app__py="print('theirs')\n")
    with pytest.raises(SpaceError, match="which hfplug did not make"):
        send(hub, files)
    assert len(commits(hub)) == 2


def test_hardware_variables_and_secrets_are_set_and_a_secret_is_in_no_file(hub, files):
    options = {"hardware": "t4-small", "secrets": {"KEY": "the-value-of-it"}, "variables": {"MODE": "demo"}}
    done = send(hub, files, **options)
    assert set(done.settings) == {"hardware t4-small", "secret KEY", "variable MODE"}
    assert list(hub.api.get_space_secrets(SPACE)) == ["KEY"]
    assert hub.api.get_space_variables(SPACE)["MODE"].value == "demo"
    assert hub.api.get_space_runtime(SPACE).requested_hardware == "t4-small"
    assert all(b"the-value-of-it" not in file.read_bytes() for file in hub.root.rglob("*") if file.is_file())
    assert send(hub, files, **options).settings == ("secret KEY",)  # it cannot be compared
    with pytest.raises(SpaceError, match="no name of an environment variable"):
        send(hub, files, variables={"A-B": "1"})


def test_a_token_in_a_file_or_a_variable_ends_it_before_anything_is_sent(hub, tmp_path):
    examples = tmp_path / "examples.jsonl"
    examples.write_text(json.dumps({"dialogue": f"A: my token is {ALICES_TOKEN}"}) + "\n")
    leaking = space_files(settings(hub, tmp_path, examples=str(examples)), hfplug_requirement="hfplug==0.1.0")
    for files, variables in ((leaking, {}), (None, {"A": ALICES_TOKEN})):
        files = files or space_files(settings(hub, tmp_path), hfplug_requirement="hfplug==0.1.0")
        with pytest.raises(UnsafeFileError) as caught:
            send(hub, files, variables=variables)
        assert ALICES_TOKEN not in str(caught.value)
    with pytest.raises(RepositoryNotFoundError):
        hub.api.space_info(SPACE)


def test_what_a_space_cannot_see_is_refused_with_what_to_type(hub, adapters, tmp_path):
    mine = settings(hub, tmp_path, variants=(VariantSource(name="mine", source=str(adapters["lora"])),))
    with pytest.raises(SpaceError, match=f"hfplug push {adapters['lora']} OWNER/mine"):
        space_files(mine)
    with pytest.raises(SpaceError, match="The base .* is a folder"):
        space_files(settings(hub, tmp_path, base=str(tmp_path)))
    for source in ("alice/absent", "bob/summary-lora"):
        with pytest.raises(HfplugError):
            space_files(settings(hub, tmp_path, variants=(VariantSource(name="a", source=source),)))
    with pytest.raises(SpaceError, match="no requirement"):
        space_files(settings(hub, tmp_path), hfplug_requirement="hfplug==1\nevil")


def test_an_adapter_of_another_base_is_refused_before_the_space_is_made(hub, tmp_path):
    hub.push(export_adapter(tmp_path / "some", base_name="bob/some-t5", base_commit="a" * 40), "alice/some")
    other = settings(hub, tmp_path, base="bob/other", variants=(VariantSource(name="a", source="alice/some"),))
    with pytest.raises(SpaceError, match="is for the base bob/some-t5; this Space runs bob/other"):
        space_files(other)


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub, files):
    hub.api.create_repo(SPACE, space_sdk="gradio", **KIND)
    hub.gate.lose.append("/commit/")
    done = send(hub, files)
    assert done.changed and len(commits(hub)) == 2 and commits(hub)[0] == done.commit


def test_a_hub_that_refuses_or_is_away_is_an_error_in_words(hub, files):
    hub.gate.refuse["/api/spaces"] = 503
    with pytest.raises(HubError):
        send(hub, files)
    change_of_it = preview_deploy(files, SPACE, endpoint=hub.endpoint)
    assert change_of_it.repo == "unknown" and "not known" in change_of_it.notes[-1]
    hub.gate.refuse.clear()
    with pytest.raises(HubError):
        deploy(files, "bob/compare", endpoint=hub.endpoint)
    with pytest.raises(SpaceError, match="no id of a Space"):
        deploy(files, "../x", endpoint=hub.endpoint)


def test_a_preview_shows_what_would_change_and_changes_nothing(hub, files):
    new = preview_deploy(files, SPACE, endpoint=hub.endpoint)
    assert new.repo == "new" and set(new.add) > {"app.py", "README.md", "space.json", "requirements.txt"}
    with pytest.raises(RepositoryNotFoundError):
        hub.api.space_info(SPACE)
    send(hub, files)
    there = preview_deploy(files, SPACE, endpoint=hub.endpoint)
    assert there.repo == "there" and there.empty


def test_a_private_one_is_private_and_a_public_one_is_not_said_to_be(hub, files):
    send(hub, files, private="on")
    assert hub.api.space_info(SPACE).private
    deploy(files, "alice/other", endpoint=hub.endpoint)
    with pytest.raises(HubConflictError, match="everybody can read it"):
        deploy(files, "alice/other", endpoint=hub.endpoint, private="on")


def test_what_the_space_will_lack_is_said(hub, adapters, tmp_path):
    hub.push(adapters["prompt_tuning"], "alice/hidden", private="on")
    wanted = settings(hub, tmp_path, votes="alice/votes", variants=(VariantSource(name="p", source="alice/hidden"),))
    notes = send(hub, space_files(wanted, hfplug_requirement="hfplug==0.1.0")).notes
    assert any("alice/hidden is private" in note for note in notes)
    assert any("--secret HFPLUG_SPACE_VOTES_TOKEN" in note for note in notes)
    to_file = settings(hub, tmp_path, votes="votes.jsonl")
    assert any("loses when it restarts" in note for note in space_files(to_file, hfplug_requirement="hfplug==1").notes)
