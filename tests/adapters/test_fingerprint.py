"""What of a configuration counts as the base."""

from __future__ import annotations

import json

from transformers import BartConfig

from hfplug.adapters.fingerprint import config_sha256, is_config_of, sha256_of


def test_the_language_that_a_script_forces_is_not_part_of_the_base():
    base, script = BartConfig(d_model=32), BartConfig(d_model=32)
    script.forced_bos_token_id = 5
    assert config_sha256(script) == config_sha256(base) != config_sha256(BartConfig(d_model=64))
    # Sums once held it.
    before = sha256_of(json.dumps({"d_model": 32, "forced_bos_token_id": 5, "model_type": "bart"}))
    assert is_config_of(script, before) and not is_config_of(base, before)
