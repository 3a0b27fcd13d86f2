"""Weights that a model's own class keeps from being trained, kept so in the copies that a method trains.

A router's bias that balances the experts (Laguna, AFMoE, ERNIE 4.5) is a parameter that no gradient arrives at: it
only chooses. Its class says so by ``requires_grad=False``, which transformers takes off when it loads the weights
(5.23, core_model_loading), and PEFT when it copies the layer. An optimiser would then hold it, and DDP stop at it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from hfplug.models.tryout import at_rest, few_tokens, forth_and_back, on_meta

_TOKENS = 16


def keep_untrained(tuned: Any) -> None:
    """Hold what the class of the base does not train as a buffer in each trained copy of a module.

    Not as a frozen parameter: PEFT turns gradients on again whenever adapters are switched off and on. The name, and so
    what is saved, stays.

    Args:
        tuned: What PEFT made of the base; changed in place.
    """
    copies = _copies(tuned)
    # A norm's weight and bias, say: then the class need not be asked.
    if all({own for own, _ in copied.named_parameters()} <= {"weight", "bias"} for _, copied in copies):
        return
    base = tuned.get_base_model()
    prefix = next(name for name, module in tuned.named_modules() if module is base)
    still = _not_trained(base)
    for name, copied in copies:
        holder = name.removeprefix(f"{prefix}.")
        for own, parameter in list(copied.named_parameters()):
            if f"{holder}.{own}" in still:
                _as_buffer(copied, own, parameter)
    _leave_out_unreached(tuned, base)


def _as_buffer(copied: nn.Module, own: str, parameter: nn.Parameter) -> None:
    inside, _, last = own.rpartition(".")
    owner = copied.get_submodule(inside)
    delattr(owner, last)
    owner.register_buffer(last, parameter.detach())


def _leave_out_unreached(tuned: Any, base: nn.Module) -> None:
    """Do the same with what no gradient of a short run arrives at, though one does at its neighbours in a module.

    XLNet's attention has weights for segments, which a text alone has not; those of positions in Funnel's last block do
    nothing for the token that is classified; Gemma 3n's scale of AltUp is used only if its configuration says so. A
    module that none arrives at, nor at what is in it, says nothing: of experts in a list not all are chosen, and some
    layers wait for a longer text (DeepSeek V4).
    """
    from peft.utils.other import ModulesToSaveWrapper

    whole = [module for module in base.modules() if isinstance(module, ModulesToSaveWrapper)]
    inside = [part for one in whole for copied in one.modules_to_save.values() for part in copied.modules()]
    holders = [part for part in inside if next(part.parameters(recurse=False), None) is not None]
    if not holders or on_meta(tuned):
        return
    try:
        with at_rest(tuned), torch.enable_grad():
            forth_and_back(tuned, few_tokens(base, _TOKENS))
    except Exception:  # a model of anybody: then all is trained, as PEFT has it
        return
    finally:
        arrived = {id(one) for one in tuned.parameters() if one.grad is not None and bool(one.grad.any())}
        tuned.zero_grad(set_to_none=True)
    for part in holders:
        own = dict(part.named_parameters(recurse=False))
        if any(id(one) in arrived for one in part.parameters()):
            for name, one in own.items():
                if id(one) not in arrived:
                    _as_buffer(part, name, one)


def _not_trained(base: Any) -> set[str]:
    """The parameters that the class of a model makes without a gradient."""
    try:
        with torch.device("meta"):
            fresh = type(base)._from_config(copy.deepcopy(base.config))
    except Exception:  # a class of anybody: then all is trained, as PEFT has it
        return set()
    return {name for name, one in fresh.named_parameters(remove_duplicate=False) if not one.requires_grad}


def _copies(tuned: nn.Module) -> list[tuple[str, nn.Module]]:
    """The copies that are trained, each with the name of the module that it is a copy of."""
    from peft.tuners.ln_tuning.layer import LNTuningLayer
    from peft.utils.other import ModulesToSaveWrapper

    found: list[tuple[str, nn.Module]] = []
    for name, module in tuned.named_modules():
        if isinstance(module, LNTuningLayer):
            found += [(name, copied) for copied in module.ln_tuning_layers.values()]
        elif isinstance(module, ModulesToSaveWrapper):
            found += [(name, copied) for copied in module.modules_to_save.values()]
    return found
