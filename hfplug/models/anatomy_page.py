"""The tree of a model's parts as lines of text, at most 100 columns wide."""

from __future__ import annotations

from collections.abc import Iterator

from hfplug.models.anatomy_parts import NOT_RUN, endings
from hfplug.models.anatomy_tree import Branch, Tree

WIDTH = 100
_GAP = 2


def render_tree(tree: Tree) -> str:
    """The tree as lines of text.

    Args:
        tree: From :func:`~hfplug.models.anatomy_tree.anatomy_tree`.
    """
    rows = [row for row in _rows(tree.root, 0)]
    lines = [*_table(rows), "", f"{tree.parameters:,} parameters"]
    longest = max(map(len, tree.parts), default=0)
    digits = max((len(f"{count:,}") for count in tree.parts.values()), default=0)
    for part, count in tree.parts.items():
        note = f"  {tree.notes[part]}" if part in tree.notes else ""
        lines.append(f"  {part:{longest}}  {count:>{digits},}  {count / max(1, tree.parameters):>6.1%}{note}")
    if tree.read_by != "run":
        lines += _wrapped(
            "The model did not run to its end on text alone, so part of this is judged by names: ", tree.read_by
        )
    lines.append(f"{tree.matrices:,} are in matrices that an adapter can be put on")
    reasons: dict[str, list[str]] = {}
    for name, why in tree.left_out.items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        lines += _wrapped(f"  not on {endings(names)}: ", why)
    where = ", ".join(tree.lora_layers) or "no layer"
    lines += _wrapped(f"lora trains {tree.lora_trainable:,} ", f"beside {where}: {tree.lora_share:.1%} of those")
    lines.append(f"qlora holds {tree.four_bit_share:.1%} of all parameters in 4 bits")
    return "\n".join(lines)


def _rows(branch: Branch, depth: int, before: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Name, class, number and role of each line. A list of blocks has no line of its own."""
    if branch.kind == "ModuleList":
        for child in branch.children:
            yield from _rows(child, depth, f"{before}{branch.name}.")
        return
    times = f" x{branch.times}" if branch.times > 1 else ""
    name = f"{before}{_short(branch.name)}{times}"
    if depth == 0:
        name = "model"
    count = f"{branch.parameters:,}" if branch.parameters or not branch.shares else "="
    yield "  " * depth + name, branch.kind, count, _role(branch)
    if branch.part == NOT_RUN or _all_unreached(branch):
        return
    for child in branch.children:
        yield from _rows(child, depth + 1)


def _role(branch: Branch) -> str:
    if _all_unreached(branch):
        return NOT_RUN
    words = [branch.role or branch.part]
    if branch.shares:
        words.append(f"tied to {branch.shares.rpartition('.')[2]}")
    if branch.held_in:
        words.append(branch.held_in)
    if branch.no_adapter and branch.part != NOT_RUN:
        words.append("no adapter")
    return ", ".join(word for word in words if word)


def _all_unreached(branch: Branch) -> bool:
    if not branch.children:
        return branch.part == NOT_RUN
    return branch.part in ("", NOT_RUN) and all(map(_all_unreached, branch.children))


def _table(rows: list[tuple[str, str, str, str]]) -> list[str]:
    names, kinds, counts = (max(len(row[column]) for row in rows) for column in range(3))
    roles = max(len(row[3]) for row in rows)
    # Where it does not fit, classes are cut first: they tell least.
    kinds = max(12, min(kinds, WIDTH - names - counts - roles - 3 * _GAP))
    lines = []
    for name, kind, count, role in rows:
        left = f"{name:{names}}  {_cut(kind, kinds):{kinds}}  {count:>{counts}}"
        lines.append(_cut(f"{left}  {role}".rstrip(), WIDTH))
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _short(ranges: str) -> str:
    """The first three of many ranges."""
    runs = ranges.split(",")
    return ranges if len(runs) <= 4 else f"{','.join(runs[:3])},…"


def _wrapped(first: str, rest: str) -> list[str]:
    import textwrap

    return textwrap.wrap(first + rest, WIDTH, subsequent_indent="    ", break_long_words=False)
