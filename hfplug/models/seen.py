"""What was seen of a model's layers in one run of it (:mod:`hfplug.models.trace`)."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field

from hfplug.models.layout import with_holders

# Numbers in names: of blocks, and of the experts in a block.
_NUMBER = re.compile(r"(?<=[._])\d+(?=\.|$)")


@dataclass(kw_only=True)
class Trace:
    """What was seen in one run.

    Attributes:
        ended: ``"whole"``; or why the run stopped before its end, in the words of the model.
        calls: For each module with weights of its own that was called, how often.
        learning: Layers that a gradient arrives at; None if no gradient could be computed.
        tuples: Layers that gave something else than one tensor (…, out) for one tensor (…, in).
        fed_by: For each linear layer, the layers that its input was made from.
        fed_attended: Linear layers whose input is what an attention made.
        query: Layers that make queries, keys, and values, as they enter the comparison.
        key: As above.
        value: As above.
        routers: Layers whose outputs choose among experts.
        read_directly: Parameters that were used without calling the layer that holds them, by full name.
        mixed: Layers whose outputs go into a convolution, a running sum or a product of two activations.
        recomputed: Layers that ran with gradients off, if none came back: in training they run again on the way back.
    """

    ended: str = "whole"
    calls: dict[str, int] = field(default_factory=dict)
    learning: set[str] | None = None
    tuples: set[str] = field(default_factory=set)
    fed_by: dict[str, set[str]] = field(default_factory=dict)
    fed_attended: set[str] = field(default_factory=set)
    query: set[str] = field(default_factory=set)
    key: set[str] = field(default_factory=set)
    value: set[str] = field(default_factory=set)
    routers: set[str] = field(default_factory=set)
    read_directly: set[str] = field(default_factory=set)
    mixed: set[str] = field(default_factory=set)
    recomputed: set[str] = field(default_factory=set)

    def runs(self, name: str) -> bool:
        """Whether a module with weights runs on text: it, or one of the experts beside it. Yes, if it is not known."""
        return self.ended != "whole" or bool(self._alike(name) & self._called_alike)

    def learns(self, name: str) -> bool:
        """Whether a module with weights runs, and a gradient arrives at it. Yes, if it is not known."""
        if not self.runs(name):
            return False
        return self.learning is None or bool(self._alike(name) & self._learning_alike)

    def runs_within(self, name: str) -> bool:
        """Whether a module, or one that lies in it, runs on text. Yes, if it is not known."""
        return self.ended != "whole" or name in self._holds_called

    def learns_within(self, name: str) -> bool:
        """Whether a gradient arrives at a module, or one that lies in it. Yes, if it is not known."""
        if self.ended != "whole" or self.learning is None:
            return self.runs_within(name)
        return name in self._holds_learning

    @staticmethod
    def _alike(name: str) -> set[str]:
        """A name, and where it has two numbers the same with any number for the second, that of an expert."""
        numbers = list(_NUMBER.finditer(name))
        if len(numbers) < 2:
            return {name}
        return {f"{name[: numbers[-1].start()]}*{name[numbers[-1].end() :]}"}

    @functools.cached_property
    def _holds_called(self) -> set[str]:
        return with_holders(self.calls)

    @functools.cached_property
    def _holds_learning(self) -> set[str]:
        return with_holders(self.learning or ())

    @functools.cached_property
    def _called_alike(self) -> set[str]:
        return set().union(*map(self._alike, self.calls)) if self.calls else set()

    @functools.cached_property
    def _learning_alike(self) -> set[str]:
        return set().union(*map(self._alike, self.learning)) if self.learning else set()
