"""Bytes of an optimiser's states and of what it makes for a moment while it steps.

torch's own optimisers and transformers' Adafactor are run on tensors without data, so that what they hold is what they
make. Those of bitsandbytes need a GPU; their states are known by rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hfplug.errors import SettingError, did_you_mean
from hfplug.models.memory import optimizer_bytes
from hfplug.models.tensor_memory import TensorMemory

# bitsandbytes, optim/optimizer.py: `min_8bit_size`, the block of `optimizer_update_8bit_blockwise`, and the least size
# that `get_state_buffer` pages.
_SMALLEST_8BIT, _BLOCK, _SMALLEST_PAGED = 4096, 256, 100_000


@dataclass(frozen=True, kw_only=True)
class StateBytes:
    """What an optimiser holds.

    Attributes:
        states: Bytes on the device.
        temporary: The most that a step makes beside them, in bytes.
        paged: Bytes of states in pages that move to the host's memory when the device is full.
    """

    states: int
    temporary: int = 0
    paged: int = 0


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """One optimiser, by the name that ``TrainingArguments(optim=…)`` has for it.

    Attributes:
        name: The name.
        rule: What it holds of a weight, in words.
        source: Where that is from.
        make: Makes it for some parameters; None for one of bitsandbytes.
        moments: Moments a weight that bitsandbytes keeps.
        bits: Bits of each of those.
        paged: Whether their pages may move to the host.
    """

    name: str
    rule: str
    source: str
    make: Callable[[Sequence[nn.Parameter]], Any] | None = None
    moments: int = 2
    bits: int = 32
    paged: Literal["on", "off"] = "off"


def _adafactor(parameters: Sequence[nn.Parameter]) -> Any:
    from transformers.optimization import Adafactor

    return Adafactor(parameters, scale_parameter=False, relative_step=False, lr=1e-3)  # as Trainer makes it


_ADAM = "two moments a trained weight, in its dtype, and a step count a tensor"
_ADAM_PAPER = "Kingma and Ba 2015, algorithm 1"
_BNB = "bitsandbytes, optim/optimizer.py"
OPTIMIZERS = {
    one.name: one
    for one in (
        Optimizer(
            name="adamw_torch_fused",
            rule=_ADAM,
            source=_ADAM_PAPER,
            make=lambda parameters: torch.optim.AdamW(parameters, fused=True),
        ),
        Optimizer(name="adamw_torch", rule=_ADAM, source=_ADAM_PAPER, make=torch.optim.AdamW),
        Optimizer(name="sgd", rule="nothing (no momentum)", source="torch.optim.SGD", make=torch.optim.SGD),
        Optimizer(
            name="adafactor",
            rule="of a matrix one number a row and one a column, of a vector one a number",
            source="Shazeer and Stern 2018, algorithm 4, without the first moment",
            make=_adafactor,
        ),
        Optimizer(
            name="adamw_bnb_8bit",
            rule="two bytes a trained weight and two float32 constants for each 256 of them; tensors below 4,096 "
            "numbers, and embeddings, eight bytes",
            source=f"Dettmers et al. 2022, 8-bit Optimizers; {_BNB}",
            bits=8,
        ),
        Optimizer(
            name="paged_adamw_32bit",
            rule="as adamw, in pages that move to the host when the device is full",
            source=f"Dettmers et al. 2023, section 3; {_BNB}",
            paged="on",
        ),
        Optimizer(
            name="paged_adamw_8bit",
            rule="as adamw_bnb_8bit, in pages that move to the host when the device is full",
            source=f"Dettmers et al. 2023, section 3; {_BNB}",
            bits=8,
            paged="on",
        ),
    )
}
_ALIASES = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit", "paged_adamw": "paged_adamw_32bit"}
DEFAULT_OPTIMIZER = "adamw_torch_fused"


def find_optimizer(name: str) -> Optimizer:
    """An optimiser by its name.

    Raises:
        SettingError: there is none of that name, or none that can be planned.
    """
    found = OPTIMIZERS.get(_ALIASES.get(name, name))
    if found is None:
        known = (*OPTIMIZERS, *_ALIASES)
        raise SettingError(
            f"The memory of the optimiser {name!r} is not known.",
            fix=" ".join(part for part in (did_you_mean(name, known), f"Known are: {', '.join(known)}.") if part),
        )
    return found


def state_bytes(optimizer: Optimizer, model: nn.Module) -> StateBytes:
    """What an optimiser holds for the trainable parameters of a model.

    Args:
        optimizer: From :func:`find_optimizer`.
        model: A model, with weights or without; it is read and not changed.
    """
    embeddings = {
        id(one)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for one in module.parameters(recurse=False)
    }
    trained = [one for one in model.parameters() if one.requires_grad]
    if optimizer.make is None:
        return _by_rule(optimizer, trained, embeddings)
    with FakeTensorMode():
        copies = [nn.Parameter(torch.empty(one.shape, dtype=one.dtype, device="cpu")) for one in trained]
        return _by_running(optimizer.make(copies), copies)


def _by_running(made: Any, trained: list[nn.Parameter]) -> StateBytes:
    for one in trained:
        one.grad = torch.empty_like(one)
    made.step()  # makes the states
    memory = TensorMemory(trained)
    memory.follow(one.grad for one in trained if one.grad is not None)
    memory.follow(value for state in made.state.values() for value in state.values() if isinstance(value, torch.Tensor))
    held = memory.live
    with memory:
        made.step()
    memory.close()
    return StateBytes(states=optimizer_bytes(made), temporary=memory.peak - held)


def _by_rule(optimizer: Optimizer, trained: list[nn.Parameter], embeddings: set[int]) -> StateBytes:
    here = paged = 0
    for one in trained:
        small = optimizer.bits == 32 or one.numel() < _SMALLEST_8BIT or id(one) in embeddings
        moments = optimizer.moments * one.numel() * (4 if small else 1)
        constants = 0 if small else optimizer.moments * 4 * -(-one.numel() // _BLOCK)
        if optimizer.paged == "on" and one.numel() >= _SMALLEST_PAGED:
            paged += moments
            here += constants
        else:
            here += moments + constants
    if optimizer.bits == 8 and trained:
        here += 2 * 256 * 4  # the two tables of 8-bit values
    return StateBytes(states=here, paged=paged)
