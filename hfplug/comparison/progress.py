"""What a person sees while a study runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback


class Progress:
    """Lines and bars on the terminal's error stream; on no terminal, lines alone.

    Args:
        show: ``"bars"``, ``"lines"`` or ``"nothing"``; ``"auto"`` means bars on a terminal, else lines.
    """

    def __init__(self, show: str = "auto") -> None:
        self.show = show if show != "auto" else ("bars" if sys.stderr.isatty() else "lines")

    def say(self, text: str) -> None:
        """Show a line."""
        if self.show != "nothing":
            tqdm.write(text, file=sys.stderr)

    def bar(self, total: int, label: str) -> tqdm:
        """A bar of ``total`` units; to be closed by the caller."""
        return tqdm(
            total=total,
            desc=f"  {label}",
            disable=self.show != "bars",
            leave=False,
            file=sys.stderr,
            ncols=88,
        )

    def counting(self, total: int, label: str) -> tuple[tqdm, Callable[[int], object]]:
        """A bar, and the function that moves it."""
        bar = self.bar(total, label)
        return bar, bar.update


class ProgressCallback(TrainerCallback):
    """One bar for a training run, with the loss beside it.

    Args:
        progress: Where it is shown.
        label: What it is called.
    """

    def __init__(self, progress: Progress, label: str) -> None:
        self.progress = progress
        self.label = label
        self._bar: tqdm | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar = self.progress.bar(state.max_steps, self.label)
        self._bar.update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self._bar is not None and logs and "loss" in logs:
            self._bar.set_postfix_str(f"loss {logs['loss']:.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.close()
