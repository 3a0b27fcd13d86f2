"""Every call has an end, changes nothing for others in the process, and fails in words that say what to type."""

from __future__ import annotations

import datetime
import socket
import threading
import time
import traceback

import httpx2
import pytest
from huggingface_hub.utils import close_session, get_session

from hfplug.errors import (
    HubAccessError,
    HubConflictError,
    HubError,
    HubNotFoundError,
    HubQuotaError,
    HubRejectedError,
    HubUnavailableError,
)
from hfplug.hub.answers import hub_error, retry_after
from hfplug.hub.client import connect, translated


@pytest.fixture
def silent_server():
    """Takes every connection and never answers."""
    listening = socket.create_server(("127.0.0.1", 0))

    class Silent:
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        open: list[socket.socket] = []

    def take():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            Silent.open.append(connection)

    threading.Thread(target=take, daemon=True).start()
    yield Silent
    listening.close()
    for connection in Silent.open:
        connection.close()


def test_a_server_that_never_answers_is_given_up_in_time(silent_server):
    client = connect(silent_server.endpoint, "x" * 12, timeout=0.5)
    for function, arguments in (
        (client.api.model_info, ["a/b"]),
        (client.api.create_repo, ["a/b"]),
        (client.api.whoami, []),
        (client.api.list_repo_refs, ["a/b"]),
    ):
        began = time.monotonic()
        with pytest.raises(HubUnavailableError, match="did not answer in time") as caught, translated("ask", "a/b"):
            client.call(function, *arguments)
        assert time.monotonic() - began < 3 and caught.value.transient


def test_a_call_that_repeats_itself_is_given_up_as_a_whole(silent_server):
    client = connect(silent_server.endpoint, "x" * 12, timeout=0.3)
    began = time.monotonic()
    with pytest.raises(HubUnavailableError, match="did not answer within 2 seconds"):
        client.call(client.api.list_repo_commits, "a/b", seconds=2)
        client.call(lambda: list(client.api.list_models(author="a")), seconds=2)
    assert time.monotonic() - began < 5


def test_a_call_that_was_given_up_sends_nothing_any_more(hub):
    client = connect(hub.endpoint, hub.token, timeout=10)
    gone_on, finished, stopped = threading.Event(), threading.Event(), []

    def slow():
        gone_on.wait(5)
        try:
            client.api.create_repo("alice/late")
        except HubUnavailableError as error:
            stopped.append(str(error))
        finished.set()

    with pytest.raises(HubUnavailableError, match="within 0 seconds"):
        client.call(slow, seconds=0.2)
    gone_on.set()
    assert finished.wait(5)
    assert stopped == ["This call was given up, and sends nothing any more."]
    assert hub.faults.seen == []


def test_the_http_client_of_the_process_is_as_it_was(hub):
    close_session()  # a new one: calls that earlier tests gave up may still be waiting on the old one
    session = get_session()

    def state():
        return {kind: list(hooks) for kind, hooks in session.event_hooks.items()}, session.timeout

    before = state()
    client = connect(hub.endpoint, hub.token)
    during = []
    client.call(lambda: during.append(state()))
    with pytest.raises(HubNotFoundError), translated("read", "a/b", client=client):
        client.call(client.api.model_info, "a/b")
    assert get_session() is session and state() == before
    assert during[0] != before  # the hooks were there while the call was running


def test_other_calls_of_the_process_keep_their_own_timeouts(hub):
    client = connect(hub.endpoint, hub.token, timeout=0.2)
    inside, done = threading.Event(), threading.Event()
    ours = threading.Thread(target=lambda: client.call(lambda: (inside.set(), done.wait(5)), seconds=10))
    ours.start()
    inside.wait(5)
    hub.faults.next(1, "delay", "whoami", seconds=1)
    assert hub.api.whoami()["name"] == "alice"  # by the user, while a call of ours runs, and slower than our limit
    hub.faults.next(1, "500", "whoami")
    with pytest.raises(Exception, match="500"):
        hub.api.whoami()
    done.set()
    ours.join()


def test_listings_are_read_to_their_end_within_the_call(hub):
    client = connect(hub.endpoint, hub.token)
    for name in ("one", "two"):
        client.call(client.api.create_repo, f"alice/{name}")
    found = client.call(client.api.list_models, author="alice")
    assert isinstance(found, list) and sorted(model.id for model in found) == ["alice/one", "alice/two"]


def test_the_endpoint_is_that_of_the_environment_now(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1/")
    assert connect().endpoint == "http://127.0.0.1:1"
    assert connect("http://127.0.0.1:2").endpoint == "http://127.0.0.1:2"


@pytest.mark.parametrize("token", ["\N{HORIZONTAL ELLIPSIS}", "correct-horse\nbattery", "two words"])
def test_a_token_that_no_header_can_hold_is_refused_without_being_repeated(token):
    with pytest.raises(HubAccessError, match="cannot be one") as caught:
        connect("http://127.0.0.1:9", token)
    assert token not in str(caught.value) and caught.value.__cause__ is None


def test_so_is_one_of_the_environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "\N{HORIZONTAL ELLIPSIS}")
    with pytest.raises(HubAccessError, match="The token of HF_TOKEN cannot be one"):
        connect("http://127.0.0.1:9")


def test_a_token_read_from_a_file_may_end_in_a_line_end():
    assert connect("http://127.0.0.1:9", "correct-horse-battery\n").token == "correct-horse-battery"


def test_an_address_with_a_password_is_refused_without_repeating_it(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://alice:s3cret@127.0.0.1:9")
    with pytest.raises(HubAccessError, match="holds a name or a password") as caught:
        connect()
    assert "s3cret" not in str(caught.value)


def test_a_token_is_not_shown():
    assert "secret-token" not in repr(connect("http://127.0.0.1:1", "secret-token"))


def test_what_the_caller_did_wrong_passes_through(hub):
    client = connect(hub.endpoint, hub.token)
    for error in (KeyError("mine"), ValueError("mine"), FileNotFoundError(2, "mine"), TypeError("mine")):

        def fail(error=error):
            raise error

        with pytest.raises(type(error), match="mine"), translated("push to", "a/b", client=client):
            client.call(fail)


# ------------------------------------------------------------------------------------------------ messages


def _answer(status, *, url="http://hub/api/models/alice/x", headers=None, body=None):
    from huggingface_hub.utils import hf_raise_for_status

    response = httpx2.Response(status, headers=headers or {}, json=body or {}, request=httpx2.Request("POST", url))
    try:
        hf_raise_for_status(response)
    except Exception as error:
        return error
    raise AssertionError("no error")


@pytest.mark.parametrize(
    ("status", "headers", "kind", "words"),
    [
        (401, {}, HubAccessError, "does not accept the token.*hf auth login"),
        (403, {}, HubAccessError, "the token may not do that.*http://hub/settings/tokens"),
        (403, {"X-Error-Code": "GatedRepo"}, HubAccessError, "alice/x is gated.*Ask for access at http://hub/alice/x"),
        (404, {"X-Error-Code": "RepoNotFound"}, HubNotFoundError, "there is no alice/x, or it is private"),
        (404, {"X-Error-Code": "RevisionNotFound"}, HubNotFoundError, "no such branch, tag or commit"),
        (404, {"X-Error-Code": "EntryNotFound"}, HubNotFoundError, "no such file"),
        (404, {}, HubNotFoundError, "no such thing"),
        (402, {}, HubQuotaError, "plan of the account.*settings/billing"),
        (413, {}, HubQuotaError, "too large.*--dtype bfloat16"),
        (507, {}, HubQuotaError, "storage is full"),
        (409, {}, HubConflictError, "changed in between.*push again"),
        (412, {}, HubConflictError, "changed in between"),
        (400, {}, HubRejectedError, "refuses what was sent with 400"),
        (422, {}, HubRejectedError, "refuses what was sent with 422"),
        (408, {}, HubUnavailableError, "answers 408"),
        (429, {"Retry-After": "9"}, HubUnavailableError, "too many requests.*in 9 seconds"),
        (500, {}, HubUnavailableError, "answers 500"),
        (503, {"Retry-After": "9"}, HubUnavailableError, "answers 503"),
    ],
)
def test_each_answer_has_its_own_words(status, headers, kind, words):
    client = connect("http://hub", "secret-token-of-mine")
    with pytest.raises(kind, match=words) as caught, translated("push to", "alice/x", client=client):
        raise _answer(status, headers=headers)
    error = caught.value
    assert type(error) is kind and error.status == status
    assert error.transient is (kind is HubUnavailableError)
    assert error.retry_after == (9.0 if headers.get("Retry-After") else None)
    assert str(error).startswith("Cannot push to alice/x at http://hub: ")


def test_without_a_token_a_missing_repo_may_be_a_private_one(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    made = hub_error(
        _answer(401, headers={"X-Error-Code": "RepoNotFound"}), action="read a/b", repo_id="a/b", signed_in=False
    )
    assert isinstance(made, HubAccessError) and "private and there is no token" in str(made)


@pytest.mark.parametrize("token", ["hf_" + "q" * 34, "a-token-of-another-shape"])
def test_a_token_that_a_server_repeats_is_taken_out(token):
    client = connect("http://hub", token)
    for status in (400, 401, 403, 409, 500):
        with pytest.raises(HubError) as caught, translated("push to", "alice/x", client=client):
            raise _answer(status, body={"error": f"what is {token} doing here"})
        assert token not in "".join(traceback.format_exception(caught.value)), status
        assert "what is [removed] doing here" in str(caught.value)


def test_control_characters_of_a_server_are_not_repeated_nor_do_they_hide_a_token():
    token = "hf_" + "q" * 34
    client = connect("http://hub", token)
    said = f"\x1b]0;mine\x07 \x1b[2J\u202egone {token[:10]}\x00{token[10:]}"
    with pytest.raises(HubError) as caught, translated("push to", "alice/x", client=client):
        raise _answer(400, body={"error": said})
    assert str(caught.value).partition("\n")[0].isprintable() and token not in str(caught.value)
    assert "gone [removed]" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx2.ConnectError("refused"), HubUnavailableError),
        (httpx2.ReadTimeout("slow"), HubUnavailableError),
        (httpx2.RemoteProtocolError("cut"), HubUnavailableError),
        (ConnectionResetError("reset"), HubUnavailableError),
        (TimeoutError(), HubUnavailableError),
    ],
)
def test_the_network_is_no_fault_of_the_user_and_may_pass(error, kind):
    made = hub_error(error, action="push to a/b")
    assert type(made) is kind and made.transient and made.status is None


def test_an_upload_that_failed_is_what_failed_it():
    outer = RuntimeError("Error while uploading 'x' to the Hub.")
    outer.__cause__ = _answer(507)
    assert isinstance(hub_error(outer, action="push to a/b"), HubQuotaError)


def test_an_invalid_card_is_refused_with_what_the_hub_says(hub):
    client = connect(hub.endpoint, hub.token)
    client.call(client.api.create_repo, "alice/x")
    card = b"---\nlicense: [a, {b: 1}]\nbase_model: /home/me/x\n---\n"
    sent = {"path_or_fileobj": card, "path_in_repo": "README.md", "repo_id": "alice/x"}
    words = "the card is not valid .*Correct the README"
    with pytest.raises(HubRejectedError, match=words) as caught, translated("push to", "alice/x", client=client):
        client.call(client.api.upload_file, **sent)
    assert not caught.value.transient


def test_a_name_that_is_none_is_said(hub):
    client = connect(hub.endpoint, hub.token)
    with pytest.raises(HubRejectedError, match="no name for a repo.*OWNER/NAME"), translated("push to", "a b"):
        client.call(client.api.model_info, "a b")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"Retry-After": "Thu, 01 Jan 2026 00:01:00 GMT"}, 60.0),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "100000000000"}, 86400.0),
        ({"Retry-After": "9" * 400}, 86400.0),
        ({"Retry-After": "Thu, 01 Jan 2099 00:00:00 GMT"}, 86400.0),
        ({"Retry-After": "Thu, 01 Jan 99999999999 00:00:00 GMT"}, None),
        ({"RateLimit": '"api";r=0;t=999999999999'}, 86400.0),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"RateLimit": '"api";r=12;t=55'}, None),
        ({}, None),
    ],
)
def test_how_long_to_wait_is_read_in_each_of_its_forms(headers, seconds):
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    assert retry_after(headers, now=now) == seconds
