"""A Space that has been opened: its settings, its service, its examples and votes, and what could not be loaded.

What the page and the named endpoints share. Nothing here knows gradio.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hfplug.errors import HfplugError, ServingError, did_you_mean
from hfplug.space.columns import BASE
from hfplug.space.runs import Running, start
from hfplug.space.session import BlindRounds, Run
from hfplug.space.words import for_people
from hfplug.space.zero_gpu import device

if TYPE_CHECKING:
    from hfplug.adapters.task import Task
    from hfplug.comparison.variants import Report
    from hfplug.serving.service import Service, VariantInfo
    from hfplug.space.asking import Asking
    from hfplug.space.ballot_box import BallotBox
    from hfplug.space.config import SpaceConfig
    from hfplug.space.examples import Example
    from hfplug.space.policy import Resolved
    from hfplug.space.votes import VoteFile

ANY_METHOD = "all methods"


@dataclass(frozen=True, kw_only=True)
class NotLoaded:
    """A variant of the settings that is not shown, and why."""

    name: str
    source: str
    reason: str


@dataclass(kw_only=True)
class OpenSpace:
    """One base in memory with the variants of the settings on it.

    Attributes:
        config: The settings.
        service: Answers for the base and every variant.
        examples: Dialogues to pick from.
        votes: Where votes go; None if they are not kept.
        report: The study to show, or None.
        report_problem: Why the study of the settings is not there, or ``""``.
        not_loaded: Variants of the settings that are not there.
        rounds: Blind rounds of the API that wait for their vote.
    """

    config: SpaceConfig
    service: Service
    examples: Sequence[Example] = ()
    votes: VoteFile | BallotBox | None = None
    report: Report | None = None
    report_problem: str = ""
    not_loaded: tuple[NotLoaded, ...] = ()
    rounds: BlindRounds = field(default_factory=BlindRounds)
    _sources: dict[str, str] = field(default_factory=dict, repr=False)
    _added: OrderedDict[str, None] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    # ------------------------------------------------------------------------------------------ what there is

    def variants(self, added: Sequence[str] = ()) -> tuple[VariantInfo, ...]:
        """The base, the variants of the settings, and of those that visitors added the named ones."""
        with self._lock:
            hidden = set(self._added) - set(added)
        return tuple(info for info in self.service.variants() if info.name not in hidden)

    def tasks(self, added: Sequence[str] = ()) -> dict[str, Task]:
        """The tasks that can be chosen, by name: those that the variants were trained on, else the demo's summary.

        Args:
            added: Adapters of visitors whose tasks count as well. They never change the prompt of a task that is
                there already.
        """
        found: dict[str, Task] = {}
        for info in self.variants(added):
            if info.task is not None:
                found.setdefault(info.task.name, info.task)
        if not found:
            from hfplug.demo.tasks import TASKS

            found = {"summary": TASKS["summary"]}
        return found

    def source_of(self, name: str) -> str:
        """The repo and commit that a variant was read from, or ``""`` for a folder."""
        return self._sources.get(name, "")

    def methods(self, added: Sequence[str] = ()) -> list[str]:
        """The methods of the variants, each once, in the order of the columns."""
        return list(dict.fromkeys(info.method for info in self.variants(added) if info.method))

    def offered(self, *, task: str | None, method: str | None, added: Sequence[str] = ()) -> list[VariantInfo]:
        """The variants that fit a task and a method: always the base, and an adapter that does not say its task."""
        return [
            info
            for info in self.variants(added)
            if info.kind == BASE
            or (
                (method in (None, ANY_METHOD) or info.method == method)
                and (task is None or info.task is None or info.task.name == task)
            )
        ]

    # ---------------------------------------------------------------------------------------------- asking

    def ask(self, asking: Asking) -> Running:
        """Ask the variants, each with the prompt that it was trained with.

        Raises:
            ServingError: There is nothing to ask, or no such variant or task.
            QueueFullError: Too many requests wait.
        """
        if not asking.dialogue.strip():
            raise ServingError("There is no dialogue yet.", fix="Paste one, or pick an example.")
        if not asking.names:
            raise ServingError("No column is chosen.", fix="Choose at least one variant.")
        with self._lock:
            for name in asking.names:
                if name in self._added:
                    self._added.move_to_end(name)
        return start(
            self.service,
            asking.names,
            asking.dialogue,
            references=asking.references,
            task=self._task(asking.task, asking.names),
            decoding=asking.decoding,
            sources=self._sources,
        )

    def _task(self, name: str | None, added: Sequence[str]) -> Task:
        known = self.tasks(added)
        if name is None:
            return next(iter(known.values()))
        if name not in known:
            raise ServingError(
                f"There is no task {name!r}.", fix=did_you_mean(name, known) or f"The tasks are {', '.join(known)}."
            )
        return known[name]

    # ---------------------------------------------------------------------------------------------- adding

    def add(self, repo_id: str, revision: str | None = None) -> tuple[VariantInfo, tuple[str, ...]]:
        """Pull an adapter, check it, and put it on the base.

        Returns:
            The variant, and what a visitor should know about it.

        Raises:
            HfplugError: It may not be added here, is not there, is not safe, or does not fit the base.
        """
        from hfplug.space.policy import resolve_variant

        resolved = resolve_variant(self.config, repo_id, revision)
        info = self.service.load(resolved.name, resolved.folder)
        with self._lock:
            self._sources[resolved.name] = source_words(resolved)
            self._added[resolved.name] = None
            self._added.move_to_end(resolved.name)
            old = list(self._added)[: max(0, len(self._added) - self.config.limits.added_variants)]
            for name in old:
                del self._added[name]
        for name in old:
            self.service.unload(name)
        return info, resolved.notes

    # ---------------------------------------------------------------------------------------------- voting

    def vote(self, run: Run, label: str, session: str | None = None) -> tuple[Run, str]:
        """Take the vote of a blind round.

        Args:
            run: The round.
            label: The answer that was best, or ``"tie"`` or ``"neither"``.
            session: A random word for the visit.

        Returns:
            The round with its names, and a sentence on whether the vote was kept.

        Raises:
            ServingError: There is no such answer in the round.
        """
        from hfplug.space.votes import Vote

        choice = run.variant_behind(label)
        revealed = run.revealed(choice)
        if self.votes is None:
            return revealed, "Votes are not kept here."
        names = [column.name for column in run.columns]
        vote = Vote(
            shown=tuple(names),
            choice=choice,
            example=run.example,
            task=run.task,
            decoding=run.decoding,
            commits={name: self._sources[name].partition("@")[2] for name in names if self._sources.get(name)},
            base=self.config.base,
            session=session or None,
            dialogue=run.dialogue,
            answers={column.name: column.text for column in run.columns},
        )
        try:
            self.votes.add(vote)
        except HfplugError as error:
            return revealed, for_people(error)
        return revealed, "Your vote was kept."

    def close(self) -> None:
        """Let go of the base and of the votes' file."""
        if self.votes is not None:
            self.votes.close()
        self.service.close()


def open_space(config: SpaceConfig, service: Service | None = None) -> OpenSpace:
    """Load the base and the variants of the settings.

    A variant that cannot be loaded does not stop the Space: it is left out, and the page says why.

    Args:
        config: The settings.
        service: A service to use; what is on it stays on it. None to load the base of the settings.

    Raises:
        HfplugError: The base, the examples or the place of the votes cannot be used.
    """
    from hfplug.space.ballot_box import open_votes
    from hfplug.space.examples import load_examples
    from hfplug.space.policy import resolve_own

    examples, votes = load_examples(config), open_votes(config)
    service = service or _service(config)
    known = {info.name for info in service.variants()}
    not_loaded, sources = [], {}
    for variant in config.variants:
        if variant.name in known:
            continue
        try:
            resolved = resolve_own(config, variant)
            service.load(variant.name, resolved.folder)
            sources[variant.name] = source_words(resolved)
        except Exception as error:
            not_loaded.append(NotLoaded(name=variant.name, source=variant.source, reason=for_people(error)))
    report, problem = _report(config)
    return OpenSpace(
        config=config,
        service=service,
        examples=examples,
        votes=votes,
        report=report,
        report_problem=problem,
        not_loaded=tuple(not_loaded),
        _sources=sources,
    )


def source_words(resolved: Resolved) -> str:
    """Where a variant came from, for people: ``"owner/name@1a2b3c4"``, or ``""`` for a folder."""
    if resolved.repo_id is None:
        return ""
    return resolved.repo_id + (f"@{resolved.commit[:7]}" if resolved.commit else "")


def _service(config: SpaceConfig) -> Service:
    from hfplug.serving.service import Limits, Service

    limits = Limits(**config.limits.for_service())
    return Service(config.base_source, revision=config.revision, device=device(), limits=limits)


def _report(config: SpaceConfig) -> tuple[Report | None, str]:
    """The study, and why it is not there: a study that cannot be read does not stop the Space."""
    from hfplug.comparison.report import read_report
    from hfplug.space.policy import resolve_report

    try:
        path = resolve_report(config)
        return (read_report(path) if path else None), ""
    except Exception as error:
        return None, for_people(error)
