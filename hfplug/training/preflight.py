"""Checks before the first step."""

from __future__ import annotations

from typing import Any


class Preflight:
    def __init__(self, *, mode: str, as_json: bool = False) -> None:
        self.mode = mode

    def __call__(self, trainer: Any) -> None:
        return None
