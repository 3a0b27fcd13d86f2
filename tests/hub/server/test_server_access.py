"""Tokens and tickets: what is stored, and what is believed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time

import pytest
from raw import request

from hfplug.errors import HubError, HubNotFoundError
from hfplug.hub.server.access import Access, make_token, read_tokens, revoke_tokens, signing_key, store_token
from hfplug.hub.server.routing import Refusal
from hfplug.hub.server.tickets import Tickets

ORIGINS = {"made": {"user", "sha256"}, "chosen": {"user", "salt", "hash"}}


def who(access, authorization):
    return asyncio.run(access.who(authorization))


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_stored_token_is_believed_and_cannot_be_read_from_the_disk(tmp_path, origin):
    token = make_token()
    store_token(tmp_path, token, "alice", origin=origin)
    store_token(tmp_path, token, "alice", origin=origin)
    access = Access(tmp_path)
    assert who(access, f"Bearer {token}") == who(access, f"bearer {token}") == "alice"
    assert len(read_tokens(tmp_path)) == 1
    assert token not in (tmp_path / "tokens.json").read_text()
    assert set(json.loads((tmp_path / "tokens.json").read_text())[0]) == ORIGINS[origin]
    assert (tmp_path / "tokens.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("origin", ORIGINS)
def test_another_token_is_refused_and_none_is_nobody(tmp_path, origin):
    token = make_token()
    store_token(tmp_path, token, "alice", origin=origin)
    access = Access(tmp_path)
    assert who(access, None) is None
    wrong = make_token()
    for authorization in (
        f"Bearer {wrong}", f"Bearer {wrong}", "Bearer ", f"Basic {token}", token, "", f"Bearer {token}x",
        f"Bearer {'x' * 100_000}",
    ):  # fmt: skip
        with pytest.raises(Refusal) as refused:
            who(access, authorization)
        assert refused.value.status == 401
    assert who(access, f"Bearer {token}") == "alice"


def test_callers_with_wrong_tokens_do_not_hold_up_the_others(hub):
    store_token(hub.root, "chosen by a user", "carol")  # so that each wrong token costs a scrypt
    done = threading.Event()

    def knock():
        while not done.is_set():
            with contextlib.suppress(OSError):  # a queue that is cut off at the end
                request(hub.endpoint, "GET", "/api/models", token=make_token())

    threads = [threading.Thread(target=knock, daemon=True) for _ in range(50)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)
        for token in (hub.token, None):
            began = time.monotonic()
            assert request(hub.endpoint, "GET", "/api/models", token=token).status == 200
            assert time.monotonic() - began < 3.0  # it took ten times as long when they stood in the pool
    finally:
        done.set()
        hub.stop()


def test_a_token_is_let_in_and_shut_out_while_the_hub_runs(hub):
    token, other = make_token(), "carols-own-secret"
    for added, origin in ((token, "made"), (other, "chosen")):
        assert request(hub.endpoint, "GET", "/api/whoami-v2", token=added).status == 401
        store_token(hub.root, added, "carol", origin=origin)
        assert request(hub.endpoint, "GET", "/api/whoami-v2", token=added).json()["name"] == "carol"
    store_token(hub.root, make_token(), "dave", origin="made")
    assert revoke_tokens(hub.root, "Carol") == 2
    assert [request(hub.endpoint, "GET", "/api/whoami-v2", token=old).status for old in (token, other)] == [401, 401]
    assert request(hub.endpoint, "GET", "/api/whoami-v2", token=hub.token).status == 200
    with pytest.raises(HubNotFoundError, match="carol.*no token.*dave"):
        revoke_tokens(hub.root, "carol")


def test_two_processes_that_add_tokens_at_once_both_do(tmp_path):
    script = (
        "import sys; from pathlib import Path; from hfplug.hub.server.access import *\n"
        "for n in range(8): store_token(Path(sys.argv[1]), make_token(), f'{sys.argv[2]}{n}', origin='made')"
    )
    store_token(tmp_path, make_token(), "first", origin="made")
    both = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), user]) for user in ("alice", "bob")]
    assert [process.wait(60) for process in both] == [0, 0]
    assert len(read_tokens(tmp_path)) == 17


DAMAGED = ["{", "{}", "[1]", '[{"user": "alice"}]', '[{"user": "a", "salt": "x", "hash": "y"}]']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_list_of_tokens_is_named_and_kept(tmp_path, content):
    store_token(tmp_path, make_token(), "alice")
    (tmp_path / "tokens.json").write_text(content)
    for use in (lambda: Access(tmp_path), lambda: store_token(tmp_path, make_token(), "bob")):
        with pytest.raises(HubError, match="tokens.json is damaged"):
            use()
        assert (tmp_path / "tokens.json").read_text() == content


def test_two_tokens_are_never_the_same_and_look_like_tokens():
    made = {make_token() for _ in range(50)}
    assert len(made) == 50
    assert all(token.startswith("hf_") and len(token) == 40 for token in made)


def test_a_name_that_cannot_be_a_user_gets_no_token(tmp_path):
    with pytest.raises(Refusal):
        store_token(tmp_path, make_token(), "../alice")
    assert read_tokens(tmp_path) == []


def test_a_ticket_says_what_was_put_in_until_it_expires(monkeypatch):
    tickets = Tickets(b"k" * 32)
    ticket = tickets.issue({"use": "lfs", "size": 3}, seconds=60)
    assert tickets.read(ticket, use="lfs")["size"] == 3
    assert tickets.read(ticket, use="xet") is None
    assert tickets.read(ticket, use="lfs", size=4) is None
    assert tickets.read(tickets.issue({"use": "lfs"}, seconds=-1)) is None


def test_a_ticket_of_another_hub_or_with_changed_letters_is_worth_nothing():
    tickets = Tickets(b"k" * 32)
    ticket = tickets.issue({"use": "lfs"})
    assert Tickets(b"l" * 32).read(ticket) is None
    for place in range(len(ticket)):
        changed = ticket[:place] + ("A" if ticket[place] != "A" else "B") + ticket[place + 1 :]
        read = tickets.read(changed)
        # The last letter of a part may hold spare bits: such a change decodes to the same bytes.
        assert read is None or read == tickets.read(ticket)
    for nonsense in ("", ".", "a", "a.b.c", "é.é", "=.=", "x" * 10_000):
        assert tickets.read(nonsense) is None


def test_the_signing_key_is_kept_and_readable_by_its_owner_only(tmp_path):
    key = signing_key(tmp_path)
    assert (len(key), signing_key(tmp_path)) == (32, key)
    assert (tmp_path / "signing.key").stat().st_mode & 0o077 == 0
