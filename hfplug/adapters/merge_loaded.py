"""An adapter merged into a loaded model for a while, and every bit of the base as it was afterwards."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import nn

from hfplug.errors import MethodError

# How PEFT refuses: numbers that are not finite, a bias that would have no place, layers that know no merging.
REFUSALS_OF_PEFT = (ValueError, RuntimeError, NotImplementedError, TypeError, AttributeError)


@contextlib.contextmanager
def merged_in_place(model: nn.Module) -> Iterator[nn.Module]:
    """Merge what is on a ``PeftModel`` into its weights for the time of a block.

    PEFT's ``unmerge_adapter`` subtracts what ``merge_adapter`` added, which leaves rounding errors in the base. Here
    the base's own numbers are kept beside the merged ones meanwhile (the memory of the weights that are changed) and
    are put back: merged and unmerged a thousand times, the base is what it was, bit for bit.

    Args:
        model: The base with an adapter on it. Do not train it inside the block: what that would do to the base is lost.

    Yields:
        The same model, merged: it answers as before, without the adapter's cost.

    Raises:
        MethodError: There is nothing that can be merged, it is merged already, the base is quantised, or a weight that
            would change is tied to another one.
    """
    layers = tuner_layers(model)
    bases = [layer.get_base_layer() for layer in layers]
    parameters = {id(one): one for base in bases for one in base.parameters()}
    _refuse(model, layers, parameters)
    tuned: Any = model
    kept = [(one, one.data) for one in parameters.values()]
    try:
        for one, data in kept:
            one.data = data.clone()
        try:
            tuned.merge_adapter(safe_merge=True)
        except REFUSALS_OF_PEFT as error:
            raise MethodError(f"PEFT cannot merge it: {error or type(error).__name__}.") from error
        yield model
    finally:
        if any(layer.merged for layer in layers):
            tuned.unmerge_adapter()
        for one, data in kept:
            one.data = data


def tuner_layers(model: nn.Module) -> list[Any]:
    """PEFT's layers in a module, itself among them: for two parameters of one module (experts), one wraps the other.

    Args:
        model: A ``PeftModel``, or a part of one.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _refuse(model: nn.Module, layers: list[Any], parameters: dict[int, nn.Parameter]) -> None:
    if not layers or not hasattr(model, "merge_adapter"):
        raise MethodError(
            "There is no adapter on this model that has a weight to be merged into.",
            fix="Pass the PeftModel that hfplug.load_adapter returns; a soft prompt is an input and stays beside it.",
        )
    if any(layer.merged for layer in layers):
        raise MethodError("The adapter is merged already.", fix="Call model.unmerge_adapter() first.")
    if any(hasattr(one, "quant_state") for one in parameters.values()):
        raise MethodError(
            "The base is quantised: merged into it, most of what the adapter has learnt would be rounded away.",
            fix="Load it with the base in 16 or 32 bits, or write a merged model with hfplug merge.",
        )
    inside = Counter(id(one) for layer in layers for one in layer.get_base_layer().parameters())
    holders = Counter(id(one) for _, one in model.named_parameters(remove_duplicate=False))
    # One wrapper of PEFT inside another (stacked experts) makes no second holder, but two layers over one weight do.
    if any(holders[number] > 1 for number in inside):
        raise MethodError(
            "The adapter changes a weight that is tied to another one: merged, both would change.",
            fix="Write a merged model with hfplug merge, which gives each its own.",
        )
