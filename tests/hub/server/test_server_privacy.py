"""Who may see and do what: private, gated, foreign and deleted repos, users and tokens."""

from __future__ import annotations

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from raw import request

CALLS = [
    "GET /api/models/alice/secret",
    "GET /api/models/ALICE/Secret",
    "GET /api/models/alice/secret/revision/main",
    "GET /api/models/alice/secret/tree/main",
    "GET /api/models/alice/secret/refs",
    "GET /api/models/alice/secret/commits/main",
    "GET /api/models/alice/secret/discussions",
    "GET /api/models/alice/secret/auth-check",
    "GET /api/models/alice/secret/auth-check/write",
    "GET /api/models/alice/secret/xet-read-token/main",
    "GET /api/models/alice/secret/xet-write-token/main",
    "GET /alice/secret/resolve/main/f.txt",
    "HEAD /alice/secret/resolve/main/f.txt",
    "POST /api/models/alice/secret/paths-info/main",
    "POST /api/models/alice/secret/preupload/main",
    "POST /api/models/alice/secret/commit/main",
    "POST /api/models/alice/secret/commit/main?create_pr=1",
    "POST /api/models/alice/secret/branch/x",
    "POST /api/models/alice/secret/tag/main",
    "POST /api/models/alice/secret/discussions",
    "POST /alice/secret.git/info/lfs/objects/batch",
    "POST /alice/secret.git/info/lfs/objects/verify",
    "PUT /api/models/alice/secret/settings",
    "DELETE /api/models/alice/secret/branch/main",
]


@pytest.fixture
def secret(hub):
    hub.api.create_repo("alice/secret", private=True)
    hub.api.create_commit("alice/secret", [CommitOperationAdd("f.txt", b"secret")], commit_message="c")
    return "alice/secret"


@pytest.mark.parametrize("call", CALLS)
def test_a_private_repo_is_401_without_a_token_and_404_for_another_user(hub, secret, call):
    method, path = call.split(" ")
    nobody = request(hub.endpoint, method, path, body={} if method != "GET" else None)
    bob = request(hub.endpoint, method, path, token=hub.other_token, body={} if method != "GET" else None)
    assert (nobody.status, bob.status) == (401, 404)
    assert nobody.headers["x-error-code"] == bob.headers["x-error-code"] == "RepoNotFound"


@pytest.mark.parametrize("call", CALLS)
def test_a_private_repo_looks_like_one_that_is_not_there(hub, secret, call):
    method, path = call.split(" ")
    for token in (None, hub.other_token):
        there = request(hub.endpoint, method, path, token=token, body={} if method != "GET" else None)
        absent = request(
            hub.endpoint, method, path.replace("secret", "absent").replace("Secret", "Absent"), token=token,
            body={} if method != "GET" else None,
        )  # fmt: skip
        assert (there.status, there.body) == (absent.status, absent.body)


def test_visibility_is_read_by_todays_and_by_yesterdays_key(hub):
    for number, body in enumerate([{"visibility": "private"}, {"private": True}, {"visibility": "protected"}]):
        made = request(hub.endpoint, "POST", "/api/repos/create", token=hub.token, body={"name": f"r{number}", **body})
        assert made.status == 200
        assert hub.api.model_info(f"alice/r{number}").private is True
    hub.api.create_repo("alice/open")
    assert hub.anonymous.model_info("alice/open").private is False


def test_a_private_repo_is_listed_to_its_owner_only(hub, secret):
    hub.api.create_repo("alice/open")
    assert {model.id for model in hub.api.list_models()} == {"alice/open", "alice/secret"}
    assert {model.id for model in hub.other_api.list_models(author="alice")} == {"alice/open"}
    assert {model.id for model in hub.anonymous.list_models(search="secret")} == set()


def test_a_repo_can_be_made_public_and_private_again(hub, secret):
    hub.api.update_repo_settings(secret, private=False)
    assert hub.anonymous.model_info(secret).id == secret
    hub.api.update_repo_settings(secret, visibility="private")
    with pytest.raises(RepositoryNotFoundError):
        hub.anonymous.model_info(secret)


def test_a_gated_repo_is_known_to_all_and_read_by_those_let_in(hub, secret):
    hub.api.update_repo_settings(secret, private=False, gated="manual")
    assert hub.anonymous.model_info(secret).gated == "manual"
    for api in (hub.anonymous, hub.other_api):
        with pytest.raises(GatedRepoError):
            api.hf_hub_download(secret, "f.txt", cache_dir=hub.cache / "nobody")
        with pytest.raises(GatedRepoError):
            api.auth_check(secret)
    hub.api.grant_access(secret, "bob")
    hub.other_api.auth_check(secret)
    assert hub.other_api.hf_hub_download(secret, "f.txt", cache_dir=hub.cache)


def test_a_write_needs_a_token_and_the_owners(hub):
    hub.api.create_repo("alice/open")
    operations = [CommitOperationAdd("f.txt", b"x")]
    for api, status in ((hub.anonymous, 401), (hub.other_api, 403)):
        for attempt in (
            lambda api=api: api.create_commit("alice/open", operations, commit_message="c"),
            lambda api=api: api.delete_repo("alice/open"),
            lambda api=api: api.update_repo_settings("alice/open", private=True),
            lambda api=api: api.move_repo("alice/open", "bob/mine"),
            lambda api=api: api.create_repo("alice/new"),
            lambda api=api: api.auth_check("alice/open", write=True),
        ):
            with pytest.raises(HfHubHTTPError) as refused:
                attempt()
            assert refused.value.response.status_code == status
    assert hub.anonymous.model_info("alice/open").private is False


def test_a_token_that_nobody_has_is_401_even_for_what_is_public(hub):
    hub.api.create_repo("alice/open")
    stranger = HfApi(endpoint=hub.endpoint, token="hf_" + "x" * 37)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        stranger.whoami()
    with pytest.raises(HfHubHTTPError) as refused:
        stranger.model_info("alice/open")
    assert refused.value.response.status_code == 401
    for scheme in ("Basic", "Token", ""):
        answer = request(hub.endpoint, "GET", "/api/whoami-v2", headers={"Authorization": f"{scheme} {hub.token}"})
        assert answer.status == 401


def test_whoami_names_the_user_and_says_that_the_token_writes(hub):
    me = hub.api.whoami()
    assert (me["name"], me["type"], me["orgs"]) == ("alice", "user", [])
    assert me["auth"]["accessToken"]["role"] == "write"
    assert hub.other_api.whoami()["name"] == "bob"


def test_no_token_lies_in_the_folder(hub, secret):
    for file in [path for path in hub.root.rglob("*") if path.is_file()]:
        data = file.read_bytes()
        assert hub.token.encode() not in data and hub.other_token.encode() not in data, file
