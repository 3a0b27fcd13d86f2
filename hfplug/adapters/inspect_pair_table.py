"""Two adapters side by side, as tables."""

from __future__ import annotations

from hfplug.adapters.inspect_pair import Pair, PairLayer, PairPrompt, PairTensor
from hfplug.adapters.inspect_table import Block, number, render_blocks


def render_pair(pair: Pair, *, top: int = 20) -> str:
    """The tables of two adapters side by side.

    Args:
        pair: What was seen.
        top: Rows of a table (1 or more): those that are most alike.
    """
    return "\n".join([*pair_heading(pair), *render_blocks(pair_blocks(pair, top=top))])


def pair_heading(pair: Pair) -> list[str]:
    """What was put side by side, in a line each."""
    lines = [f"{name}: {method}" for name, method in zip(pair.names, pair.methods, strict=True)]
    return [*lines, f"held against {pair.base}"] if pair.base else lines


def pair_blocks(pair: Pair, *, top: int = 20) -> list[Block]:
    """What there is to say of two adapters, table by table; as for :func:`render_pair`."""
    only = tuple(
        f"Only in {name}: {', '.join(names[:6])}{f' and {len(names) - 6} more' if names[6:] else ''}."
        for name, names in zip(pair.names, pair.only, strict=True)
        if names
    )
    found = [
        _layers(pair, top) if pair.layers else None,
        _tensors(pair.tensors, top) if pair.tensors else None,
        Block(sentences=(_prompt(pair.prompt),)) if pair.prompt is not None else None,
        Block(sentences=(*only, *pair.notes)),
    ]
    return [block for block in found if block is not None and (block.rows or block.sentences)]


def _layers(pair: Pair, top: int) -> Block:
    ordered = sorted(pair.layers, key=lambda one: -abs(one.cosine or 0.0))
    heading = ("layer", "cosine", "writes", "chance", "reads", "chance", "used ranks")
    means = [number(pair.mean_of(what)) for what in ("cosine", "overlap_out", "chance_out", "overlap_in", "chance_in")]
    return Block(
        title=f"The {top} of {len(ordered)} layers that are most alike" if len(ordered) > top else "Layers",
        rows=(heading, *(_cells(one) for one in ordered[:top])),
        sentences=(
            "cosine: of the two updates as vectors, 1 the same up to length, 0 nothing in common. writes (reads) "
            "alike: how much of the smaller one's space of outputs (inputs) lies in the other's, 0 to 1; chance: that "
            "of random spaces of these ranks (Hu et al. 2021, section 7.2).",
            f"Mean of the layers: cosine {means[0]}, writes alike {means[1]} (chance {means[2]}), reads alike "
            f"{means[3]} (chance {means[4]}).",
        ),
    )


def _cells(one: PairLayer) -> tuple[str, ...]:
    values = (one.cosine, one.overlap_out, one.chance_out, one.overlap_in, one.chance_in)
    return (one.name, *(number(value, 2) for value in values), f"{one.ranks[0]}, {one.ranks[1]}")


def _tensors(tensors: tuple[PairTensor, ...], top: int) -> Block:
    ordered = sorted(tensors, key=lambda one: -abs(one.cosine or 0.0))
    rows: list[tuple[str, ...]] = [("tensor", "cosine of the changes", "|first|", "|second|", "what it is")]
    for one in ordered[:top]:
        norms = (number(one.norms[0]), number(one.norms[1]))
        rows.append((one.name, number(one.cosine, 2), *norms, one.role))
    title = f"The {top} of {len(ordered)} tensors that changed most alike" if len(ordered) > top else "Tensors"
    return Block(title=title, rows=tuple(rows))


def _prompt(prompt: PairPrompt) -> str:
    return (
        f"Soft prompts of {prompt.counts[0]} and {prompt.counts[1]} virtual tokens: those at the same place have a "
        f"mean cosine of {prompt.same_place:.2f}; to each of the first the nearest of the second has {prompt.best:.2f},"
        f" and {prompt.chance:.2f} if the second's are random. Their spaces overlap by {prompt.overlap:.2f}, by chance "
        f"{prompt.chance_overlap:.2f}."
    )
