"""What was seen in an adapter, as one HTML page that opens without a network, and as a folder of files."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from hfplug.adapters.atomic import write_json, write_text
from hfplug.adapters.inspect import Inspection
from hfplug.adapters.inspect_pair import Pair
from hfplug.adapters.inspect_pair_table import pair_blocks, pair_heading
from hfplug.adapters.inspect_table import Block, inspection_blocks, plain_line
from hfplug.adapters.one_step import built_at
from hfplug.comparison.drawing import Plot
from hfplug.comparison.inspect_plot import draw_panels
from hfplug.comparison.page import STYLE
from hfplug.errors import MissingExtraError

TEMPLATE = Path(__file__).with_name("inspect_template.html")
ROWS = 60  # of a table on the page; the JSON has all of them


def render_inspection_page(seen: Inspection | Pair, *, back: str | None = None) -> str:
    """The page: pictures, tables, and what cannot be known. Every text in it is escaped.

    Args:
        seen: What was seen.
        back: Address of the report that it belongs to.
    """
    plots, note = drawn(seen)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    if isinstance(seen, Pair):
        title, lines = f"{seen.names[0]} and {seen.names[1]}: side by side", pair_heading(seen)
    else:
        held = f", held against {seen.base}" if seen.against == "base" else ""
        title, lines = f"{seen.name}: a look inside", [f"{seen.method}, {seen.numbers:,} trained numbers{held}"]
    html = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=plain_line(title),
        lines=list(map(plain_line, lines)),
        style=Markup(STYLE.read_text(encoding="utf-8")),
        back=back,
        plots=[(plot, Markup(plot.svg)) for plot in plots],
        plots_note=note,
        blocks=blocks_of(seen),
    )
    return html.replace("\x00", "\ufffd")


def blocks_of(seen: Inspection | Pair, top: int = ROWS) -> list[Block]:
    """The tables, with what is not printable made visible."""
    blocks = pair_blocks(seen, top=top) if isinstance(seen, Pair) else inspection_blocks(seen, top=top)
    return [
        Block(
            title=block.title,
            rows=tuple(tuple(plain_line(cell) for cell in row) for row in block.rows),
            text_last=block.text_last,
            sentences=tuple(map(plain_line, block.sentences)),
        )
        for block in blocks
    ]


def drawn(seen: Inspection | Pair, key: str = "inspect") -> tuple[list[Plot], str]:
    """The pictures, or why there are none; as for :func:`hfplug.comparison.inspect_plot.draw_panels`."""
    try:
        plots = draw_panels(seen, key)
    except MissingExtraError as error:
        return [], str(error)
    return plots, "" if plots else "There is nothing to draw."


def write_inspection(seen: Inspection | Pair, place: Path) -> None:
    """Write ``inspection.json`` and ``inspection.html`` into a new folder, which is there whole or not at all.

    Args:
        seen: What was seen.
        place: From :func:`hfplug.adapters.one_step.place_for`.
    """
    page = render_inspection_page(seen)
    with built_at(place, "The inspection") as folder:
        write_json(folder / "inspection.json", seen.to_json())
        write_text(folder / "inspection.html", page)
