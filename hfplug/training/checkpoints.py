"""Checkpoints that a killed run left behind."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path

from hfplug.adapters.safetensors_header import read_header
from hfplug.errors import AdapterError

logger = logging.getLogger(__name__)

PREFIX = "checkpoint-"


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest checkpoint that was written to its end.

    Trainer writes a checkpoint file by file, so that a run that is killed at that moment leaves a half one,
    and ``resume_from_checkpoint=True`` would stumble over it. A half one is passed over, with a word, and left
    where it is.

    Args:
        output_dir: The ``output_dir`` of a Trainer.

    Returns:
        The folder, or None if there is none that is whole.
    """
    folder = Path(output_dir)
    if not folder.is_dir():
        return None
    numbered = [
        (int(child.name.removeprefix(PREFIX)), child)
        for child in folder.glob(f"{PREFIX}*")
        if child.is_dir() and child.name.removeprefix(PREFIX).isdigit()
    ]
    for _, checkpoint in sorted(numbered, reverse=True):
        problem = what_is_missing(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("%s was not written to its end (%s); it is passed over.", checkpoint, problem)
    return None


def what_is_missing(checkpoint: Path) -> str | None:
    """Why a checkpoint is not whole, or None.

    Args:
        checkpoint: A ``checkpoint-N`` folder of a Trainer on one machine.
    """
    state = checkpoint / "trainer_state.json"
    try:
        json.loads(state.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "no readable trainer_state.json"
    weights = sorted(checkpoint.rglob("*.safetensors"))
    if not weights:
        return "no weights"
    for file in weights:
        try:
            read_header(file)
        except AdapterError as error:
            return error.message
    for name in ("optimizer.pt", "scheduler.pt"):
        # torch writes a zip file, whose directory comes last: without it, the file is cut short.
        if (checkpoint / name).exists() and not zipfile.is_zipfile(checkpoint / name):
            return f"{name} is cut short"
    return None
