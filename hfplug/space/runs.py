"""Asking several variants the same thing at once, and looking at how far each of them is.

The service answers in its own threads; here each answer is followed by a thread that only waits for pieces, so that a
page may look at all of them whenever it likes and never holds up a model.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hfplug.space.columns import Column, State, column_of, with_rouge
from hfplug.space.words import for_people

if TYPE_CHECKING:
    from hfplug.adapters.task import Task
    from hfplug.serving.asked import Answer, Asked
    from hfplug.serving.service import Service

_ENDS: dict[str, State] = {"stop": "done", "length": "length", "cancelled": "stopped"}


class Running:
    """A run that is being answered.

    Args:
        columns: Empty columns in the order in which they are shown.
        asked: What the service gave for those of them that it was asked for.
        references: What a person wrote, for ROUGE.
    """

    def __init__(self, columns: Sequence[Column], asked: dict[str, Asked], references: Sequence[str] = ()) -> None:
        self._lock = threading.Lock()
        self._columns = {column.name: column for column in columns}
        self._asked = asked
        self._references = tuple(references)
        for name in asked:
            threading.Thread(target=self._follow, args=(name,), name=f"hfplug-space-{name}", daemon=True).start()

    def columns(self) -> tuple[Column, ...]:
        """How far each column is now."""
        with self._lock:
            return tuple(self._columns.values())

    @property
    def finished(self) -> bool:
        """Whether every column has ended."""
        return all(column.finished for column in self.columns())

    def cancel(self) -> None:
        """Stop every answer that is not finished; their columns end as ``"stopped"`` with what they had."""
        for asked in self._asked.values():
            asked.cancel()

    def _follow(self, name: str) -> None:
        asked = self._asked[name]
        try:
            for piece in asked:
                self._change(name, state="writing", text=piece.text, tokens=piece.tokens)
            self._end(name, asked.result())
        except BaseException as error:
            self._change(name, state="failed", problem=for_people(error))

    def _end(self, name: str, answer: Answer) -> None:
        with self._lock:
            column = replace(
                self._columns[name],
                state=_ENDS[answer.ended],
                text=answer.text,
                tokens=answer.tokens,
                waited_seconds=answer.waited_seconds,
                first_token_seconds=answer.first_token_seconds,
                tokens_per_second=answer.tokens_per_second,
                truncated=answer.truncated,
            )
        column = with_rouge(column, self._references)
        with self._lock:
            self._columns[name] = column

    def _change(self, name: str, **values: object) -> None:
        with self._lock:
            self._columns[name] = replace(self._columns[name], **values)  # type: ignore[arg-type]


def start(
    service: Service,
    names: Sequence[str],
    dialogue: str,
    *,
    references: Sequence[str] = (),
    task: Task,
    decoding: Mapping[str, int | float] | None = None,
    sources: Mapping[str, str] | None = None,
) -> Running:
    """Ask the variants, all at once, so that they can share a pass.

    Args:
        service: The service that holds them.
        names: Which, in the order in which they are shown.
        dialogue: What to ask.
        references: What a person wrote; may be empty.
        task: Whose prompt to use for those that do not say what they were trained with: the base, an adapter that
            was made without hfplug, or one of another task.
        decoding: Settings of ``Decoding``; what is not in it is as the task has it.
        sources: Name of a variant to the repo and commit that it was read from.

    Returns:
        The run. A variant that the service refuses to show is a column that has failed, with the reason.

    Raises:
        ServingError: There is no variant of a name.
        QueueFullError: Too many requests wait.
        HfplugError: The dialogue is too long, or a setting is out of range.
    """
    from hfplug.serving.decoding import Decoding

    columns: list[Column] = []
    by_task: dict[str, tuple[Task, list[str]]] = {}
    for name in names:
        info = service.variant(name)
        column = column_of(info, (sources or {}).get(name, ""))
        if info.state == "refused":
            reason = info.banner or "The service does not show this variant."
            columns.append(replace(column, state="failed", problem=reason, banner=None))
            continue
        columns.append(column)
        own = info.task if info.task is not None and info.task.name == task.name else task
        by_task.setdefault(json.dumps(own.to_json(), sort_keys=True), (own, []))[1].append(name)
    settings = Decoding(**dict(decoding or {}))  # type: ignore[arg-type]  # checked by itself
    asked: dict[str, Asked] = {}
    try:
        for own, group in by_task.values():
            asked |= service.ask_all(group, dialogue, task=own, decoding=settings)
    except BaseException:
        for earlier in asked.values():
            earlier.cancel()
        raise
    return Running(columns, asked, references)
