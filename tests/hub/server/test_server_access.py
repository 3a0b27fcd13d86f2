"""Tokens and tickets: what is stored, and what is believed."""

from __future__ import annotations

import json

import pytest

from hfplug.hub.server.access import Access, make_token, read_tokens, signing_key, store_token
from hfplug.hub.server.routing import Refusal
from hfplug.hub.server.tickets import Tickets


def test_a_stored_token_is_believed_and_cannot_be_read_from_the_disk(tmp_path):
    token = make_token()
    store_token(tmp_path, token, "alice")
    store_token(tmp_path, token, "alice")
    access = Access(tmp_path)
    assert access.who(f"Bearer {token}") == access.who(f"bearer {token}") == "alice"
    assert len(read_tokens(tmp_path)) == 1
    assert token not in (tmp_path / "tokens.json").read_text()
    assert set(json.loads((tmp_path / "tokens.json").read_text())[0]) == {"user", "salt", "hash"}


def test_another_token_is_refused_and_none_is_nobody(tmp_path):
    token = make_token()
    store_token(tmp_path, token, "alice")
    access = Access(tmp_path)
    assert access.who(None) is None
    for wrong in (f"Bearer {make_token()}", "Bearer ", f"Basic {token}", token, "", f"Bearer {token}x"):
        with pytest.raises(Refusal) as refused:
            access.who(wrong)
        assert refused.value.status == 401


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
