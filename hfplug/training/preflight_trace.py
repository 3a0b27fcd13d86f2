"""The preflight leaves no trace: what it touches is noted before and put back afterwards.

A run with the preflight has to be the run without it, bit for bit. So random numbers, modes, gradients, buffers, hooks
and the method's own state are put back, and so is whatever the Trainer, the data set and the collator keep for
themselves: a generator of random numbers, a counter, a list.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

# What activation checkpointing sets on modules.
_CHECKPOINTING = ("gradient_checkpointing", "_gradient_checkpointing_func", "_require_grads_hook")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
_CONTAINERS = (list, dict, set, collections.deque)
_DEPTH = 4

Undo = Callable[[], None]


@contextlib.contextmanager
def nothing_changed(trainer: Any) -> Iterator[None]:
    """Put everything back after the block.

    Args:
        trainer: A Trainer that is about to train.
    """
    undo = [
        _random_numbers(),
        _model(trainer.model),
        _objects(trainer, trainer.train_dataset, trainer.eval_dataset, trainer.data_collator),
    ]
    try:
        yield
    finally:
        for one in undo:
            one()


def _random_numbers() -> Undo:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None

    def undo() -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)

    return undo


def _model(model: nn.Module) -> Undo:
    modes = [(module, module.training) for module in model.modules()]
    hooks = [
        (getattr(module, name), dict(getattr(module, name)))
        for module in model.modules()
        for name in _HOOKS
        if hasattr(module, name)
    ]
    flags = [
        (module, name, module.__dict__.get(name, _CHECKPOINTING))
        for module in model.modules()
        for name in _CHECKPOINTING
    ]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if buffer.device.type != "meta"]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    configs = [(config, dict(vars(config))) for config in getattr(model, "peft_config", {}).values()]
    plug = model.__dict__.get("_hfplug")
    state = plug.state if plug is not None else None

    def undo() -> None:
        for module, mode in modes:
            module.training = mode
        for held, before in hooks:
            if dict(held) != before:
                held.clear()
                held.update(before)
        for module, name, value in flags:
            if value is not _CHECKPOINTING:
                module.__dict__[name] = value
            else:
                module.__dict__.pop(name, None)
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for config, before in configs:
            vars(config).clear()
            vars(config).update(before)
        if plug is not None:
            plug.state = state

    return undo


def _objects(*roots: Any) -> Undo:
    undo: list[Undo] = []
    seen: set[int] = set()
    for root in roots:
        _note(root, undo, seen, 0)

    def undo_all() -> None:
        for one in undo:
            one()

    return undo_all


def _note(one: Any, undo: list[Undo], seen: set[int], depth: int) -> None:
    """Note what an object keeps for itself, and what the objects that it holds keep, a few steps deep."""
    if id(one) in seen or depth > _DEPTH:
        return
    seen.add(id(one))
    put_back = _generator(one)
    if put_back is not None:
        undo.append(put_back)
    elif isinstance(one, _CONTAINERS):
        if len(one) > 1000:  # rows, and no state
            return
        before = copy.copy(one)
        undo.append(lambda: _refill(one, before))
        for item in one.values() if isinstance(one, dict) else one:
            _note(item, undo, seen, depth + 1)
    elif hasattr(one, "__dict__") and not isinstance(one, (type, nn.Module)) and not callable_of_a_module(one):
        held = dict(vars(one))
        undo.append(lambda: _put_attributes_back(one, held))
        for name, value in held.items():
            # The model and what belongs to it are noted apart; accelerate keeps its state for all of the process.
            if name not in ("model", "model_wrapped", "accelerator", "args", "state", "control", "callback_handler"):
                _note(value, undo, seen, depth + 1)


def _generator(one: Any) -> Undo | None:
    """How to put a generator of random numbers back, or None if it is none."""
    if isinstance(one, random.Random):
        state = one.getstate()
        return lambda: one.setstate(state)
    if isinstance(one, np.random.RandomState):
        legacy = one.get_state()
        return lambda: one.set_state(legacy)
    if isinstance(one, np.random.Generator):
        inner = copy.deepcopy(one.bit_generator.state)
        return lambda: setattr(one.bit_generator, "state", inner)
    if isinstance(one, torch.Generator):
        tensor = one.get_state()
        return lambda: _set_state(one, tensor)
    return None


def _set_state(generator: torch.Generator, state: torch.Tensor) -> None:
    generator.set_state(state)


def _refill(container: Any, before: Any) -> None:
    if len(container) == len(before) and all(a is b for a, b in zip(_items(container), _items(before), strict=True)):
        return
    container.clear()
    container.extend(before) if hasattr(container, "extend") else container.update(before)


def _items(container: Any) -> list[Any]:
    return [part for pair in container.items() for part in pair] if isinstance(container, dict) else list(container)


def _put_attributes_back(one: Any, held: dict[str, Any]) -> None:
    now = vars(one)
    if now.keys() == held.keys() and all(now[name] is held[name] for name in held):
        return
    now.clear()
    now.update(held)


def callable_of_a_module(one: Any) -> bool:
    """Whether an object is a function or a bound method, whose ``__dict__`` is no state of a run."""
    return hasattr(one, "__code__") or hasattr(one, "__func__")


def can_be_read_twice(data: Any) -> bool:
    """Whether rows of a stream can be looked at without its being read: it gives a fresh iterator each time.

    A data set that is its own iterator, or that holds an open file or a generator, is used up by whoever reads it.

    Args:
        data: A data set without a length.
    """
    if hasattr(data, "__next__"):
        return False
    inner = getattr(data, "_ex_iterable", None)  # of datasets: its streams start again at each iter()
    if inner is not None:
        return True
    held = list(vars(data).values()) if hasattr(data, "__dict__") else []
    return not any(hasattr(value, "__next__") or hasattr(value, "readline") for value in held)
