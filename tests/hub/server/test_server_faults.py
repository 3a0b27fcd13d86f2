"""The faults that other tests rely on do what they say."""

from __future__ import annotations

import http.client
import time

import pytest
from huggingface_hub.errors import HfHubHTTPError
from raw import request


def test_500_and_429_are_answered_for_the_next_requests_only(hub):
    hub.faults.next(1, "500", "whoami")
    hub.faults.next(1, "429", "GET /api/whoami", retry_after=7)
    with pytest.raises(HfHubHTTPError) as first:
        hub.api.whoami()
    with pytest.raises(HfHubHTTPError) as second:
        hub.api.whoami()
    assert (first.value.response.status_code, second.value.response.status_code) == (500, 429)
    assert second.value.response.headers["Retry-After"] == "7"
    assert hub.api.whoami()["name"] == "alice"


def test_a_reset_reaches_the_client_as_one_and_the_hub_never_hears_of_it(hub):
    hub.faults.next(1, "reset", "repos/create")
    with pytest.raises(ConnectionResetError):
        request(hub.endpoint, "POST", "/api/repos/create", token=hub.token, body={"name": "x"})
    assert not hub.api.repo_exists("alice/x")


def test_a_lost_answer_leaves_the_deed_done(hub):
    hub.faults.next(1, "lost", "repos/create")
    with pytest.raises(http.client.RemoteDisconnected):
        request(hub.endpoint, "POST", "/api/repos/create", token=hub.token, body={"name": "x"})
    assert hub.api.repo_exists("alice/x")


def test_a_truncated_answer_ends_in_the_middle(hub):
    hub.faults.next(1, "truncated")
    with pytest.raises(http.client.IncompleteRead):
        request(hub.endpoint, "GET", "/api/whoami-v2", token=hub.token)


def test_a_delay_delays(hub):
    hub.faults.next(1, "delay", seconds=0.3)
    began = time.monotonic()
    assert hub.api.whoami()["name"] == "alice"
    assert time.monotonic() - began >= 0.3
    assert hub.faults.seen == ["GET /api/whoami-v2"]
