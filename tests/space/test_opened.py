"""A Space that has been opened, without its page."""

from __future__ import annotations

import time

import pytest
import torch

from hfplug.errors import ServingError, SpaceError
from hfplug.space.asking import asking_for
from hfplug.space.config import from_mapping
from hfplug.space.opened import open_space
from hfplug.space.page import header_html

DIALOGUE = "Anna: Can we meet on Tuesday?\nTom: Yes, at half past ten."


def opened(folder, **values):
    return open_space(from_mapping(values, folder=folder))


def answered(space, *names, **more):
    asking = asking_for(space, names=names, dialogue=DIALOGUE, decoding={"max_new_tokens": 6}, **more)
    running = space.ask(asking)
    until = time.monotonic() + 60
    while not running.finished and time.monotonic() < until:
        time.sleep(0.02)
    return {column.name: column for column in running.columns()}


def test_a_variant_that_cannot_be_loaded_is_left_out_and_the_page_says_why(tmp_path, adapters):
    variants = [{"name": "lora", "source": str(adapters["lora"])}, {"name": "gone", "source": "./nowhere"}]
    space = opened(tmp_path, variants=variants, report="./no-study")
    try:
        assert [info.name for info in space.variants()] == ["base", "lora"]
        (missing,) = space.not_loaded
        assert missing.name == "gone" and str(tmp_path) not in missing.reason
        assert "The column gone is not here" in header_html(space)
        assert space.report is None and "no report" in space.report_problem
        column = answered(space, "lora", "base")["lora"]
        assert column.state in ("done", "length"), column
    finally:
        space.close()


def test_a_base_that_is_not_proved_is_not_shown(tmp_path, adapters):
    space = opened(tmp_path, variants=[{"name": "lora", "source": str(adapters["lora"])}])
    try:
        assert "Proved untouched" in header_html(space)
        with torch.no_grad():
            space.service.word_vectors[5, 0] += 1.0  # a view of the base's own memory
        space.service.reprove()
        columns = answered(space, "base", "lora")
        assert columns["base"].state == "failed" and columns["base"].text == "" and columns["base"].problem
        assert columns["lora"].finished and columns["lora"].state != "failed"
        assert "NOT proved untouched" in header_html(space)
        with pytest.raises(ServingError, match="two columns or more that are what they say"):
            asking_for(space, names=["base", "lora"], dialogue=DIALOGUE, blind="on")
    finally:
        space.close()


def test_the_adapter_that_was_added_longest_ago_gives_way(tmp_path, space_hub, adapters):
    for name in ("one", "two"):
        space_hub.push(adapters["lora"], f"alice/{name}")
    space = opened(tmp_path, endpoint=space_hub.endpoint, limits={"added_variants": 1})
    try:
        info, _ = space.add("alice/one")
        assert info.name not in [one.name for one in space.variants()]
        assert info.name in [one.name for one in space.variants(added=[info.name])]
        assert space.source_of(info.name).startswith("alice/one@")
        space.add("alice/two")
        with pytest.raises(ServingError, match="alice/one"):
            answered(space, "alice/one")
        assert answered(space, "alice/two")["alice/two"].finished
    finally:
        space.close()


def test_what_the_settings_do_not_allow_is_refused(tmp_path):
    space = opened(tmp_path, add_adapters="off")
    try:
        with pytest.raises(SpaceError, match="takes no others"):
            space.add("alice/one")
        with pytest.raises(ServingError, match="There is no task 'nothing'"):
            answered(space, "base", task="nothing")
        with pytest.raises(ServingError, match="There is no setting 'heat'"):
            asking_for(space, names=["base"], dialogue=DIALOGUE, decoding={"heat": 1})
        with pytest.raises(ServingError, match="Temperature must be a number from 0 to 5, not nan"):
            asking_for(space, names=["base"], dialogue=DIALOGUE, decoding={"temperature": float("nan")})
    finally:
        space.close()
