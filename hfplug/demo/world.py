"""The seeded world of the demo: two-person dialogues with a summary, a title and action items each.

Seven plots over some twenty domains; days, times, places and minds change on the way, and the last word
counts. Held-out dialogues (validation and test) use dialogue templates and names that neither training nor
pretraining ever sees; the wording of the summaries is that of training, as a reader would expect.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from hfplug.demo.plots_planning import appointment, delay, invitation
from hfplug.demo.plots_things import borrow, choice, lost, order
from hfplug.demo.scene import Scene

SPLITS = ("pretrain", "train", "validation", "test")
PLOTS = (appointment, appointment, appointment, order, order, borrow, choice, delay, invitation, lost)


def scenes(split: str, seed: int = 0) -> Iterator[tuple[Scene, list[tuple[str, str]]]]:
    """Scenes of a split without end, each with its turns as (name, sentence); dialogues never repeat.

    Args:
        split: One of ``SPLITS``.
        seed: Any integer; the same split and seed give the same scenes.

    Raises:
        ValueError: The split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    rng = random.Random(f"hfplug demo world {split} {seed}")
    seen: set[tuple[tuple[str, str], ...]] = set()
    while True:
        scene = Scene(split=split, rng=rng)
        rng.choice(PLOTS)(scene)
        turns = scene.turns()
        key = tuple(turns)
        if key not in seen:
            seen.add(key)
            yield scene, turns


def dialogue_text(turns: list[tuple[str, str]]) -> str:
    """The turns as lines "Name: sentence"."""
    return "\n".join(f"{name}: {sentence}" for name, sentence in turns)


def generate(split: str, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """``n`` distinct dialogues of a split with everything that is known of them.

    Args:
        split: "pretrain", "train", "validation" or "test".
        n: How many rows.
        seed: Any integer; the same arguments give the same rows.

    Returns:
        Rows with the keys ``id``, ``dialogue``, ``summary``, ``reference_2`` (the summary in other words),
        ``title``, ``action_items`` and ``domain``; every value is a string.

    Raises:
        ValueError: The split is unknown.
    """
    rows: list[dict[str, Any]] = []
    if n <= 0:
        return rows
    for scene, turns in scenes(split, seed):
        rows.append(
            {
                "id": f"{split}-{seed}-{len(rows):05d}",
                "dialogue": dialogue_text(turns),
                "summary": scene.summary,
                "title": scene.title,
                "action_items": scene.action_items(),
                "reference_2": scene.reference_2,
                "domain": scene.domain,
            }
        )
        if len(rows) == n:
            break
    return rows
