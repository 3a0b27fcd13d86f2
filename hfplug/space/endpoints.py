"""The endpoints for programs (``gradio_client`` or plain HTTP): named, documented, and answering in plain JSON.

They do what the page does and hold to the same limits. An error is gradio's ``AppError`` with our sentence in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import gradio as gr

from hfplug.errors import SpaceError
from hfplug.space.asking import Asking, asking_for
from hfplug.space.columns import Column
from hfplug.space.opened import OpenSpace
from hfplug.space.results import run_json
from hfplug.space.runs import Running
from hfplug.space.words import for_people

LOOK_EVERY_SECONDS = 0.1


def add_endpoints(space: OpenSpace) -> None:
    """Add the endpoints to the app that is being laid out.

    Args:
        space: What they act on.
    """
    answering = Answering(space)
    for name, function in (
        ("compare", answering.compare),
        ("compare_stream", answering.compare_stream),
        ("variants", answering.variants),
        ("examples", answering.examples),
        ("add_adapter", answering.add_adapter),
        ("vote", answering.vote),
        ("report", answering.report),
    ):
        description = " ".join((function.__doc__ or "").split())
        gr.api(_told(function), api_name=name, api_description=description, concurrency_limit=None)


class Answering:
    """One method an endpoint; its docstring is what the page of the API says of it."""

    def __init__(self, space: OpenSpace) -> None:
        self.space = space

    def compare(
        self,
        dialogue: str,
        variants: list[str] | None = None,
        reference: str = "",
        task: str | None = None,
        blind: Literal["off", "on"] = "off",
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        repetition_penalty: float | None = None,
        num_beams: int | None = None,
        seed: int = 0,
    ) -> dict:
        """Ask several variants the same and wait for all of them. `variants`: names from /variants, all if left out.
        `reference`: what a person wrote, for ROUGE. `task`: whose prompt the base is asked with. `blind` "on" shuffles
        the columns and hides the names until /vote is called with the `id`. A decoding setting that is left out is as
        the task has it; temperature 0 takes the likeliest token. Gives `id`, `dialogue`, `decoding` and `columns`:
        for each `variant`, `method`, `trainable_parameters`, `disk_bytes`, `state`, `text`, `tokens`,
        `first_token_seconds`, `tokens_per_second`, `rouge` (0 to 1), `banner` and `problem`.
        """
        decoding = _decoding(max_new_tokens, temperature, top_p, top_k, repetition_penalty, num_beams, seed)
        return list(self._compared(dialogue, variants, reference, task, blind, decoding))[-1]

    def compare_stream(
        self,
        dialogue: str,
        variants: list[str] | None = None,
        reference: str = "",
        task: str | None = None,
        blind: Literal["off", "on"] = "off",
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        repetition_penalty: float | None = None,
        num_beams: int | None = None,
        seed: int = 0,
    ) -> Iterator[dict]:
        """As /compare, giving what there is a few times a second while the columns are being written; the last is
        whole. Iterate over `client.submit(…, api_name="/compare_stream")`; its `cancel()` stops the answers.
        """
        decoding = _decoding(max_new_tokens, temperature, top_p, top_k, repetition_penalty, num_beams, seed)
        yield from self._compared(dialogue, variants, reference, task, blind, decoding)

    def variants(self) -> list:
        """The columns of this Space: for each `name`, `kind` (base, full or adapter), `method`, `task`,
        `trainable_parameters`, `trainable_share`, `disk_bytes`, `source` (repo and commit, or null), `state` and
        `banner` (why it is not what it says, or null).
        """
        return [self._described(info) for info in self.space.variants()]

    def examples(self) -> list:
        """The dialogues to pick from: for each `id`, `title`, `dialogue` and `references`."""
        return [
            {"id": one.id, "title": one.title, "dialogue": one.dialogue, "references": list(one.references)}
            for one in self.space.examples
        ]

    def add_adapter(self, repo_id: str, revision: str | None = None) -> dict:
        """Fetch an adapter for this base from the Hub, check it and load it: `repo_id` is owner/name, `revision` a
        branch, tag or commit. Only safetensors, only what this Space allows. Gives it as /variants does, with `notes`;
        pass its `name` to /compare.
        """
        info, notes = self.space.add(repo_id, revision or None)
        return {**self._described(info), "notes": list(notes)}

    def vote(self, run: str, choice: str) -> dict:
        """Vote in a blind round of /compare and learn the names. `run`: its `id`. `choice`: the label of a column
        ("Answer A"), or "tie", or "neither". Gives `choice` (a variant), `columns` (label to variant) and `kept`,
        a sentence on whether the vote is kept.
        """
        kept_run = self.space.rounds.look(run)
        kept_run.variant_behind(choice)  # a misspelt label must not use up the round
        revealed, kept = self.space.vote(self.space.rounds.take(run), choice)
        names = [column.name for column in revealed.columns]
        return {"choice": revealed.choice, "columns": dict(zip(revealed.labels, names, strict=True)), "kept": kept}

    def report(self) -> dict:
        """The study that this Space shows, as its report.json: base, data, and every variant with its metrics,
        intervals, tests and the five trade-offs.
        """
        if self.space.report is None:
            raise SpaceError("This Space shows no study.", fix="Name its report in the settings.")
        return self.space.report.to_json()

    # ------------------------------------------------------------------------------------------------- parts

    def _compared(
        self,
        dialogue: str,
        variants: list[str] | None,
        reference: str,
        task: str | None,
        blind: Literal["off", "on"],
        decoding: dict[str, Any],
    ) -> Iterator[dict]:
        if blind not in ("on", "off"):
            raise SpaceError("blind is 'on' or 'off'.")
        names = variants if variants else [info.name for info in self.space.variants() if info.state != "refused"]
        asking = asking_for(
            self.space,
            names=[str(name) for name in names],
            dialogue=str(dialogue),
            references=[str(reference or "")],
            task=task,
            decoding=decoding,
            blind=blind,
        )
        running = self.space.ask(asking)
        try:
            yield from self._followed(asking, running)
        finally:
            running.cancel()

    def _followed(self, asking: Asking, running: Running) -> Iterator[dict]:
        run = asking.run(())
        last: tuple[Column, ...] = ()
        while True:
            columns = running.columns()
            if columns != last:
                run = asking.run(columns, id=run.id)
                last = columns
                if all(column.finished for column in columns):
                    break
                yield run_json(run)
            time.sleep(LOOK_EVERY_SECONDS)
        if run.blind == "open":
            self.space.rounds.put(run)
        yield run_json(run)

    def _described(self, info: Any) -> dict[str, Any]:
        return {
            "name": info.name,
            "kind": info.kind,
            "method": info.method or None,
            "task": info.task.name if info.task else None,
            "trainable_parameters": info.trainable_parameters,
            "trainable_share": info.trainable_share,
            "disk_bytes": info.disk_bytes,
            "source": self.space.source_of(info.name) or None,
            "state": info.state,
            "banner": info.banner,
        }


def _decoding(
    max_new_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    repetition_penalty: float | None,
    num_beams: int | None,
    seed: int | None,
) -> dict[str, Any]:
    return {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "repetition_penalty": repetition_penalty,
        "num_beams": num_beams,
        "seed": seed,
    }


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same endpoint, with every error as a sentence for whoever called."""
    import functools
    import inspect

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stream(*args: Any, **kwargs: Any) -> Any:
            try:
                yield from function(*args, **kwargs)
            except Exception as error:
                raise gr.Error(for_people(error), print_exception=False) from None

        return stream

    @functools.wraps(function)
    def once(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise gr.Error(for_people(error), print_exception=False) from None

    return once
