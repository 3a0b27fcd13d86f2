"""The page around the columns: its heading, what could not be loaded, its theme, and the few lines of script."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfplug.space.closed_routes import ClosedRoutes
from hfplug.space.view import escaped, notice_html

if TYPE_CHECKING:
    from hfplug.space.opened import OpenSpace

# A text that is in the page already becomes a file: nothing is written on the server, and nobody else can ask for it.
_DOWNLOAD = """(text) => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: '%s;charset=utf-8'}));
  link.download = 'comparison.%s';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}"""
DOWNLOAD = {
    "json": _DOWNLOAD % ("application/json", "json"),
    "csv": _DOWNLOAD % ("text/csv", "csv"),
    "md": _DOWNLOAD % ("text/markdown", "md"),
}
COPY = """async (text) => {
  const button = document.querySelector('#hf-copy');
  let words = 'Copied';
  try { await navigator.clipboard.writeText(text); } catch { words = 'The browser does not allow it'; }
  const before = button.textContent;
  button.textContent = words;
  setTimeout(() => { button.textContent = before; }, 1500);
}"""
FULL_LINK = "(query) => query.startsWith('?') ? location.origin + location.pathname + query : query"


def header_html(space: OpenSpace) -> str:
    """The heading: what this is, which base, whether it was proved untouched, and what could not be loaded."""
    infos = space.service.variants()
    missing = "".join(
        notice_html("warning", f"The column {one.name} is not here: {one.reason}") for one in space.not_loaded
    )
    if len(infos) == 1 and not space.not_loaded:
        missing += notice_html(
            "info",
            "There is only the untouched base, because no adapter is named in the settings and none was found.",
            "Type: hfplug demo (three minutes). Then start this again in the same folder, or add one by its repo id.",
        )
    return (
        f'<header class="hf-header"><h1>{escaped(space.config.title)}</h1>'
        f"<p>One base model and what was tuned on it, answering the same dialogue side by side. Base: "
        f"<b>{escaped(base_name(space))}</b>. {_proof(space)}</p>{missing}</header>"
    )


def adding_html(space: OpenSpace) -> str:
    """What may be added, in a sentence."""
    if space.config.add_adapters == "off":
        return '<p class="hf-small">This Space shows the adapters that its owner chose, and takes no others.</p>'
    owners = f" of {escaped(', '.join(space.config.allowed_owners))}" if space.config.allowed_owners else ""
    return (
        f'<p class="hf-small">Public adapters{owners} for this base, as safetensors. Each is checked before it is '
        "shown, and appears in this tab only.</p>"
    )


def base_name(space: OpenSpace) -> str:
    """The base as people call it: a repo id, or the name of a folder and not where it lies."""
    if space.config.base == "built-in":
        return "the built-in tiny T5"
    name, commit = str(space.service.base.name), space.service.base.commit
    name = Path(name).name if Path(name).is_dir() else name
    return f"{name} at commit {commit[:7]}" if commit else name


def _proof(space: OpenSpace) -> str:
    proof = getattr(space.service, "base_proof", None)
    if proof is None:
        return ""
    if proof.verdict == "proved":
        return '<span class="hf-badge hf-good">Proved untouched</span>'
    return '<span class="hf-badge hf-bad">NOT proved untouched: its column is not shown</span>'


def launch_settings(*, css: Path) -> dict[str, Any]:
    """Settings of gradio's ``launch``: our look, fonts of the visitor's own machine, and nothing served but the page.

    Args:
        css: The file with the look.
    """
    import gradio as gr
    from starlette.middleware import Middleware

    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Liberation Sans", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="md",
        font=fonts,
        font_mono=["ui-monospace", "SFMono-Regular", "Consolas", "Liberation Mono", "monospace"],
    ).set(
        # Gradio's own greys are below the contrast of 4.5 that WCAG 2.2 asks for (1.4.3).
        body_text_color_subdued="#555c66",
        body_text_color_subdued_dark="#a9b0ba",
        input_placeholder_color="#5b6472",
        input_placeholder_color_dark="#a9b0ba",
        # And an empty box has to be seen (1.4.11).
        checkbox_border_color="#79818c",
        checkbox_border_color_dark="#a9b0ba",
    )
    return {
        "theme": theme,
        "css_paths": css,
        "footer_links": ["api"],
        "share": False,
        "ssr_mode": False,
        "mcp_server": False,
        "run_history": False,
        "enable_monitoring": False,
        # Nobody has anything to upload here, and nothing of this machine is to be read.
        "app_kwargs": {"middleware": [Middleware(ClosedRoutes)]},
        "max_file_size": 1,
        "allowed_paths": [],
        "blocked_paths": [str(Path.cwd()), tempfile.gettempdir()],
    }
