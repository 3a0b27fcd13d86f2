"""No token leaves this machine, whatever it looks like and wherever it lies."""

from __future__ import annotations

import random

import pytest

from hfplug.adapters.record import SECRET_TEXT
from hfplug.errors import UnsafeFileError
from hfplug.hub.leaks import refuse_tokens

SHAPES = [
    "hf_" + "a1" * 10, "hf_jwt_" + "a.b-c_d9" * 3, "hf_oauth_" + "a.b-c_d9" * 3, "api_org_" + "a1" * 10,
    *(f"gh{kind}_" + "a1" * 12 for kind in "pousr"), "sk-" + "a1_b" * 6,
]  # fmt: skip


@pytest.mark.parametrize("token", SHAPES)
def test_each_shape_of_a_token_is_found_anywhere_in_a_large_file(token, tmp_path):
    assert SECRET_TEXT.fullmatch(token)
    noise = random.Random(0).randbytes(2_500_000)
    file = tmp_path / "model.safetensors"
    for place in (0, 1_048_576 - 5, len(noise)):
        file.write_bytes(noise[:place] + b" " + token.encode() + b" " + noise[place:])
        with pytest.raises(UnsafeFileError, match="access token") as raised:
            refuse_tokens(file.name, file, [])
        assert token not in str(raised.value)


def test_a_token_in_use_is_found_whatever_its_shape(tmp_path):
    with pytest.raises(UnsafeFileError):
        refuse_tokens("README.md", b"see my-own-secret here", ["my-own-secret"])


def test_what_only_begins_like_a_token_passes(tmp_path):
    text = "hf_hub_download of hf_model, the task-scheduler, ghp_short and xhf_" + "a1" * 10
    refuse_tokens("README.md", text.encode(), [])
    assert SECRET_TEXT.search(text) is None
