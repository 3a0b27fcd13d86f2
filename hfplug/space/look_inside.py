"""What the adapters of a Space hold: the tables and pictures of ``hfplug inspect``, one adapter at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hfplug.space.view import escaped
from hfplug.space.words import for_people

if TYPE_CHECKING:
    from hfplug.adapters.inspect import Inspection
    from hfplug.adapters.inspect_table import Block
    from hfplug.space.opened import OpenSpace

ROWS = 12
# Above it every page would wait for a base to be read from disk once an adapter, so adapters are looked at alone.
LARGEST_BASE = 2_000_000_000  # bytes


def look_inside_html(space: OpenSpace) -> str:
    """A section with a part to unfold for each adapter; ``""`` where there is none."""
    parts = []
    for at, (name, seen) in enumerate(look(space).items()):
        inner = _sorry(seen) if isinstance(seen, str) else _adapter(seen, f"inside-{at}")
        parts.append(f"<details><summary>{escaped(name)}</summary>{inner}</details>")
    if not parts:
        return ""
    return (
        '<section class="hf-section hf-inside"><h2>A look inside the adapters</h2><p>What each adapter learnt, read '
        "off its weights without asking the model anything: which layers moved, how far, in how many directions, and "
        "which hardly moved. A layer that moved far need not be one that matters.</p>"
        f"{''.join(parts)}</section>"
    )


def look(space: OpenSpace) -> dict[str, Inspection | str]:
    """For each adapter what was seen in it, or why that cannot be said."""
    from hfplug.adapters.inspect import inspect_adapter

    infos = [info for info in space.variants() if info.kind == "adapter"]
    base: Any = space.service.base if infos else None
    found: dict[str, Inspection | str] = {}
    for info in infos:
        try:
            if _size(base) > LARGEST_BASE:
                found[info.name] = inspect_adapter(info.folder, against="nothing")
            else:
                places: dict[str, Any] = {"base": base.name, "revision": base.commit}
                found[info.name] = inspect_adapter(info.folder, trust_remote_code=base.trust_remote_code, **places)
        except Exception as error:
            found[info.name] = for_people(error)
    return found


def _size(base: Any) -> int:
    from hfplug.adapters.base_files import find_files

    return sum(file.stat().st_size for file in find_files(base).files)


def _adapter(seen: Inspection, key: str) -> str:
    from hfplug.comparison.inspect_page import blocks_of, drawn

    plots, note = drawn(seen, key=key)
    figures = "".join(
        f"<figure><h3>{escaped(plot.title)}</h3>{plot.svg}<figcaption>{escaped(plot.caption)}</figcaption></figure>"
        for plot in plots
    )
    pictures = f'<div class="hf-plots">{figures}</div>' if figures else _sorry(note)
    facts = f"<p>{escaped(seen.method)}, {seen.numbers:,} trained numbers.</p>"
    return facts + pictures + "".join(_block(block) for block in blocks_of(seen, top=ROWS))


def _block(block: Block) -> str:
    sentences = "".join(f'<p class="hf-small">{escaped(sentence)}</p>' for sentence in block.sentences)
    if not block.rows:
        return sentences
    last = len(block.rows[0]) - 1 if block.text_last == "yes" else -1
    kinds = [' class="hf-words"' if at == last else "" for at in range(len(block.rows[0]))]
    named = zip(kinds, block.rows[0], strict=True)
    heading = "".join(f'<th scope="col"{kind}>{escaped(cell)}</th>' for kind, cell in named)
    rows = []
    for row in block.rows[1:]:
        cells = "".join(f"<td{kind}>{escaped(cell)}</td>" for kind, cell in zip(kinds[1:], row[1:], strict=True))
        rows.append(f'<tr><th scope="row">{escaped(row[0])}</th>{cells}</tr>')
    title = f"<h3>{escaped(block.title)}</h3>" if block.title else ""
    return (
        f'{title}<div class="hf-scroll" tabindex="0" role="region" aria-label="{escaped(block.title or "By kind")}">'
        f"<table><thead><tr>{heading}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{sentences}"
    )


def _sorry(reason: str) -> str:
    return f'<p class="hf-small">{escaped(reason)}</p>'
