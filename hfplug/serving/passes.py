"""One pass: a batch of requests, answered by one call of ``generate``."""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hfplug.errors import HfplugError, ServingError
from hfplug.serving.asked import Request
from hfplug.serving.decoding import Settled, pass_config
from hfplug.serving.sampling import RowChoice
from hfplug.serving.shelf import Version
from hfplug.serving.streaming import Row, RowWatch
from hfplug.serving.turns import Turns

if TYPE_CHECKING:
    from hfplug.serving.resident import Resident

logger = logging.getLogger(__name__)

_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A request with all that a pass needs for it.

    Attributes:
        request: Who is told.
        version: The variant, as it was when it was asked.
        prompt: Token ids.
        settled: How it is decoded.
        stops: Ids that end its answer, beside the model's own.
        tokenizer: Turns its tokens into text.
    """

    request: Request
    version: Version
    prompt: Sequence[int]
    settled: Settled
    stops: tuple[int, ...]
    tokenizer: Any


def answer(resident: Resident, jobs: Sequence[Job], turns: Turns) -> int | None:
    """Answer requests together as far as their variants allow it; where memory does not reach, in smaller batches.

    Every request is told: its text, or an error. Nothing is raised.

    Args:
        resident: The base that they all are on.
        jobs: The requests, of one sharing key.
        turns: For computing.

    Returns:
        How many rows are to share a pass at most from now on, where memory did not reach for so many; else None.
    """
    waiting = _spread(resident, jobs)
    fitting: int | None = None
    while waiting:
        batch = [job for job in waiting.pop(0) if job.request.start() == "yes"]
        if not batch:
            continue
        error = _try(resident, batch, turns)
        if error is None:
            continue
        if _is_out_of_memory(error) and len(batch) > 1:
            half = len(batch) // 2
            fitting = min(fitting or half, half)
            logger.warning("%d rows do not fit into memory together; %d are tried.", len(batch), half)
            waiting[:0] = [batch[start : start + half] for start in range(0, len(batch), half)]
            _free_memory()
            continue
        for job in batch:
            job.request.fail(told(error, job))
        if _is_out_of_memory(error):
            _free_memory()
    return fitting


def _spread(resident: Resident, jobs: Sequence[Job]) -> list[list[Job]]:
    """The batches that these requests make.

    A variant that came back into memory was tried anew, so it may be of another group than when this was planned.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(resident.group_of(job.version.key), []).append(job)
    return [
        [group[row] for row in rows]
        for group in groups.values()
        for rows in resident.passes([job.version.key for job in group], [job.prompt for job in group])
    ]


def _try(resident: Resident, jobs: list[Job], turns: Turns) -> BaseException | None:
    """Generate; returns what went wrong, or None."""
    try:
        _generate(resident, jobs, turns)
    except BaseException as error:  # a thread of the service must outlive whatever a model does
        if not _is_out_of_memory(error):
            logger.warning("A pass of %d rows failed.", len(jobs), exc_info=True)
        traceback.clear_frames(error.__traceback__)  # they hold caches and logits, and the asker keeps the error
        return error
    return None


def _generate(resident: Resident, jobs: list[Job], turns: Turns) -> None:
    names, prompts = [job.version.key for job in jobs], [job.prompt for job in jobs]
    settings = [job.settled for job in jobs]
    beams = settings[0].num_beams
    # A turn is taken last: to be made ready may mean to wait for another pass of the same variant.
    with torch.inference_mode(), resident.ready(names, prompts, beams=beams) as ready, turns.mine():
        model: Any = ready.model
        config = pass_config(model.generation_config, jobs[0].tokenizer, settings, jobs[0].stops)
        stops = frozenset(config.eos_token_id or ())
        rows = [Row(job.request, job.tokenizer, max_new_tokens=job.settled.max_new_tokens, stops=stops) for job in jobs]
        watch = RowWatch(rows, turns, beams=beams)
        own_tokens = [() if resident.encoder_decoder else prompt for prompt in prompts]
        output = model.generate(
            **ready.inputs,
            generation_config=config,
            logits_processor=[RowChoice(own_tokens, settings, ready.prompt_length)],
            stopping_criteria=[watch],
        )
        if beams > 1:
            start_token = 1 if resident.encoder_decoder else 0
            watch.take_beams(output, ready.prompt_length + start_token)
    for row in rows:
        row.close()


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MEMORY_WORDS)


def told(error: BaseException, job: Job) -> ServingError:
    """An error for one asker: of its own, as a traceback grows with each place that raises it.

    Args:
        error: What went wrong.
        job: Whose request cannot be answered.
    """
    if _is_out_of_memory(error):
        found = ServingError(
            f"{job.request.name!r} could not answer: memory does not reach for a prompt of"
            f" {job.request.prompt_tokens} tokens and {job.settled.max_new_tokens} new ones.",
            fix="Ask with a shorter text, fewer new tokens or fewer beams.",
        )
    elif isinstance(error, HfplugError):
        found = ServingError(error.message, fix=error.fix)
    else:
        line = (str(error).strip().splitlines() or [""])[0]
        found = ServingError(
            f"{job.request.name!r} could not answer: {type(error).__name__}: {line}".rstrip(": "),
            fix="Ask again; if it stays so, load the variant again.",
        )
    found.__cause__ = error
    return found


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
