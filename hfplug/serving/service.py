"""A service: one base in memory, its variants, and requests to them, safe side by side."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from hfplug.adapters.task import Task
from hfplug.errors import ServingError
from hfplug.serving.asked import Asked, Request
from hfplug.serving.batching import not_timed, time_batching
from hfplug.serving.decoding import Decoding, settle
from hfplug.serving.describe import describe, describe_base
from hfplug.serving.engine import Engine
from hfplug.serving.info import Batching, BatchingDecision, Limits, ServiceMemory, VariantInfo, process_bytes
from hfplug.serving.passes import Job
from hfplug.serving.prompting import Prompter
from hfplug.serving.resident import MIXED, Resident
from hfplug.serving.shelf import Shelf, Version
from hfplug.serving.turns import Turns

if TYPE_CHECKING:
    from hfplug.methods import Quantization
    from hfplug.serving.proof import BaseProof


class Service:
    """One base, any number of variants of it, and questions to them.

    Requests may come from any thread. Several are answered in one pass where they may share it; passes take turns at
    each token, so that all of them stream. An answer depends on its variant, its prompt and its settings alone: a
    greedy one is what ``generate`` of transformers gives on a fresh base with that adapter, and a drawn one is the
    same for the same seed.

    Use it as a context manager, or call :meth:`close`::

        with hfplug.Service("google/flan-t5-base") as service:
            service.load("lora", "out/lora")
            for piece in service.ask("lora", dialogue):
                print(piece.delta, end="", flush=True)

    Args:
        base: Repo id or folder of the base.
        revision: Its branch, tag or commit.
        dtype: As for ``build_model``.
        device: Where to put it, e.g. ``"cuda"``; a GPU if there is one and nothing is said.
        limits: How much the service takes on.
        batching: ``"mixed"``: rows of several variants share a pass; ``"one_by_one"``: each pass has one variant;
            ``"auto"``: both are timed when the second variant that can share a pass is loaded (and when there are
            twice as many), and the faster is used. See :attr:`batching_decision`.
        task: How a variant is asked that has no task of its own, and the base.
        token: Access token for a private or gated base.
        offline: ``"on"`` asks no Hub: the cache only.
        trust_remote_code: Run modelling code from the base's repo.

    Raises:
        BaseModelError: The base cannot be found or read.
        ServingError: It does not generate text.
    """

    def __init__(
        self,
        base: str | Path,
        *,
        revision: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        limits: Limits | None = None,
        batching: Literal["auto", "mixed", "one_by_one"] = "auto",
        task: Task | None = None,
        token: str | None = None,
        offline: Literal["auto", "on"] = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        if batching not in ("auto", "mixed", "one_by_one"):
            raise ServingError(f"batching must be 'auto', 'mixed' or 'one_by_one', not {batching!r}.")
        self.limits = limits or Limits()
        self.task = task
        self._batching = batching
        self._timed_for = 0
        place = device if device is not None else ("cuda" if torch.cuda.is_available() else None)

        def load_resident(recipe: Quantization | None) -> Resident:
            return Resident.load(
                base,
                revision=revision,
                dtype=dtype,
                device=place,
                quantization=recipe,
                token=token,
                offline=offline,
                trust_remote_code=trust_remote_code,
            )

        self._turns = Turns()
        self._shelf = Shelf(load_resident, self.limits.variant_bytes)
        self._prompter = Prompter(self.limits)
        self._proving = threading.RLock()
        self._proof: BaseProof = self._resident.prove_base()
        self._proof_due = False
        self._engine = Engine(self.limits, self._shelf, self._turns, _first_decision(batching))
        weakref.finalize(self, self._engine.abandon)

    # ------------------------------------------------------------------------------------------------ asking

    def ask(self, name: str, text: str, *, task: Task | None = None, decoding: Decoding | None = None) -> Asked:
        """Put one question to one variant. Returns at once.

        Args:
            name: The variant, or ``"base"``.
            text: The input of the task, e.g. a dialogue. What is longer than the task and the model allow loses its
                end, and the answer says so.
            task: How to ask; the variant's own task if None, else the service's. The base is then asked as the
                variants are, if all of them have the same task.
            decoding: How to answer; what is left open is as the task says.

        Raises:
            QueueFullError: Too many requests wait.
            ServingError: There is no such variant, it is refused, or the text or a setting is beyond a limit.
            DataError: The task's instruction leaves no room for the text.
        """
        return self.ask_all([name], text, task=task, decoding=decoding)[name]

    def ask_all(
        self, names: Sequence[str], text: str, *, task: Task | None = None, decoding: Decoding | None = None
    ) -> dict[str, Asked]:
        """Put one question to several variants. They come into the queue together, all or none.

        Args:
            names: The variants, each once.
            text, task, decoding: As for :meth:`ask`.

        Returns:
            Name to what was asked, in the order of ``names``.

        Raises:
            QueueFullError, ServingError, DataError: As for :meth:`ask`.
        """
        names = list(names)
        if len(set(names)) != len(names) or not names:
            raise ServingError(f"Pass one or more names, each once, not {names!r}.")
        self._prompter.check(text)
        for value, kind in ((task, Task), (decoding, Decoding)):
            if value is not None and not isinstance(value, kind):
                raise ServingError(
                    f"{kind.__name__.lower()} must be a {kind.__name__}, not {type(value).__name__}.",
                    fix=f"Pass hfplug.{kind.__name__}(...).",
                )
        self._engine.require_room(len(names))
        jobs: list[Job] = []
        try:
            for name in names:
                jobs.append(self._make_job(name, text, task, decoding))
            self._engine.submit(jobs)
        except BaseException:
            for job in jobs:
                self._shelf.leave(job.version)
            raise
        return {job.request.name: Asked(job.request) for job in jobs}

    # ---------------------------------------------------------------------------------------------- variants

    def load(
        self,
        name: str,
        folder: str | Path,
        *,
        full: Literal["copy", "difference"] = "copy",
        merge: Literal["never", "always"] = "never",
    ) -> VariantInfo:
        """Put a variant on. A name that is there gets a new version: requests made before finish on the old one.

        Args:
            name: What to call it: 1 to 100 printable characters, not ``base``.
            folder: An adapter's folder, or that of a fully tuned model.
            full, merge: As for ``Resident.attach``.

        Returns:
            What it is. See its ``banner``: a failed probe is no error.

        Raises:
            AdapterError, MismatchError: The folder holds no whole adapter, or one for another base.
            ServingError: It needs more memory than is allowed, or the name cannot be used.
        """
        self._engine.require_open()
        version = self._shelf.load(name, folder, full=full, merge=merge)
        self._proof_due = True
        self._time_batching()
        return describe(version)

    def unload(self, name: str) -> None:
        """Forget a variant. Requests made before are still answered; then its memory is free.

        Raises:
            ServingError: There is none of that name, or it is the base.
        """
        self._shelf.unload(name)

    def variants(self) -> tuple[VariantInfo, ...]:
        """All that can be asked: the base first, then in the order of loading."""
        found = [describe(version) for version in self._shelf.all_current()]
        return (describe_base(self._resident, self._proof, self.task), *found)

    def variant(self, name: str) -> VariantInfo:
        """What one variant is.

        Raises:
            ServingError: There is none of that name.
        """
        version = self._shelf.current(name)
        return describe(version) if version.facts else describe_base(self._resident, self._proof, self.task)

    # ------------------------------------------------------------------------------------------------- state

    @property
    def base(self) -> Any:
        """The base: ``name`` and ``commit``, among others (:class:`~hfplug.models.base.Base`)."""
        return self._resident.base

    @property
    def tokenizer(self) -> Any:
        """The base's tokenizer, or None. Read only."""
        return self._resident.tokenizer

    @property
    def word_vectors(self) -> torch.Tensor:
        """The base's input embeddings, shape (words, width). Read only."""
        return self._resident.model.get_input_embeddings().weight.detach()  # type: ignore[operator]

    @property
    def base_proof(self) -> BaseProof:
        """What the last proof of the base said."""
        return self._proof

    def reprove(self) -> BaseProof:
        """Compare the base, bit for bit, with what was loaded; its column is refused from here on if it differs."""
        with self._proving:
            self._proof_due = False
            self._proof = self._resident.prove_base()
            return self._proof

    @property
    def batching_decision(self) -> BatchingDecision:
        """Whether variants share passes now, and why."""
        return self._engine.decision

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._engine.waiting

    @property
    def running(self) -> int:
        """Requests that are being answered."""
        return self._engine.running

    def memory(self) -> ServiceMemory:
        """The memory that weights take, counted, and that of the process, as the operating system says."""
        variants = self._shelf.held_bytes()
        base = sum(resident.base_bytes for resident in self._shelf.residents())
        return ServiceMemory(
            base_bytes=base,
            variants=variants,
            total_bytes=base + sum(variants.values()),
            process_bytes=process_bytes(),
        )

    def close(self) -> None:
        """End everything: what waits or is being written gets an error. A closed service answers nothing more."""
        self._engine.close()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------- parts

    @property
    def _resident(self) -> Resident:
        return self._shelf.resident(None)

    def _make_job(self, name: str, text: str, task: Task | None, decoding: Decoding | None) -> Job:
        version = self._shelf.enter(name)
        try:
            if version.facts is None:
                self._require_proof()
            resident, facts = version.resident, version.facts
            chosen = task or self._task_of(version)
            most = self.limits.max_new_tokens
            settled = settle(decoding, chosen.decoding, version.own_decoding, most_new_tokens=most)
            tokenizer = facts.tokenizer if facts is not None else resident.tokenizer
            prepared = self._prompter.prepare(
                text,
                chosen,
                tokenizer=tokenizer,
                model_config=resident.model.config,
                encoder_decoder=resident.encoder_decoder,
                virtual_tokens=facts.method.virtual_tokens() if facts is not None else 0,
                max_new_tokens=settled.max_new_tokens,
            )
            request = Request(
                name, prompt_tokens=len(prepared.ids), truncated=prepared.truncated, on_drop=self._engine.ring
            )
            return Job(
                request=request,
                version=version,
                prompt=prepared.ids,
                settled=settled.shortened(prepared.max_new_tokens),
                stops=prepared.stops,
                tokenizer=tokenizer,
            )
        except BaseException:
            self._shelf.leave(version)
            raise

    def _task_of(self, version: Version) -> Task:
        """The task of a variant without one, and of the base: the service's, else the one that all variants share."""
        own = version.facts.adapter.task if version.facts is not None else None
        if own is not None or self.task is not None:
            return own or self.task  # type: ignore[return-value]
        others = [one.facts.adapter.task for one in self._shelf.all_current() if one.facts is not None]
        tasks = {task for task in others if task is not None}
        if len(tasks) == 1:
            return tasks.pop()
        known = "none of the variants has one" if not tasks else f"the variants have {len(tasks)} different ones"
        raise ServingError(
            f"It is not known how to ask {version.name!r}: it has no task, and {known}.",
            fix="Pass task=hfplug.Task(name=..., prompt='...{dialogue}...') here or to Service.",
        )

    def _require_proof(self) -> None:
        """The base's column is shown only if the base is what was loaded; after a load that is looked at again."""
        with self._proving:
            if self._proof_due:
                self.reprove()
        if self._proof.verdict != "proved":
            raise ServingError(f"The base is not answered. {self._proof}", fix="Start the service again.")

    def _time_batching(self) -> None:
        """Time again when there are twice as many variants that can share a pass as last time."""
        if self._batching != "auto":
            return
        mixable = [one for one in self._shelf.all_current() if self._shelf.group_of(one) == (None, MIXED)]
        if len(mixable) < max(2, 2 * self._timed_for):
            return
        self._timed_for = len(mixable)
        entered: list[Version] = []
        for version in mixable:
            with contextlib.suppress(ServingError):  # unloaded in between
                entered.append(self._shelf.enter(version.name))  # so that unloading does not take it away meanwhile
        held = self._shelf.hold([version for version in entered if version.in_memory])
        try:
            if len(held.present) >= 2:
                with self._turns.mine():
                    names = [version.key for version in held.present]
                    self._engine.decision = time_batching(self._resident, names)
        finally:
            self._shelf.release(held.present)
            for version in entered:
                self._shelf.leave(version)


def _first_decision(batching: Batching | Literal["auto"]) -> BatchingDecision:
    if batching == "auto":
        return not_timed()
    return BatchingDecision(mode=batching, reason="asked for")
