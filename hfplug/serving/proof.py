"""Whether a base in memory is what it was when it was loaded: its weights, its modules and its answers, bit for bit."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hfplug.serving.clones import replaced_methods, same_bits, tensors_in

PROMPT_LENGTHS = (6, 11)
NEW_TOKENS = 6

# A prompt's token ids to the ids that were generated and the logits of each step.
Ask = Callable[[list[int]], tuple[list[int], Tensor]]


@dataclass(frozen=True, kw_only=True)
class BaseProof:
    """What came of comparing the base with itself as it was loaded.

    Attributes:
        verdict: ``"proved"`` if every bit is the same, else ``"failed"``.
        compared: What was compared, in words.
        differences: What is different, in words; empty if proved.
        sha256_before, sha256_after: Over every weight and buffer.
        seconds: What the comparison took.
    """

    verdict: Literal["proved", "failed"]
    compared: str
    differences: tuple[str, ...]
    sha256_before: str
    sha256_after: str
    seconds: float

    def __str__(self) -> str:
        if self.verdict == "proved":
            return f"The base is what was loaded: {self.compared}, bit for bit."
        return f"The base is not what was loaded: {'; '.join(self.differences)}."


@dataclass(frozen=True, kw_only=True)
class BaseState:
    """A base as it was at one moment.

    Attributes:
        tensors: SHA-256 of each parameter and buffer, by its name.
        modules: Of each module, by its name: its class, its hooks, which of its methods were replaced, its mode.
        answers: Of each prompt the greedy answer, and the logits of its steps (shape (steps, vocabulary)).
    """

    tensors: dict[str, str] = field(repr=False)
    modules: dict[str, str] = field(repr=False)
    answers: tuple[tuple[list[int], Tensor], ...] = field(repr=False)

    @property
    def sha256(self) -> str:
        """One sum over all weights and buffers."""
        return hashlib.sha256("\n".join(f"{name} {one}" for name, one in self.tensors.items()).encode()).hexdigest()


def read_state(model: nn.Module, vocabulary: int, ask: Ask) -> BaseState:
    """The state of a base now.

    Args:
        model: The base.
        vocabulary: Rows of its embedding, to choose prompts from.
        ask: Answers a prompt greedily with :data:`NEW_TOKENS` tokens.
    """
    prompts = [[(step * vocabulary) // (length + 1) for step in range(1, length + 1)] for length in PROMPT_LENGTHS]
    # Asked first: models whose position tables grow with long prompts go back to the short ones in a short prompt.
    answers = tuple(ask(prompt) for prompt in prompts)
    return BaseState(
        tensors=_sums(model),
        modules={name: _shape_of(module) for name, module in model.named_modules()},
        answers=answers,
    )


def compare_states(before: BaseState, read: Callable[[], BaseState]) -> BaseProof:
    """Compare a base with what it was.

    Args:
        before: From :func:`read_state`.
        read: Reads the state now; an exception in it is a difference, too.
    """
    began = time.perf_counter()
    differences: list[str] = []
    after: BaseState | None = None
    try:
        after = read()
    except Exception as error:  # whatever was done to the base, its column must not be shown
        differences.append(f"it cannot be asked any more ({type(error).__name__}: {error})")
    if after is not None:
        differences += _changed("weights and buffers", before.tensors, after.tensors)
        differences += _changed("modules", before.modules, after.modules)
        pairs = list(zip(before.answers, after.answers, strict=True))
        if any(old[0] != new[0] for old, new in pairs):
            differences.append("its greedy answers are others")
        if any(not same_bits(old[1], new[1]) for old, new in pairs):
            differences.append("its logits are others")
    return BaseProof(
        verdict="failed" if differences else "proved",
        compared=f"{len(before.tensors)} weights and buffers, {len(before.modules)} modules, "
        f"logits and greedy answers of {len(before.answers)} prompts",
        differences=tuple(differences),
        sha256_before=before.sha256,
        sha256_after=after.sha256 if after is not None else "",
        seconds=time.perf_counter() - began,
    )


def _changed(what: str, before: dict[str, str], after: dict[str, str]) -> list[str]:
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [f"{len(names)} of its {what} changed, e.g. {names[0]!r}"] if names else []


def _sums(model: nn.Module) -> dict[str, str]:
    """SHA-256 of every parameter and buffer under each of its names, and of what quantised ones are unpacked with."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    known: dict[int, str] = {}
    found: dict[str, str] = {}
    for name, tensor in named:
        for number, part in enumerate(tensors_in(tensor)):
            if id(part) not in known:
                known[id(part)] = _sum_of(part)
            found[f"{name}#{number}" if number else name] = known[id(part)]
    return found


def _sum_of(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().flatten()
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    if flat.numel():
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def _shape_of(module: Any) -> str:
    """What a module is and what hangs on it, as text."""
    hooks = [len(vars(module).get(name) or ()) for name in ("_forward_hooks", "_forward_pre_hooks")]
    kind = type(module)
    replaced, mode = replaced_methods(module), module.training
    return f"{kind.__module__}.{kind.__qualname__} hooks={hooks} replaced={replaced} training={mode}"
