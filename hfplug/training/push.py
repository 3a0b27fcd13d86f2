"""Push while training: each checkpoint goes into the outbox on disk, and from there to the Hub by a thread.

Training waits for the disk (a copy and a flush of the adapter's files) and never for a Hub; nothing that a Hub
or a disk does reaches the loop. What could not be delivered when training ends, crashes or is killed waits in the
outbox, byte for byte, for ``hfplug outbox flush``.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from transformers import TrainerCallback

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.files import file_sha256
from hfplug.adapters.lock import Lock
from hfplug.adapters.record import Record, scrub
from hfplug.adapters.tokenizers import is_the_bases_tokenizer
from hfplug.errors import OutboxError, TrainingError, did_you_mean
from hfplug.hub.deliver import (
    BackgroundDelivery,
    Pace,
    count_pushes,
    flush_command,
    hub_address,
    make_sender,
)
from hfplug.hub.outbox import Outbox
from hfplug.hub.outbox_entry import Policy
from hfplug.hub.outbox_queue import Queue
from hfplug.hub.parcel import pack
from hfplug.training.exporter import (
    ExporterCallback,
    adapter_source,
    save_to,
)
from hfplug.training.run_record import record_of

logger = logging.getLogger(__name__)

PushWhen = Literal["save", "best", "end"]
FLUSH_SECONDS = 60.0
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_EXIT_SECONDS = 2.0


class HubPushCallback(TrainerCallback):
    """Pushes checkpoints while training, and the exported adapter at its end.

    It comes after the exporter, whose lock, task and export it takes. In a run of several processes only the
    first one pushes.

    Args:
        push_to: ``"owner/name"``; made if it is not there.
        exporter: The exporter of the same Trainer.
        push_when: ``"save"``: every checkpoint; ``"best"``: those that are the best so far; ``"end"``: only
            what training ends with, which is pushed in the other cases too.
        push_policy: ``"every"``: each arrives, in order; ``"newest"``: one that has not arrived when the next
            is there gives way to it.
        flush_seconds: How long the end of training waits for what has not arrived.
        private: ``"on"`` or ``"off"`` for a repo that has to be made; None for the account's default.
        revision: The branch; None for ``main``.
        dtype: ``"float32"`` or ``"bfloat16"`` for the pushed weights; None for those of the checkpoint.
        licence: For the card, e.g. ``"apache-2.0"``.
        base_id: Id of the base on the Hub, if it was loaded from a local folder.
        endpoint: Address of the Hub; that of the environment if not given.
        outbox: Its folder; that of the environment if not given.
        pace: How long to wait between attempts.

    Raises:
        TrainingError: A value is not one of those.
    """

    def __init__(
        self,
        push_to: str,
        *,
        exporter: ExporterCallback,
        push_when: PushWhen = "save",
        push_policy: Policy = "every",
        flush_seconds: float = FLUSH_SECONDS,
        private: str | None = None,
        revision: str | None = None,
        dtype: str | None = None,
        licence: str | None = None,
        base_id: str | None = None,
        endpoint: str | None = None,
        outbox: str | Path | None = None,
        pace: Pace | None = None,
    ) -> None:
        check_choices(push_to, push_when=push_when, push_policy=push_policy, private=private)
        self.push_to = push_to
        self.exporter = exporter
        self.push_when = push_when
        self.push_policy = push_policy
        self.flush_seconds = flush_seconds
        self.private = private
        self.revision = revision
        self.contents = {"dtype": dtype, "licence": licence, "base_id": base_id}
        self.endpoint = endpoint
        self.outbox = Outbox(outbox)
        self.pace = pace
        self._queue: Queue | None = None
        self._delivery: BackgroundDelivery | None = None
        self._own_tokenizer = True
        # Of the training arguments, for whoever passes it there; only ever in memory.
        self._token: str | None = None
        self._not_put = 0
        self._said: set[str] = set()

    # ------------------------------------------------------------------------------------------------ events

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.push_when == "best" and not args.metric_for_best_model:
            raise TrainingError(
                "push_when='best' needs to know what is best.",
                fix="Pass metric_for_best_model='loss', say, with eval_strategy and save_strategy alike.",
            )
        try:
            queue = self.outbox.queue(self.push_to, endpoint=hub_address(self.endpoint), revision=self.revision)
        except OutboxError as error:
            raise TrainingError(error.message, fix=error.fix) from None
        if not state.is_world_process_zero:
            return
        self._queue = queue
        if getattr(args, "push_to_hub", False):
            logger.warning(
                "push_to_hub=True: Trainer's own push sends training_args.bin, a pickle that can hold hub_token in "
                "clear text. hfplug pushes to %s; pass push_to_hub=False.",
                self.push_to,
            )
        self._token, self._not_put = getattr(args, "hub_token", None), 0
        with self._safely("start to push"):
            if self._delivery is not None:  # of a run that was interrupted, in a notebook
                self._delivery.stop()
            pace = self.pace or Pace()
            send = make_sender(self._token, timeout=pace.timeout)
            self._delivery = BackgroundDelivery(queue, send=send, pace=pace, say=self._say_why_not)
            self._delivery.start()
            atexit.register(self._say_what_waits)
        with self._safely("look at the tokenizer and the checkpoint that this run goes on from"):
            # Before the first step: it may read the base's tokenizer from a Hub.
            self._own_tokenizer = not _is_the_bases(model, kwargs.get("processing_class"), self.exporter.lock)
            if state.global_step and self.push_when != "end":
                self._put_again(args, state, model)

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or self.push_when == "end":
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.push_when == "save" or _is_best(state, checkpoint):
            with self._safely(f"put {checkpoint.name} into the outbox"):
                self._put_checkpoint(args, state, model, checkpoint)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        with self._safely("put the exported adapter into the outbox"):
            exported = self.exporter.exported
            if exported is not None:
                self._put(f"The adapter after {state.global_step} steps", lambda files: self._pack(exported, files))
        with self._safely("push"):
            if self._delivery is not None:
                self._delivery.flush(self.flush_seconds)
            self._say_what_waits()

    # ------------------------------------------------------------------------------------------------ inside

    def _put_checkpoint(self, args: Any, state: Any, model: Any, checkpoint: Path) -> None:
        def fill(files: Path) -> None:
            # On the outbox's own disk, and swept with the rest of the entry if the process is killed.
            scratch = files.parent / "adapter"
            source = adapter_source(model, checkpoint)
            if source is None:
                source = files.parent / "weights"
                source.mkdir()
                save_to(model, source)
            parts: dict[str, Any] = {} if self._own_tokenizer else {"tokenizer_files": []}
            record = record_so_far(model, args, state, exporter=self.exporter, checkpoint=checkpoint)
            adapter = AdapterDir.write(
                scratch, source=source, record=record, lock=self.exporter.lock, task=self.exporter.task, **parts
            )
            self._pack(adapter, files)
            for folder in (scratch, files.parent / "weights"):
                shutil.rmtree(folder, ignore_errors=True)

        self._put(checkpoint.name, fill, checkpoint=checkpoint.name, source=adapter_source(model, checkpoint))

    def _pack(self, adapter: AdapterDir, files: Path) -> None:
        parcel = pack(adapter, files, repo_id=self.push_to, token=self._token, **self.contents)
        for note in parcel.notes:
            if note not in self._said:
                self._said.add(note)
                logger.warning("%s", _one_line(note))

    def _put(self, message: str, fill: Any, *, checkpoint: str | None = None, source: Path | None = None) -> None:
        if self._queue is None:
            return
        self._not_put += 1
        self._queue.put(
            fill,
            message=message,
            policy=self.push_policy,
            private=self.private,
            checkpoint=checkpoint,
            source=None if source is None else _sums(source),
        )
        self._not_put -= 1
        if self._delivery is not None:
            self._delivery.wake()

    def _put_again(self, args: Any, state: Any, model: Any) -> None:
        """Put in the checkpoint that the run goes on from, if the run was killed before it could."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        source = adapter_source(model, checkpoint)
        if source is None or self._queue is None or (self.push_when == "best" and not _is_best(state, checkpoint)):
            return
        if not self._queue.took(checkpoint.name, _sums(source)):
            self._put_checkpoint(args, state, model, checkpoint)

    @contextlib.contextmanager
    def _safely(self, what: str) -> Iterator[None]:
        """Nothing that goes wrong here may end a training run; it is said once."""
        try:
            yield
        except Exception as error:
            kind = f"{what.split()[0]} {type(error).__name__}"
            if kind not in self._said:
                self._said.add(kind)
                logger.warning("Training goes on, but hfplug could not %s: %s", what, _one_line(error))

    def _say_why_not(self, reason: str) -> None:
        logger.warning("Training goes on; the push to %s waits in the outbox: %s", self.push_to, _one_line(reason))

    def _say_what_waits(self) -> None:
        """End the thread, and say what is left and how to send it. Also called when the process ends."""
        atexit.unregister(self._say_what_waits)
        delivery, self._delivery = self._delivery, None
        if delivery is not None:
            delivery.stop(_EXIT_SECONDS)
        if self._not_put:
            logger.warning("%s to %s could not be put into the outbox.", count_pushes(self._not_put), self.push_to)
        waiting = self._queue.entries() if self._queue is not None else []
        if not waiting or self._queue is None:
            return
        errors = [entry.error for entry in waiting if entry.error]
        logger.warning(
            "%s to %s still in the outbox %s%s To send what is there, type: %s",
            count_pushes(len(waiting)),
            self.push_to,
            self.outbox.root,
            f" ({errors[0].rstrip('.')})." if errors else ".",
            flush_command(self.outbox, self._queue.endpoint),
        )


def check_choices(push_to: str, **choices: str | None) -> None:
    """Refuse a repo or a choice that cannot be meant, before the first step.

    Args:
        push_to: The repo.
        **choices: ``push_when``, ``push_policy``, ``private``.

    Raises:
        TrainingError: naming what could have been typed.
    """
    if not _REPO.fullmatch(push_to):
        raise TrainingError(f"push_to must be 'owner/name', not {push_to!r}.", fix="Type: push_to='your-name/adapter'")
    known: dict[str, tuple[str | None, ...]] = {
        "push_when": ("save", "best", "end"),
        "push_policy": ("every", "newest"),
        "private": ("on", "off", None),
    }
    for name, value in choices.items():
        if value not in known[name]:
            names = [str(option) for option in known[name]]
            fix = did_you_mean(str(value), names) or None
            raise TrainingError(f"{name} must be one of {', '.join(names)}, not {value!r}.", fix=fix)


def record_so_far(model: Any, args: Any, state: Any, *, exporter: ExporterCallback, checkpoint: Path) -> Record:
    """The record of a run that goes on, as of one of its checkpoints.

    Args:
        model: The model as ``Trainer`` holds it.
        args: ``TrainingArguments``.
        state: ``TrainerState``.
        exporter: Knows the task, the data and what the run has cost.
        checkpoint: The one that was saved just now.
    """
    record = record_of(
        model,
        args,
        state,
        task=exporter.task,
        data=exporter.data,
        figures=exporter.figures,
        chosen=checkpoint,
    )
    metric = record.best_metric
    key = metric if metric is None or metric.startswith("eval_") else f"eval_{metric}"
    # The best value of the run need not be this checkpoint's.
    value = next((e[key] for e in state.log_history if key in e and e.get("step") == state.global_step), None)
    return dataclasses.replace(
        record, best_checkpoint=checkpoint.name, best_value=value, best_metric=metric if value is not None else None
    )


def _sums(source: Path) -> dict[str, str]:
    """Name of each file of weights in a checkpoint to its sha256."""
    return {file.name: file_sha256(file) for file in AdapterDir.open(source).weights}


def _is_best(state: Any, checkpoint: Path) -> bool:
    best = state.best_model_checkpoint
    return bool(best) and Path(best).name == checkpoint.name


def _is_the_bases(model: Any, tokenizer: Any, lock: Lock | None) -> bool:
    """Whether whoever loads the adapter gets this very tokenizer with its base."""
    from peft import PeftModel

    if lock is None or not isinstance(model, PeftModel):
        return False
    return is_the_bases_tokenizer(tokenizer, lock.base, lock.base_commit)


def _one_line(error: object) -> str:
    return " ".join(scrub(str(error)).split())
