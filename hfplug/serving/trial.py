"""Whether rows of several variants may share a pass: tried on a few tokens, when a variant is attached.

What is right is what PEFT gives the variant alone, one unpadded row at a time, by its own ``generate``. The same rows
go through the router beside rows that belong to nobody and rows of another variant, at different lengths, over a
prefill and some steps with a cache. If the logits are the same up to what batching does to the base itself, rows of
this variant may be mixed; if not, or if the router cannot do it, the variant runs alone, and the reason is kept.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hfplug.errors import ServingError
from hfplug.methods import TuningMethod
from hfplug.serving.decoding import make_generation_config
from hfplug.serving.prompts import Seat, make_batch, plain_batch
from hfplug.serving.routing import CannotRoute, Router

logger = logging.getLogger(__name__)

# Of the logits' root mean square: what the order of additions does in each number format.
_ROUNDING = {torch.float64: 1e-5, torch.float32: 2e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# The kernels of bitsandbytes unpack to another format for one row than for several.
_ROUNDING_FOUR_BIT = 2e-2
# Beyond this it is no longer rounding.
_NO_ROUNDING = 0.3
# What the code of some model or method, which may be of any architecture, raises where it does not take what it is
# given. Each is told: in a ServingError with its cause, or as the reason why rows do not share a batch.
_FAILURES = (ValueError, RuntimeError, TypeError, AttributeError, IndexError, KeyError, NotImplementedError)
_STEPS = 2
_LENGTHS = (7, 4, 6)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What trials on one base share.

    Attributes:
        model: The base.
        pad: Id for padding.
        prompts: Token ids to try with.
        forced: The tokens of every answer, so that two runs see the same.
        alone: The base's logits on each prompt alone, shape (prompts, steps, vocabulary).
        noise: How far off they are when the prompts share a batch, as a share of their root mean square.
        together: Which rows of the base may share a batch: ``"any"``; those of the ``"same length"``, where a model
            counts its positions past the padding; or ``"none"``, where it mixes up the rows themselves.
    """

    model: nn.Module
    pad: int
    prompts: tuple[tuple[int, ...], ...]
    forced: tuple[int, ...]
    alone: Tensor
    noise: float
    together: Literal["any", "same length", "none"] = "any"

    @property
    def rounding(self) -> float:
        """What the order of additions does in the base's number format."""
        if getattr(self.model, "is_quantized", False):
            return _ROUNDING_FOUR_BIT
        dtype: Any = getattr(self.model, "dtype", torch.float32)
        return _ROUNDING.get(dtype, _ROUNDING[torch.float32])

    @property
    def is_sound(self) -> bool:
        """Whether the base's rows come out as they do alone, but for rounding."""
        return self.noise <= min(20 * self.rounding, _NO_ROUNDING)

    @property
    def limit(self) -> float:
        """What still counts as the same."""
        return max(self.rounding, 4 * self.noise) if self.is_sound else self.rounding

    def limit_for(self, expected: Tensor, row: slice = slice(None)) -> float:
        """What still counts as the same for a variant: more if its answers are far from the base's.

        Long vectors, say, make the order of additions count for more; a variant that hardly differs from the base has
        to be hit all the better.

        Args:
            expected: Its logits alone.
            row: Which of the prompts they are of.
        """
        effect = difference(expected, self.alone[row])
        return max(self.limit, min(10 * self.limit, effect / 20, _NO_ROUNDING / 3))


def set_up(model: nn.Module, pad: int) -> Bench:
    """Try the base itself.

    Args:
        model: The base.
        pad: Id for padding.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    usable = _usable(model, rows)
    prompts = tuple(
        tuple(usable[(step * 7919 + number * 104729) % len(usable)] for step in range(1, length + 1))
        for number, length in enumerate(_LENGTHS)
    )
    forced = tuple(usable[(step * 15485863) % len(usable)] for step in range(1, _STEPS + 1))
    bench = _measure(model, pad, prompts, forced)
    if bench.is_sound:
        return bench
    level = _measure(model, pad, tuple(prompt[: min(_LENGTHS)] for prompt in prompts), forced)
    return dataclasses.replace(level, together="same length" if level.is_sound else "none")


def _measure(model: nn.Module, pad: int, prompts: tuple[tuple[int, ...], ...], forced: tuple[int, ...]) -> Bench:
    seat = Seat(name=None, tree=model)
    try:
        alone = torch.cat([_run(model, model, [seat], [prompt], forced, pad) for prompt in prompts])
    except _FAILURES as error:
        raise ServingError(
            f"A {type(model).__name__} cannot be asked here: {_first_line(error)}", fix="Try another base."
        ) from error
    try:
        together = _run(model, model, [seat] * len(prompts), prompts, forced, pad)
        noise = difference(together, alone)
    except _FAILURES as error:
        logger.info("A %s does not take rows in one batch (%s).", type(model).__name__, _what(error), exc_info=True)
        noise = float("inf")
    return Bench(model=model, pad=pad, prompts=prompts, forced=forced, alone=alone, noise=noise)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _what(error: Exception) -> str:
    return f"{type(error).__name__}: {_first_line(error)}"


def alone_logits(bench: Bench, method: TuningMethod, tuned: nn.Module) -> Tensor:
    """What PEFT gives a variant alone, one row at a time: shape (prompts, steps, vocabulary).

    Args:
        bench: From :func:`set_up`.
        method: The variant's method.
        tuned: The ``PeftModel`` or transformers model.

    Raises:
        ServingError: It cannot be asked by ``generate`` at all.
    """
    try:
        return torch.cat([peft_logits(bench, method, tuned, [prompt]) for prompt in bench.prompts])
    except _FAILURES as error:
        raise ServingError(
            f"This {method.name} adapter cannot be asked: {_first_line(error)}",
            fix="Ask it with PEFT itself, which may need arguments that are not known here.",
        ) from error


def peft_logits(bench: Bench, method: TuningMethod, tuned: nn.Module, prompts: Sequence[Sequence[int]]) -> Tensor:
    """What PEFT gives a variant for these rows in one batch. Arguments and result as of :func:`alone_logits`."""
    tree = vars(tuned.get_base_model() if hasattr(tuned, "peft_config") else tuned)  # type: ignore[operator]
    before = set(tree)
    plain = plain_batch(prompts, bench.model, pad=bench.pad)
    target, inputs = method.generation_inputs(tuned, plain.inputs["input_ids"], plain.inputs["attention_mask"])
    found = _logits(target, inputs, bench.forced, bench.pad)
    # PEFT leaves its own prepare_inputs_for_generation on the base of an encoder-decoder with a soft prompt.
    for name in set(tree) - before:
        del tree[name]
    return found


def try_peft(bench: Bench, method: TuningMethod, tuned: nn.Module, expected: Tensor) -> str:
    """Why a variant's rows cannot share a batch of PEFT's own ``generate``; empty if they can."""

    def run() -> str:
        return _verdict(peft_logits(bench, method, tuned, bench.prompts), expected, bench.limit_for(expected))

    return _guarded(run)


def try_tree(bench: Bench, seat: Seat, expected: Tensor, *, rows: Literal["together", "one"]) -> str:
    """Why a variant's rows cannot go through its own tree (or a router of its own); empty if they can.

    Args:
        bench: From :func:`set_up`.
        seat: The variant's.
        expected: From :func:`alone_logits`.
        rows: Whether they go in one batch, or one by one.
    """

    def run() -> str:
        router = own_router(bench, seat)
        batches = [bench.prompts] if rows == "together" else [(prompt,) for prompt in bench.prompts]
        found = [
            _run(bench.model, seat.tree, [seat] * len(prompts), prompts, bench.forced, bench.pad, router)
            for prompts in batches
        ]
        return _verdict(torch.cat(found), expected, bench.limit_for(expected))

    return _guarded(run)


def own_router(bench: Bench, seat: Seat) -> Router | None:
    """A router for one variant alone, if something has to be put into its input."""
    return Router(bench.model, {str(seat.name): (seat.tree, seat.changed)}) if seat.has_input else None


def try_mixed(bench: Bench, seat: Seat, expected: Tensor, others: Sequence[Seat]) -> str:
    """Why a variant's rows cannot share a pass; empty if they can.

    Args:
        bench: From :func:`set_up`.
        seat: The variant's.
        expected: From :func:`alone_logits`.
        others: Of the variants that are mixed already.
    """

    def run() -> str:
        router = Router(bench.model, {str(one.name): (one.tree, one.changed) for one in (*others, seat)})
        other = others[0] if others else None
        nobody = Seat(name=None, tree=bench.model)
        for order in ((seat, other or nobody, seat), (nobody, seat, other or nobody)):
            logits = _run(bench.model, router.model, order, bench.prompts, bench.forced, bench.pad, router)
            for row, one in enumerate(order):
                right = expected if one is seat else bench.alone if one is nobody else None
                if right is None:
                    continue
                place = slice(row, row + 1)
                if reason := _verdict(logits[place], right[place], bench.limit_for(right[place], place)):
                    return reason if one is seat else f"rows beside it come out wrong: {reason}"
        return ""

    return _guarded(run)


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the expected logits' root mean square."""
    scale = float(expected.square().mean().sqrt()) or 1.0
    largest = float((found - expected).abs().max()) / scale
    return largest if largest == largest else float("inf")  # NaN


def _verdict(found: Tensor, expected: Tensor, limit: float) -> str:
    off = difference(found, expected)
    if off <= limit:
        return ""
    return f"its logits differ from those alone by {off:.1g} of their root mean square (limit {limit:.1g})"


def _guarded(run: Callable[[], str]) -> str:
    """Whatever a model of any architecture raises in a batch of several variants means that it does not take one."""
    try:
        return run()
    except CannotRoute as error:  # said on purpose
        return _first_line(error)
    except Exception as error:  # so that a mistake in the routing shows too, in the variant's batching_reason
        logger.info("A trial failed.", exc_info=True)
        return _what(error)


def _run(
    base: nn.Module,
    target: nn.Module,
    seats: Sequence[Seat],
    prompts: Sequence[Sequence[int]],
    forced: Sequence[int],
    pad: int,
    router: Router | None = None,
) -> Tensor:
    batch = make_batch(seats, prompts, base, pad=pad)
    if router is None:
        return _logits(target, batch.inputs, forced, pad)
    with router.rows(batch.rows) as model:
        return _logits(model, batch.inputs, forced, pad)


def _logits(model: Any, inputs: dict[str, Any], forced: Sequence[int], pad: int) -> Tensor:
    """The logits of each step, as the model gives them, shape (rows, steps, vocabulary), in float32 on the CPU."""
    from transformers import LogitsProcessorList

    with torch.inference_mode():
        output = model.generate(
            **inputs,
            generation_config=greedy_config(model, pad, len(forced)),
            logits_processor=LogitsProcessorList([_Forced(forced)]),
        )
    return torch.stack(output.logits, dim=1).float().cpu()


def greedy_config(model: nn.Module, pad: int, new_tokens: int) -> Any:
    """Settings for a greedy answer of a fixed length, with the logits of each step as the model gave them.

    Args:
        model: Its own settings are the start.
        pad: Id for padding.
        new_tokens: Length of the answer.
    """
    settings = {
        "max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "pad_token_id": pad, "do_sample": False,
        "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "forced_bos_token_id": None,
        "forced_eos_token_id": None, "return_dict_in_generate": True, "output_logits": True,
    }  # fmt: skip
    return make_generation_config(model.generation_config, None, settings)  # type: ignore[arg-type]


class _Forced:
    """A logits processor that leaves one token a step."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        only = torch.full_like(scores, float("-inf"))
        only[:, self.tokens.pop(0)] = 0.0
        return only


def _usable(model: Any, rows: int) -> list[int]:
    """Ids that are nothing special, so that no answer ends."""
    values = {**model.config.to_dict(), **model.generation_config.to_dict()}
    special = {
        one
        for name, value in values.items()
        if name.endswith(("token_id", "token_index"))
        for one in (value if isinstance(value, list) else [value])
    }
    return [one for one in range(rows) if one not in special] or list(range(rows))
