"""What a service says of itself: its limits, its variants, its memory, and how it batches."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from hfplug.adapters.task import Task
from hfplug.errors import ServingError

Batching = Literal["mixed", "one_by_one"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a service takes on.

    Args:
        max_input_tokens: Tokens of a prompt. The task's own limit holds too, and the model's: what is longer loses
            the end of its input, and the answer says so.
        max_input_characters: Characters of a text; a longer one is refused before any work is put into it.
        max_new_tokens: Tokens of an answer. A request that asks for more is refused.
        max_queue: Requests that may wait; one more is refused with a ``QueueFullError``.
        max_rows: Requests that one pass answers together.
        max_passes: Passes side by side, taking turns at each token.
        variant_bytes: Memory that all variants may hold beyond the base, or None for no limit. What was used least
            recently leaves memory for what is needed now, and is read again from its folder when it is asked.

    Raises:
        ServingError: A limit is not a whole number, or below 1.
    """

    max_input_tokens: int = 2048
    max_input_characters: int = 100_000
    max_new_tokens: int = 256
    max_queue: int = 64
    max_rows: int = 16
    max_passes: int = 2
    variant_bytes: int | None = None

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is None and limit.name == "variant_bytes":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ServingError(
                    f"{limit.name} must be a whole number, 1 or more, not {value!r}.", fix=f"Leave {limit.name} out."
                )


@dataclass(frozen=True, kw_only=True)
class VariantInfo:
    """One variant of a service: the base, a fully tuned model, or an adapter.

    Attributes:
        name: What it is called here; ``"base"`` for the base.
        kind: ``"base"``, ``"full"`` or ``"adapter"``.
        method: Name of its tuning method; empty for the base.
        settings: Settings of the method.
        trainable_parameters: Parameters that were trained; 0 for the base.
        trainable_share: Those by the parameters of the base.
        disk_bytes: Size of its weights' files.
        held_bytes: Memory that it holds beyond the base while it is in memory.
        batching: ``"mixed"`` if its rows may share a pass with other variants, ``"alone"`` if not.
        batching_reason: Why ``"alone"``; else empty.
        state: ``"ready"``; ``"on disk"``: it left memory for others and is read again when it is asked;
            ``"refused"``: it is not answered, and ``banner`` says why.
        banner: Why it is not what it says it is (its probe failed, the base is not proved), or None.
        commit: Commit of the base that it was trained on, or of the base itself; None for a folder.
        task: The task that it was trained on, or None.
        notes: Further sentences for people.
        folder: Where it was loaded from; for the base its repo id or folder.
    """

    name: str
    kind: Literal["base", "full", "adapter"]
    method: str
    settings: Mapping[str, Any]
    trainable_parameters: int
    trainable_share: float
    disk_bytes: int
    held_bytes: int
    batching: Literal["mixed", "alone"]
    batching_reason: str
    state: Literal["ready", "on disk", "refused"]
    banner: str | None
    commit: str | None
    task: Task | None
    notes: tuple[str, ...]
    folder: str


@dataclass(frozen=True, kw_only=True)
class ServiceMemory:
    """Memory in bytes.

    Attributes:
        base_bytes: Weights of the base; where variants need it in 4 bits, of that one too.
        variants: What each variant in memory holds beyond that. One that was replaced is listed until the last
            request for it is over.
        total_bytes: Both together.
        process_bytes: What the operating system has given this process in all, 0 where it does not say. It holds
            torch, the cache of what is being written, the weights if they are on the CPU, and the variants' modules
            as Python objects (``benchmarks/serving_memory.py`` measures those).
    """

    base_bytes: int
    variants: Mapping[str, int] = field(hash=False)
    total_bytes: int
    process_bytes: int


@dataclass(frozen=True, kw_only=True)
class BatchingDecision:
    """Whether different variants share passes, and how that was decided.

    Attributes:
        mode: ``"mixed"``: rows of several variants share a pass; ``"one_by_one"``: each pass has one variant.
        reason: In words.
        variants: How many variants were timed; 0 if nothing was.
        mixed_seconds: One mixed pass of a row for each, or None.
        one_by_one_seconds: The same rows one variant after the other, or None.
    """

    mode: Batching
    reason: str
    variants: int = 0
    mixed_seconds: float | None = None
    one_by_one_seconds: float | None = None


def process_bytes() -> int:
    """Resident memory of this process in bytes; 0 where the operating system does not say (without /proc)."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
