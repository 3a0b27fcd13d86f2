"""Two adapters side by side, as text for a terminal."""

from __future__ import annotations

from hfplug.adapters.inspect_pair import Pair, PairLayer, PairPrompt, PairTensor
from hfplug.adapters.inspect_table import columns, number, plain_line, short, wrapped


def render_pair(pair: Pair, *, top: int = 20) -> str:
    """The tables of two adapters side by side.

    Args:
        pair: What was seen.
        top: Rows of a table (1 or more): those that are most alike.
    """
    lines = [f"{name}: {method}" for name, method in zip(pair.names, pair.methods, strict=True)]
    if pair.base:
        lines.append(f"held against {pair.base}")
    for block in (
        _layers(pair, top) if pair.layers else [],
        _tensors(pair.tensors, top) if pair.tensors else [],
        _prompt(pair.prompt) if pair.prompt is not None else [],
        *(
            wrapped(f"Only in {name}: {', '.join(only[:6])}{f' and {len(only) - 6} more' if only[6:] else ''}.")
            for name, only in zip(pair.names, pair.only, strict=True)
            if only
        ),
        [line for note in pair.notes for line in wrapped(note)],
    ):
        if block:
            lines += ["", *block]
    return "\n".join(plain_line(line) for line in lines)


def _layers(pair: Pair, top: int) -> list[str]:
    ordered = sorted(pair.layers, key=lambda one: -abs(one.cosine or 0.0))
    rows: list[tuple[str, ...]] = [("layer", "cosine", "writes alike", "chance", "reads alike", "chance", "used ranks")]
    rows += [_cells(one) for one in ordered[:top]]
    title = f"The {top} of {len(ordered)} layers that are most alike" if len(ordered) > top else "Layers"
    text = (
        "cosine: of the two updates as vectors, 1 the same up to length, 0 nothing in common. writes (reads) alike: "
        "how much of the smaller one's space of outputs (inputs) lies in the other's, 0 to 1; chance: that of random "
        "spaces of these ranks (Hu et al. 2021, section 7.2)."
    )
    means = [number(pair.mean_of(what)) for what in ("cosine", "overlap_out", "chance_out", "overlap_in", "chance_in")]
    whole = (
        f"Mean of the layers: cosine {means[0]}, writes alike {means[1]} (chance {means[2]}), reads alike {means[3]} "
        f"(chance {means[4]})."
    )
    return [title, *columns(rows), *wrapped(text), *wrapped(whole)]


def _cells(one: PairLayer) -> tuple[str, ...]:
    values = (one.cosine, one.overlap_out, one.chance_out, one.overlap_in, one.chance_in)
    return (short(one.name, 40), *(number(value, 2) for value in values), f"{one.ranks[0]}, {one.ranks[1]}")


def _tensors(tensors: tuple[PairTensor, ...], top: int) -> list[str]:
    ordered = sorted(tensors, key=lambda one: -abs(one.cosine or 0.0))
    rows = [("tensor", "cosine of the changes", "|first|", "|second|", "what it is")]
    for one in ordered[:top]:
        norms = (number(one.norms[0]), number(one.norms[1]))
        rows.append((short(one.name, 44), number(one.cosine, 2), *norms, one.role))
    title = f"The {top} of {len(ordered)} tensors that changed most alike" if len(ordered) > top else "Tensors"
    return [title, *columns(rows)]


def _prompt(prompt: PairPrompt) -> list[str]:
    return wrapped(
        f"Soft prompts of {prompt.counts[0]} and {prompt.counts[1]} virtual tokens: those at the same place have a "
        f"mean cosine of {prompt.same_place:.2f}; to each of the first the nearest of the second has {prompt.best:.2f}, "
        f"and {prompt.chance:.2f} if the second's are random. Their spaces overlap by {prompt.overlap:.2f}, by chance "
        f"{prompt.chance_overlap:.2f}."
    )
