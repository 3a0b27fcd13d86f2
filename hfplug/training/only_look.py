"""Running a script in order to look at it: it makes no training step and leaves no empty folder behind.

This file imports no torch by itself, as the script may have to set its environment first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from hfplug.errors import TrainingError

logger = logging.getLogger(__name__)


def patches_against_steps() -> dict[str, Callable[[types.ModuleType], None]]:
    """A patch that stops a script at the first step of any optimiser: a loop of its own is no Trainer's."""
    return {"torch.optim.optimizer": _stop_at_steps}


def _stop_at_steps(module: types.ModuleType) -> None:
    module.register_optimizer_step_pre_hook(_refuse_step)  # type: ignore[attr-defined]


def _refuse_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if all(type(one).__name__ == "FakeTensor" or one.device.type == "meta" for one in held):
        return  # no numbers: the memory plan asks an optimiser what it would hold
    raise TrainingError(
        f"The script makes a step of its {type(optimizer).__name__} without a Trainer, so there is nothing that "
        "hfplug doctor can look at; it was stopped before that step.",
        fix="hfplug looks at scripts that train through transformers' Trainer, or a class derived from it.",
    )


@contextlib.contextmanager
def no_empty_folders() -> Iterator[None]:
    """Take away the folders that are made inside the block and are empty at its end; name those that are not.

    A Trainer makes its output folder when it is made. Folders of the Hub's caches are left alone.
    """
    made: list[Path] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "os.mkdir" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = Path(os.path.abspath(os.fsdecode(arguments[0])))
            if not os.path.lexists(path):
                made.append(path)

    sys.addaudithook(watch)  # it cannot be taken off again, only told to rest
    try:
        yield
    finally:
        watching = False
        _take_away(made)


def _take_away(made: list[Path]) -> None:
    caches = _caches()
    for path in sorted(set(made), key=lambda one: len(one.parts), reverse=True):
        if path.is_dir() and not any(path.is_relative_to(cache) for cache in caches) and not any(path.iterdir()):
            with contextlib.suppress(OSError):
                path.rmdir()
    left = {path for path in made if path.is_dir() and not any(path.is_relative_to(cache) for cache in caches)}
    outermost = sorted(path for path in left if not left.intersection(path.parents))
    if outermost:
        logger.warning("The script itself wrote into %s, which is left there.", ", ".join(map(str, outermost)))


def _caches() -> list[Path]:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    named = [os.environ[name] for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_XET_CACHE") if name in os.environ]
    return [path.absolute() for path in (home, Path.home() / ".cache", *map(Path, named))]


@contextlib.contextmanager
def output_kept_apart() -> Iterator[TextIO]:
    """Send what the script prints to the error stream, and give a stream to the real standard output.

    So that what a program reads there is JSON and nothing else.
    """
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(real), "w", encoding="utf-8") as out:
            yield out
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)
