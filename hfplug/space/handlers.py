"""What happens when somebody presses something on the first tab. Each handler gives new values for parts of the page.

Names of parts are those of the layout. The answers of a run are looked at a few times a second, however fast tokens
come; a run ends early when its Stop button is pressed or its tab is closed.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from hfplug.comparison.quantities import count, seconds
from hfplug.errors import ServingError
from hfplug.space.asking import Asking, asking_for
from hfplug.space.columns import BASE, Column, method_label
from hfplug.space.opened import ANY_METHOD, OpenSpace
from hfplug.space.permalinks import DECODING, Link, decode_link, encode_link
from hfplug.space.results import run_csv, run_json_text, run_markdown
from hfplug.space.runs import Running
from hfplug.space.session import Run, Session, Sessions
from hfplug.space.view import Names, columns_html, notice_html
from hfplug.space.votes import NEITHER, TIE
from hfplug.space.wiring import notice_of

LOOK_EVERY_SECONDS = 0.12
DECODING_PARTS = ("max_new_tokens", "temperature", "top_p", "repetition_penalty", "num_beams", "seed")
NO_EXAMPLE = ""
Values = Mapping[str, Any]
Update = dict[str, Any]


class Handlers:
    """The handlers of one Space.

    Args:
        space: What they act on. Sessions and runs in progress are kept by the tab that they belong to.
    """

    def __init__(self, space: OpenSpace) -> None:
        self.space = space
        self.sessions = Sessions()
        self._running: dict[str, Running] = {}
        self._lock = threading.Lock()

    # ----------------------------------------------------------------------------------------------- opening

    def load(self, values: Values, request: gr.Request) -> Update:
        """A tab is opened: an address may name an example, columns and settings."""
        space, tasks = self.space, self.space.tasks()
        link, notes = decode_link(
            dict(request.query_params),
            examples=[example.id for example in space.examples],
            variants=[info.name for info in space.variants()],
            tasks=tasks,
        )
        task = link.task or next(iter(tasks))
        update = self._choices(task, ANY_METHOD, ())
        if link.variants:
            update["variants"] = gr.update(choices=update["variants"]["choices"], value=list(link.variants))
        if link.task:
            update["task"] = link.task
        if link.example:
            update |= {"example": link.example, **self._example(link.example)}
        settings = {**link.decoding, **({} if link.seed is None else {"seed": link.seed})}
        ranges = slider_ranges(space)
        for name, value in settings.items():
            if name in DECODING_PARTS:
                low, high, _ = ranges.get(name, (value, value, 0))
                update[name] = min(max(value, low), high)
        if link.blind:
            update["blind"] = link.blind == "on"
        if notes:
            update["status"] = notice_html("warning", " ".join(notes))
        return update

    def pick_example(self, values: Values, request: gr.Request) -> Update:
        """An example is picked: its dialogue and what a person wrote."""
        return self._example(values["example"])

    def filter_variants(self, values: Values, request: gr.Request) -> Update:
        """A task or a method is chosen: the columns that fit."""
        return self._choices(values["task"], values["method"], self.sessions.of(_tab(request)).added)

    # --------------------------------------------------------------------------------------------- comparing

    async def compare(self, values: Values, request: gr.Request) -> AsyncIterator[Update]:
        """Ask the chosen columns and show them as they come."""
        asking = await asyncio.to_thread(self._asking, values)
        began, tab = time.perf_counter(), _tab(request)
        running = await asyncio.to_thread(self.space.ask, asking)
        with self._lock:
            earlier, self._running[tab] = self._running.get(tab), running
        if earlier is not None:
            earlier.cancel()
        ready = {"compare": gr.update(interactive=True), "stop": gr.update(interactive=False)}
        try:
            yield {
                "compare": gr.update(interactive=False),
                "stop": gr.update(interactive=True),
                "vote_box": gr.update(visible=False),
                "export_box": gr.update(visible=False),
            }
            async for update in self._followed(asking, running):
                yield update
            run = asking.run(running.columns())
            if run.blind == "open" and not any(column.text.strip() for column in run.columns):
                run = run.revealed(None)  # there is nothing to vote on
            session = self.sessions.change(tab, lambda session: session.with_run(run))
            shown = await asyncio.to_thread(self._shown, session, run)
            yield {**shown, **ready, "status": _finished(asking, run, time.perf_counter() - began)}
        except Exception as error:
            yield {**ready, "status": notice_of(error)}
        finally:
            running.cancel()
            with self._lock:
                if self._running.get(tab) is running:
                    del self._running[tab]

    async def _followed(self, asking: Asking, running: Running) -> AsyncIterator[Update]:
        """The columns each time that they have changed, until all have ended."""
        names: Names = "hidden" if asking.blind == "on" else "shown"
        last: tuple[Column, ...] = ()
        while True:
            columns = running.columns()
            if columns != last:
                shown = await asyncio.to_thread(columns_html, columns, names=names)
                yield {"columns": shown, "status": notice_html("info", _progress(asking, columns))}
            if all(column.finished for column in columns):
                return
            last = columns
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    def stop(self, values: Values, request: gr.Request) -> Update:
        """Stop the run of this tab; its columns keep what they have."""
        self.leave(request)
        return {"stop": gr.update(interactive=False)}

    def leave(self, request: gr.Request) -> None:
        """Stop the run of a tab, which may be closing."""
        with self._lock:
            running = self._running.get(_tab(request))
        if running is not None:
            running.cancel()

    # ------------------------------------------------------------------------------------- voting and history

    def vote(self, values: Values, request: gr.Request) -> Update:
        """Take the vote of a blind round and show the names."""
        tab = _tab(request)
        session = self.sessions.of(tab)
        run = session.shown
        if run is None or run.blind != "open":
            raise ServingError("There is no blind round to vote on.", fix="Compare with the blind mode switched on.")
        if not values["choice"]:
            raise ServingError("Nothing is chosen yet.", fix="Choose an answer, or one of the last two.")
        revealed, kept = self.space.vote(run, values["choice"], session.id)
        session = self.sessions.change(tab, lambda session: session.with_run(revealed))
        return {
            **self._shown(session, revealed),
            "vote_status": "",
            "status": notice_html("good", f"{_verdict(revealed)} {kept}"),
        }

    def show_run(self, values: Values, request: gr.Request) -> Update:
        """An earlier run is chosen from the history: show it again, with what was asked."""
        tab = _tab(request)
        run = self.sessions.of(tab).run(values["history"] or "")
        if run is None:
            raise ServingError("That run is no longer remembered.", fix="Compare again.")
        session = self.sessions.change(tab, lambda session: replace(session, shown=run))
        return {
            **self._shown(session, run),
            "dialogue": run.dialogue,
            "reference": "\n".join(run.references),
            "example": run.example or NO_EXAMPLE,
            "status": notice_html("info", f"An earlier run of this session, {run.at[11:16]} UTC."),
        }

    def link(self, values: Values, request: gr.Request) -> Update:
        """The address of what the form shows, as a query; the page puts its own address before it."""
        asking = self._asking(values, blind="off")
        if asking.example is None:
            raise ServingError(
                "A link leads to an example; this dialogue is your own, and is kept nowhere.", fix="Pick an example."
            )
        decoding = dict(asking.decoding)
        seed = decoding.pop("seed", None)
        link = Link(
            example=asking.example,
            variants=tuple(name for name in asking.names if name not in self.sessions.of(_tab(request)).added),
            task=asking.task,
            decoding={name: value for name, value in decoding.items() if name in DECODING},
            seed=None if seed is None else int(seed),
            blind="on" if values["blind"] else None,
        )
        return {"link": "?" + encode_link(link), "link_status": ""}

    # ------------------------------------------------------------------------------------------------ adding

    async def add(self, values: Values, request: gr.Request) -> AsyncIterator[Update]:
        """Pull an adapter by repo id, check it, and offer it as a column of this tab."""
        repo_id = (values["repo_id"] or "").strip()
        yield {
            "add_status": notice_html(
                "info", f"Fetching {repo_id} and checking it against the base…" if repo_id else ""
            ),
            "add": gr.update(interactive=False),
        }
        try:
            info, notes = await asyncio.to_thread(self.space.add, repo_id, (values["revision"] or "").strip() or None)
        except Exception as error:
            yield {"add_status": notice_of(error), "add": gr.update(interactive=True)}
            return
        changed = self.sessions.change(
            _tab(request), lambda session: replace(session, added=tuple(dict.fromkeys((*session.added, info.name))))
        )
        added, task, tasks = changed.added, values["task"], self.space.tasks(changed.added)
        if info.task is not None and info.task.name != task:
            task = info.task.name  # else the new column would not be among those offered
        offered = self._choices(task, ANY_METHOD, added)
        chosen = list(dict.fromkeys((*(values["variants"] or ()), info.name)))
        names = [name for _, name in offered["variants"]["choices"]]
        yield {
            **offered,
            "task": gr.update(choices=list(tasks), value=task),
            "method": gr.update(choices=[ANY_METHOD, *self.space.methods(added)], value=ANY_METHOD),
            "variants": gr.update(
                choices=offered["variants"]["choices"], value=[name for name in chosen if name in names]
            ),
            "add_status": notice_html("good", _added(self.space.source_of(info.name) or info.name, info))
            + "".join(notice_html("warning", note) for note in (info.banner or "", *notes)),
            "add": gr.update(interactive=True),
        }

    # ------------------------------------------------------------------------------------------------- parts

    def _asking(self, values: Values, blind: str | None = None) -> Asking:
        hidden = blind or ("on" if values["blind"] else "off")
        return asking_for(
            self.space,
            names=values["variants"] or (),
            dialogue=values["dialogue"] or "",
            references=[values["reference"] or ""],
            task=values["task"],
            decoding={name: values[name] for name in DECODING_PARTS},
            blind="on" if hidden == "on" else "off",
        )

    def _choices(self, task: str | None, method: str | None, added: Sequence[str]) -> Update:
        offered = self.space.offered(task=task, method=method, added=added)
        choices = [(_choice_label(info), info.name) for info in offered]
        ready = [info.name for info in offered if info.state != "refused"]
        return {"variants": gr.update(choices=choices, value=ready)}

    def _example(self, example_id: str | None) -> Update:
        example = next((one for one in self.space.examples if one.id == example_id), None)
        if example is None:
            return {}
        reference = example.references[0] if example.references else ""
        return {"dialogue": example.dialogue, "reference": reference}

    def _shown(self, session: Session, run: Run) -> Update:
        """The parts that show a run, whatever led to it."""
        hidden = run.blind == "open"
        votable = hidden and any(column.text for column in run.columns)
        choices = [*((label, label) for label in run.labels), ("All equally good", TIE), ("None is good", NEITHER)]
        history = [(earlier.title(), earlier.id) for earlier in reversed(session.runs)]
        return {
            "columns": columns_html(
                run.columns,
                names="hidden" if hidden else "shown",
                dialogue=run.dialogue,
                labels=run.labels if run.blind == "revealed" else (),
            ),
            "vote_box": gr.update(visible=votable),
            "choice": gr.update(choices=choices, value=None),
            "export_box": gr.update(visible=not hidden),
            "export_json": "" if hidden else run_json_text(run),
            "export_csv": "" if hidden else run_csv(run),
            "export_md": "" if hidden else run_markdown(run),
            "history": gr.update(choices=history, value=None if hidden else run.id, visible=bool(history)),
            "history_empty": gr.update(visible=not history),
        }


def slider_ranges(space: OpenSpace) -> dict[str, tuple[float, float, float]]:
    """What the sliders of the decoding settings can be set to: name to least, most and step."""
    return {
        "max_new_tokens": (1, space.config.limits.max_new_tokens, 1),
        "temperature": (0, 2, 0.1),
        "top_p": (0.05, 1, 0.05),
        "repetition_penalty": (1, 2, 0.05),
        "num_beams": (1, 8, 1),
    }


def _tab(request: gr.Request) -> str:
    return request.session_hash or ""


def _progress(asking: Asking, columns: Sequence[Column]) -> str:
    done = sum(column.finished for column in columns)
    if asking.blind == "on":
        return (
            f"{len(columns)} columns are being written. They are shown together, as a fast one would give itself away."
        )
    if not done and all(column.state == "waiting" for column in columns):
        return f"{len(columns)} columns are asked; the first words come in a moment."
    return f"{done} of {len(columns)} columns have finished."


def _finished(asking: Asking, run: Run, took: float) -> str:
    columns = run.columns
    stopped = any(column.state == "stopped" for column in columns)
    text = "Stopped; what was written so far is below." if stopped else f"Finished in {seconds(took, unit=True)}."
    if run.blind == "open":
        text += " Which answer is best? Vote below to see who wrote what."
    if asking.left_out:
        text += f" Left out of the blind round, because a column there must be what it says: {len(asking.left_out)}."
    if all(column.state == "failed" for column in columns):
        return notice_html("error", "No column could answer; each says why.")
    return notice_html("info" if stopped or run.blind == "open" else "good", text)


def _verdict(run: Run) -> str:
    if run.choice in (TIE, NEITHER):
        return "You preferred none of them." if run.choice == NEITHER else "You found them equally good."
    at = [column.name for column in run.columns].index(run.choice or "")
    return f"You chose {run.labels[at]}: it is {run.choice}."


def _choice_label(info: Any) -> str:
    if info.kind == BASE:
        return f"{info.name} (untouched)" if info.state != "refused" else f"{info.name} (not shown)"
    method = method_label(info.method, info.kind)
    about = [] if method == info.name.replace("_", " ") else [method]
    about += [] if info.trainable_parameters is None else [f"{count(info.trainable_parameters)} trained"]
    about += ["not shown"] if info.state == "refused" else []
    return f"{info.name} ({', '.join(about)})" if about else info.name


def _added(name: str, info: Any) -> str:
    return f"{name} was checked and is a column of this tab now: {method_label(info.method, info.kind)}."
