"""The comparison Space: what stands where. What happens when something is pressed is in ``hfplug.space``.

python app.py            as on Hugging Face Spaces, with the settings of space.json beside it
hfplug space serve       the same on this machine
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

with contextlib.suppress(ImportError):
    import spaces  # noqa: F401  (ZeroGPU wants to be imported before torch)

import gradio as gr

from hfplug.space.config import SpaceConfig, read_config
from hfplug.space.endpoints import add_endpoints
from hfplug.space.handlers import ANY_METHOD, DECODING_PARTS, NO_EXAMPLE, Handlers, slider_ranges
from hfplug.space.opened import OpenSpace, open_space
from hfplug.space.page import COPY, DOWNLOAD, FULL_LINK, adding_html, header_html, launch_settings
from hfplug.space.study_tab import study_html
from hfplug.space.tradeoffs import tradeoffs_html
from hfplug.space.view import columns_html
from hfplug.space.wiring import connect
from hfplug.space.zero_gpu import announce

CSS = Path(__file__).with_name("space.css")
FORM = ("dialogue", "reference", "variants", "task", "blind", *DECODING_PARTS)
SHOWN = (
    "columns", "status", "vote_box", "choice", "export_box", "export_json", "export_csv", "export_md",
    "history", "history_empty",
)  # fmt: skip


def create_app(config: SpaceConfig, service: Any = None) -> gr.Blocks:
    """The page and the named endpoints.

    Args:
        config: The settings.
        service: A ``hfplug.Service`` with variants on it; None to load those of the settings.

    Returns:
        The app; ``launch(app)`` starts it with its own look.
    """
    return lay_out(open_space(config, service))


def lay_out(space: OpenSpace) -> gr.Blocks:
    """The page and the named endpoints of a Space that is open already."""
    with gr.Blocks(title=space.config.title, analytics_enabled=False, fill_width=True) as app:
        gr.HTML(header_html(space), elem_id="hf-header")
        with gr.Tabs(elem_id="hf-tabs"):
            with gr.Tab("Compare", id="compare"):
                parts = _compare_tab(space)
            with gr.Tab("Study", id="study"):
                gr.HTML(study_html(space), elem_id="hf-study")
            with gr.Tab("Trade-offs", id="trade-offs"):
                gr.HTML(tradeoffs_html(space), elem_id="hf-trade-offs")
        _wire(app, space, parts)
        add_endpoints(space)
    app.queue(default_concurrency_limit=None, api_open=False)
    return app


def launch(app: gr.Blocks, **settings: Any) -> Any:
    """Start the app with its look, and with nothing of this machine served but the page itself.

    Args:
        app: What ``create_app`` gave.
        settings: Of gradio's ``launch``, e.g. ``server_port=7861``; they go before ours.
    """
    return app.launch(**{**launch_settings(css=CSS), **settings})


def _compare_tab(space: OpenSpace) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Row(equal_height=False, elem_classes="hf-form"):
        with gr.Column(scale=3, min_width=320):
            parts |= _question(space)
        with gr.Column(scale=2, min_width=320):
            parts |= _choices(space)
    with gr.Row(elem_classes="hf-actions"):
        parts["compare"] = gr.Button("Compare", variant="primary", elem_id="hf-compare", scale=3)
        parts["stop"] = gr.Button("Stop", variant="stop", interactive=False, elem_id="hf-stop", scale=1)
    parts["status"] = gr.HTML("", elem_id="hf-status")
    parts["columns"] = gr.HTML(columns_html(()), elem_id="hf-results")
    with gr.Group(visible=False, elem_id="hf-vote") as vote_box:
        parts["choice"] = gr.Radio([], label="Which answer is best?", elem_id="hf-choice")
        parts["vote"] = gr.Button("Vote and show the names", variant="primary", elem_id="hf-vote-button")
        parts["vote_status"] = gr.HTML("", elem_id="hf-vote-status")
    parts["vote_box"] = vote_box
    parts |= _results()
    return parts


def _question(space: OpenSpace) -> dict[str, Any]:
    examples = [("Your own dialogue", NO_EXAMPLE), *((example.title, example.id) for example in space.examples)]
    return {
        "example": gr.Dropdown(examples, value=NO_EXAMPLE, label="Example", elem_id="hf-example", filterable=False),
        "dialogue": gr.Textbox(
            label="Dialogue",
            placeholder="Paste a dialogue here, one turn a line, or pick an example above.",
            lines=9,
            max_lines=16,
            elem_id="hf-dialogue",
            autoscroll=False,
        ),
        "reference": gr.Textbox(
            label="What a person would write (optional; answers are then scored against it with ROUGE)",
            lines=2,
            max_lines=6,
            elem_id="hf-reference",
        ),
    }


def _choices(space: OpenSpace) -> dict[str, Any]:
    tasks, methods = list(space.tasks()), space.methods()
    parts: dict[str, Any] = {}
    with gr.Row():
        parts["task"] = gr.Dropdown(
            tasks, value=tasks[0], label="Task", elem_id="hf-task", filterable=False, min_width=120
        )
        parts["method"] = gr.Dropdown(
            [ANY_METHOD, *methods],
            value=ANY_METHOD,
            label="Method",
            elem_id="hf-method",
            filterable=False,
            min_width=120,
        )
    parts["variants"] = gr.CheckboxGroup([], label="Columns", elem_id="hf-variants")
    parts["blind"] = gr.Checkbox(
        label="Blind: hide the names, shuffle the columns, vote, then see who wrote what", elem_id="hf-blind"
    )
    with gr.Accordion("Decoding", open=False, elem_id="hf-decoding"):
        parts |= _decoding(space)
    with gr.Accordion("Add an adapter from the Hub", open=False, elem_id="hf-add"):
        parts |= _adding(space)
    return parts


def _decoding(space: OpenSpace) -> dict[str, Any]:
    ranges, parts = slider_ranges(space), {}
    usual = next(iter(space.tasks().values())).decoding.get("max_new_tokens") or ranges["max_new_tokens"][1]

    def slider(name: str, value: float, label: str) -> None:
        low, high, step = ranges[name]
        parts[name] = gr.Slider(low, high, value=min(value, high), step=step, label=label, elem_id=f"hf-{name}")

    with gr.Row():
        slider("max_new_tokens", usual, "Most tokens of an answer")
        slider("temperature", 0, "Temperature (0: the likeliest)")
    with gr.Row():
        slider("top_p", 1, "Top p")
        slider("repetition_penalty", 1, "Repetition penalty")
    with gr.Row():
        slider("num_beams", 1, "Beams (no streaming above 1)")
        parts["seed"] = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="hf-seed")
    return parts


def _adding(space: OpenSpace) -> dict[str, Any]:
    state = {"interactive": space.config.add_adapters == "on"}
    gr.HTML(adding_html(space))
    return {
        "repo_id": gr.Textbox(label="Repo id", placeholder="owner/name", elem_id="hf-repo", **state),
        "revision": gr.Textbox(label="Revision (optional)", placeholder="main", elem_id="hf-revision", **state),
        "add": gr.Button("Check and add", elem_id="hf-add-button", **state),
        "add_status": gr.HTML("", elem_id="hf-add-status"),
    }


def _results() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Group(visible=False, elem_id="hf-export") as box, gr.Row():
        for kind, label in (("json", "JSON"), ("csv", "CSV"), ("md", "Markdown")):
            parts[f"export_{kind}"] = gr.Textbox(visible=False)
            button = gr.Button(f"Download {label}", size="sm", elem_id=f"hf-download-{kind}", min_width=120)
            button.click(None, parts[f"export_{kind}"], js=DOWNLOAD[kind], api_visibility="private")
        copy = gr.Button("Copy as Markdown", size="sm", elem_id="hf-copy", min_width=120)
        copy.click(None, parts["export_md"], js=COPY, api_visibility="private")
    parts["export_box"] = box
    with gr.Accordion("Link to this example", open=False, elem_id="hf-link-box"):
        with gr.Row():
            parts["link"] = gr.Textbox(
                label="Address of example, columns and settings",
                interactive=False,
                buttons=["copy"],
                elem_id="hf-link",
                scale=4,
            )
            parts["make_link"] = gr.Button("Make the link", elem_id="hf-make-link", scale=1)
        parts["link_status"] = gr.HTML("", elem_id="hf-link-status")
    with gr.Accordion("History of this session", open=False, elem_id="hf-history-box"):
        parts["history_empty"] = gr.HTML("<p>No run yet. History is kept in this tab only, and ends with it.</p>")
        parts["history"] = gr.Radio([], label="Show an earlier run again", visible=False, elem_id="hf-history")
    return parts


def _wire(app: gr.Blocks, space: OpenSpace, parts: dict[str, Any]) -> None:
    do = Handlers(space)

    def on(
        listeners: list[Any], handler: Any, inputs: Any, outputs: Any, notice: str = "status", **more: Any
    ) -> list[Any]:
        return connect(listeners, handler, parts, inputs=inputs, outputs=outputs, notice=notice, **more)

    on(
        [app.load], do.load, (),
        ("task", "variants", "example", "dialogue", "reference", "blind", "status", *DECODING_PARTS),
    )  # fmt: skip
    on([parts["example"].input], do.pick_example, ("example",), ("dialogue", "reference", "status"))
    filters = [parts["task"].input, parts["method"].input]
    on(filters, do.filter_variants, ("task", "method"), ("variants", "status"))
    start = [parts["compare"].click, parts["dialogue"].submit]
    on(start, do.compare, FORM, (*SHOWN, "compare", "stop"), trigger_mode="once")
    on([parts["stop"].click], do.stop, (), ("stop", "status"), queue=False)
    on([parts["vote"].click], do.vote, ("choice",), (*SHOWN, "vote_status"), notice="vote_status")
    on([parts["history"].input], do.show_run, ("history",), (*SHOWN, "dialogue", "reference", "example"))
    adding = [parts["add"].click, parts["repo_id"].submit]
    outputs = ("variants", "task", "method", "add_status", "add")
    on(adding, do.add, ("repo_id", "revision", "task", "variants"), outputs, notice="add_status")
    (made,) = on([parts["make_link"].click], do.link, FORM, ("link", "link_status"), notice="link_status")
    made.success(None, parts["link"], parts["link"], js=FULL_LINK, api_visibility="private")
    app.unload(do.leave)


def main() -> None:
    """Start the Space of the settings in this folder."""
    announce()
    launch(create_app(read_config()))


if __name__ == "__main__":
    main()
