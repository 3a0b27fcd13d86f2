"""Tiny bases, once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import residents
from service_parts import write_adapter, write_base


class Shop(NamedTuple):
    """A base and adapters on it, by name."""

    base: Path
    adapters: dict[str, Path]


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``base_folder("llama" | "gpt2" | "t5" | "bart")``: a base with a tokenizer; adapters are made beside it."""
    root = tmp_path_factory.mktemp("serving")

    def folder(kind: str) -> Path:
        place = root / kind
        return place if place.exists() else residents.save_base(kind, place)

    return folder


@pytest.fixture(scope="session")
def make_shop(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Shop]:
    """``make_shop("t5" | "llama" | "gpt2")``: two LoRAs, a soft prompt and a fully tuned model, made once."""
    made: dict[str, Shop] = {}

    def make(kind: str) -> Shop:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            base = write_base(kind, folder / "base")
            adapters = {
                "lora": write_adapter(base, "lora", folder / "lora", r=4),
                "lora-2": write_adapter(base, "lora", folder / "lora-2", seed=2, r=2),
                "prompt": write_adapter(
                    base, "prompt_tuning", folder / "prompt", num_virtual_tokens=5, prompt_init="random"
                ),
                "full": write_adapter(base, "full", folder / "full"),
            }
            made[kind] = Shop(base, adapters)
        return made[kind]

    return make
