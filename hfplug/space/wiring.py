"""From handlers that speak of parts by name to what gradio wants: positions for values in, components for values out.

A handler takes the values of the form and the request, and gives new values for some parts. What goes wrong in it is
turned into a sentence for the part that shows notices: gradio's own message would name a class of Python. For the same
reason values come as the browser sent them (``preprocess=False``): a number out of range is our handler's to refuse.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from hfplug.space.view import notice_html
from hfplug.space.words import for_people


def connect(
    listeners: Sequence[Callable[..., Any]],
    handler: Callable[..., Any],
    parts: Mapping[str, gr.components.Component],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    notice: str,
    **settings: Any,
) -> list[Any]:
    """Let events call a handler.

    Args:
        listeners: E.g. ``[button.click, box.submit]``.
        handler: ``handler(values, request)`` gives a mapping from part to value, at once or, as an asynchronous
            generator, again and again.
        parts: Every part of the page by name.
        inputs: Parts whose values the handler gets.
        outputs: Parts that it may change.
        notice: The part in which errors are shown; one of ``outputs``.
        settings: Passed on to the listener.

    Returns:
        What the listeners gave.
    """
    settings = {
        "api_visibility": "private",
        "show_progress": "hidden",
        "concurrency_limit": None,
        "preprocess": False,
        **settings,
    }
    function = _adapted(handler, parts, inputs, notice)
    ins, outs = [parts[name] for name in inputs], [parts[name] for name in outputs]
    return [listener(function, inputs=ins, outputs=outs, **settings) for listener in listeners]


def notice_of(error: BaseException) -> str:
    """An error as a notice: our own are sentences already, of others only that they happened."""
    return notice_html("error", for_people(error))


def _adapted(
    handler: Callable[..., Any], parts: Mapping[str, Any], inputs: Sequence[str], notice: str
) -> Callable[..., Any]:
    def placed(found: Mapping[str, Any]) -> dict[Any, Any]:
        return {parts[name]: value for name, value in found.items()}

    if inspect.isasyncgenfunction(handler):

        async def stream(request: gr.Request, *values: Any) -> Any:
            try:
                async for found in handler(dict(zip(inputs, values, strict=True)), request):
                    yield placed(found)
            except Exception as error:
                yield placed({notice: notice_of(error)})

        return stream

    def once(request: gr.Request, *values: Any) -> Any:
        try:
            return placed(handler(dict(zip(inputs, values, strict=True)), request))
        except Exception as error:
            return placed({notice: notice_of(error)})

    return once
