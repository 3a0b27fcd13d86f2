"""How the rows of one variant, or of several, get to a model that is called with them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from hfplug.methods import TuningMethod
from hfplug.serving.prompts import Seat, make_batch, plain_batch
from hfplug.serving.routing import Router, changed_modules
from hfplug.serving.trial import Bench, alone_logits, own_router, try_mixed, try_peft, try_tree


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What to call ``generate`` on for a batch, and with what.

    Attributes:
        model: Has ``generate`` and ``generation_config``.
        inputs: Its keyword arguments; the settings of the generation come from the caller.
        prompt_length: Positions to cut from the front of the output. For an encoder-decoder they are those before the
            decoder's start token: 0, or the length of a prefix.
    """

    model: nn.Module
    inputs: dict[str, Any]
    prompt_length: int


@dataclass(frozen=True, kw_only=True)
class Place:
    """One variant, ready to be asked.

    Attributes:
        seat: What its rows need.
        method: Its method.
        model: The ``PeftModel`` or transformers model.
        way: ``"tree"`` if the base model inside can be asked by itself; ``"router"`` if something goes into its
            input, which a router of its own does; ``"peft"`` if only PEFT's own ``generate`` gives the right answers.
        router: For ``"router"``.
        batching: ``"mixed"`` if its rows may share a pass with others' rows.
        reason: Why, in words.
        rows: ``"one"`` if its answers change beside other rows of its own, so that each needs a pass.
        lock: PEFT's ``generate`` swaps a method of its model while it runs: one call at a time.
    """

    seat: Seat
    method: TuningMethod
    model: nn.Module
    way: Literal["tree", "router", "peft"]
    router: Router | None
    batching: Literal["mixed", "alone"]
    reason: str
    rows: Literal["together", "one"] = "together"
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextlib.contextmanager
    def ready(self, base: nn.Module, prompts: Sequence[Sequence[int]], pad: int, beams: int) -> Iterator[Ready]:
        """A batch of rows of this variant.

        Args:
            base: The base.
            prompts: Token ids of each row.
            pad: Id for padding.
            beams: Beams of each row.
        """
        if self.way == "peft":
            plain = plain_batch(prompts, base, pad=pad)
            ids, mask = plain.inputs["input_ids"], plain.inputs["attention_mask"]
            with self.lock:
                target, inputs = self.method.generation_inputs(self.model, ids, mask)
                cut = plain.prompt_length if "input_ids" in inputs else 0
                yield Ready(model=target, inputs=inputs, prompt_length=cut)
            return
        batch = make_batch([self.seat] * len(prompts), prompts, base, pad=pad, beams=beams)
        if self.router is None:
            yield Ready(model=self.seat.tree, inputs=batch.inputs, prompt_length=batch.prompt_length)
            return
        with self.router.rows(batch.rows) as model:
            yield Ready(model=model, inputs=batch.inputs, prompt_length=batch.prompt_length)


@contextlib.contextmanager
def ready_base(base: nn.Module, prompts: Sequence[Sequence[int]], pad: int) -> Iterator[Ready]:
    """A batch of rows of the base, for the base's own modules. Arguments as of :meth:`Place.ready`."""
    batch = plain_batch(prompts, base, pad=pad)
    yield Ready(model=base, inputs=batch.inputs, prompt_length=batch.prompt_length)


@contextlib.contextmanager
def ready_mixed(
    router: Router, seats: Sequence[Seat], base: nn.Module, prompts: Sequence[Sequence[int]], pad: int, beams: int
) -> Iterator[Ready]:
    """A batch of rows of several variants. Arguments as of :meth:`Place.ready`, and the seat of each row."""
    batch = make_batch(seats, prompts, base, pad=pad, beams=beams)
    with router.rows(batch.rows) as model:
        yield Ready(model=model, inputs=batch.inputs, prompt_length=batch.prompt_length)


def find_place(
    bench: Bench,
    name: str,
    method: TuningMethod,
    model: nn.Module,
    others: Mapping[str, Place],
    *,
    alone_because: str = "",
) -> Place:
    """Find out how a variant can be asked, by trying.

    Args:
        bench: Of the base.
        name: The variant's name.
        method: Its method.
        model: Its model.
        others: The variants that are there already and may be mixed.
        alone_because: Why it is not tried beside others, or empty.
    """
    tree: Any = model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]
    with torch.no_grad():
        seat = Seat(
            name=name,
            tree=tree,
            changed=() if alone_because else tuple(changed_modules(bench.model, tree)),
            vectors=method.input_vectors(model),
            prefix=method.cached_prefix(model),
        )
    known: dict[str, Any] = {"method": method, "model": model}
    if alone_because:
        return Place(seat=seat, way="tree", router=None, batching="alone", reason=alone_because, **known)
    expected = alone_logits(bench, method, model)
    known["router"] = router = own_router(bench, seat)
    inside: Literal["tree", "router"] = "tree" if router is None else "router"
    if wrong := try_tree(bench, seat, expected, rows="together"):
        if not try_tree(bench, seat, expected, rows="one"):
            reason = f"its answers change beside other rows ({wrong})"
            return Place(seat=seat, way=inside, batching="alone", reason=reason, rows="one", **known)
        rows: Literal["together", "one"] = "one" if try_peft(bench, method, model, expected) else "together"
        reason = f"only PEFT's own generate gives its answers ({wrong})"
        return Place(seat=seat, way="peft", batching="alone", reason=reason, rows=rows, **known)
    wrong = try_mixed(bench, seat, expected, [place.seat for place in others.values()])
    batching: Literal["mixed", "alone"] = "alone" if wrong else "mixed"
    reason = wrong or "tried: rows of several variants come out as they do alone"
    return Place(seat=seat, way=inside, batching=batching, reason=reason, **known)
