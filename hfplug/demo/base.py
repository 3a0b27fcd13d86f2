"""Where the built-in base lies: a very small T5 in the package, written by ``hfplug.demo.pretrain``."""

from __future__ import annotations

from pathlib import Path


def base_path() -> Path:
    """The folder of the built-in base: config, safetensors weights and its own tokenizer."""
    return Path(__file__).parent / "base"
