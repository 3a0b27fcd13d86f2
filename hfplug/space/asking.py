"""From what a form or a program says to what the service is asked: dialogue, columns, task, decoding, blind or not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hfplug.errors import ServingError
from hfplug.space.columns import Column
from hfplug.space.opened import OpenSpace
from hfplug.space.permalinks import DECODING, LARGEST_SEED
from hfplug.space.session import Run, shuffled

Blind = Literal["on", "off"]


@dataclass(frozen=True, kw_only=True)
class Asking:
    """One comparison that was asked for, checked.

    Attributes:
        names: Variants, in the order in which they will be shown.
        dialogue: What to ask.
        references: What a person wrote; may be empty.
        task: Name of the task, or None for the first that there is.
        decoding: Settings of ``hfplug.serving.service.Decoding``.
        example: Id of the example that the dialogue is, or None.
        blind: Whether names are hidden until a vote.
        left_out: Variants that a blind round leaves out because they are not what they say.
    """

    names: tuple[str, ...]
    dialogue: str
    references: tuple[str, ...] = ()
    task: str | None = None
    decoding: Mapping[str, int | float] = field(default_factory=dict)
    example: str | None = None
    blind: Blind = "off"
    left_out: tuple[str, ...] = ()

    def run(self, columns: Sequence[Column], *, id: str | None = None) -> Run:
        """The run that these columns are of.

        Args:
            columns: How far they are.
            id: Of the run; a new one if None.
        """
        return Run(
            dialogue=self.dialogue,
            references=self.references,
            task=self.task,
            decoding=self.decoding,
            columns=tuple(columns),
            example=self.example,
            blind="open" if self.blind == "on" else "no",
            **({} if id is None else {"id": id}),  # type: ignore[arg-type]
        )


def asking_for(
    space: OpenSpace,
    *,
    names: Sequence[str],
    dialogue: str,
    references: Sequence[str] = (),
    task: str | None = None,
    decoding: Mapping[str, Any] | None = None,
    blind: Blind = "off",
) -> Asking:
    """Check what was asked for, before anything is queued.

    Args:
        space: The Space.
        names: Variants; the base first if it is among them, as the others are compared with it.
        dialogue, references, task: As typed; a blank reference is none.
        decoding: Names and values as they were typed; None for a value leaves it to the task.
        blind: Shuffles the columns, and leaves out those that are not what they say.

    Raises:
        ServingError: The dialogue is empty, too few columns are chosen, or a setting is out of range.
    """
    known = {info.name: info for info in space.service.variants()}
    chosen = list(dict.fromkeys(names))
    left_out: list[str] = []
    if blind == "on":
        left_out = [name for name in chosen if name in known and (known[name].banner or known[name].state == "refused")]
        chosen = shuffled([name for name in chosen if name not in left_out])
        if len(chosen) < 2:
            raise ServingError(
                "A blind round needs two columns or more that are what they say.", fix="Choose another column."
            )
    else:
        chosen.sort(key=lambda name: name not in known or known[name].kind != "base")
    example = next((one for one in space.examples if one.dialogue == dialogue), None)
    return Asking(
        names=tuple(chosen),
        dialogue=dialogue,
        references=tuple(text.strip() for text in references if text and text.strip()),
        task=task or None,
        decoding=checked_decoding(decoding or {}),
        example=example.id if example else None,
        blind=blind,
        left_out=tuple(left_out),
    )


def checked_decoding(values: Mapping[str, Any]) -> dict[str, int | float]:
    """The settings as numbers of the right kind; those that are None are left out.

    Raises:
        ServingError: One is unknown, no number, or out of range.
    """
    found: dict[str, int | float] = {}
    ranges: dict[str, tuple[type, float, float]] = {**DECODING, "seed": (int, 0, LARGEST_SEED)}
    for name, value in values.items():
        if value is None or value == "":
            continue
        if name not in ranges:
            raise ServingError(f"There is no setting {name!r}.", fix=f"The settings are {', '.join(ranges)}.")
        kind, low, high = ranges[name]
        right = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not right or not low <= value <= high or (kind is int and value != int(value)):
            what = "a whole number" if kind is int else "a number"
            label = name.replace("_", " ").capitalize()
            raise ServingError(f"{label} must be {what} from {low:g} to {high:.10g}, not {str(value)[:40]}.")
        found[name] = kind(value)
    return found
