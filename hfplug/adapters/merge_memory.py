"""Merging with the whole model in memory, by PEFT's own ``merge_and_unload``."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.merge_combine import Combination
from hfplug.adapters.merge_loaded import REFUSALS_OF_PEFT
from hfplug.adapters.ties import keep_untied, untie
from hfplug.errors import AdapterError, MethodError


def merged_in_memory(tuned: Any, adapter: AdapterDir | None = None) -> Any:
    """Merge what is on a ``PeftModel``.

    Args:
        tuned: The model; it is used up.
        adapter: For the message.

    Returns:
        A plain model of transformers.

    Raises:
        MethodError: PEFT cannot merge this type of adapter.
        AdapterError: The result is not finite.
    """
    untie(tuned)
    try:
        model = tuned.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise AdapterError(f"PEFT cannot merge it: {error}", fix="Export an earlier checkpoint.") from error
    except REFUSALS_OF_PEFT as error:
        kind = adapter.config.get("peft_type") if adapter else "this"
        raise MethodError(
            f"PEFT cannot merge an adapter of type {kind}.",
            fix="Serve it beside its base with hfplug.Service.",
        ) from error
    keep_untied(model)
    return model


def combined_in_memory(
    base: nn.Module, missing: Collection[str], tuned: Iterable[nn.Module], combination: Combination
) -> nn.Module:
    """The combination of several adapters, made of models that PEFT merged.

    It needs the memory of two models, and of the differences.

    Args:
        base: The base in float32. It is changed.
        missing: Names of its parameters that its checkpoint did not hold: a head, which one adapter brings.
        tuned: The base with each adapter, one after another, each used up.
        combination: How they are combined.

    Returns:
        The base with what the adapters make of it.
    """
    own = dict(base.named_parameters())
    changed: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for number, one in enumerate(tuned):
        merged = merged_in_memory(one)
        for name, parameter in merged.named_parameters():
            if name in own and not torch.equal(own[name], parameter):
                changed.setdefault(name, []).append((number, parameter.detach().clone()))
        del merged, one
    with torch.no_grad():
        for name, each in changed.items():
            new = each[0][1] if name in missing else combination.combine(name, own[name].detach(), each)
            own[name].copy_(new)
    return base.eval()
