"""An adapter merged into weights of its own, for a variant that is asked alone: faster, and more memory."""

from __future__ import annotations

from torch import nn

from hfplug.adapters.merge_loaded import REFUSALS_OF_PEFT
from hfplug.errors import ServingError
from hfplug.methods import TuningMethod
from hfplug.serving.clones import give_own


def merge_into_own(tuned: nn.Module, method: TuningMethod) -> None:
    """Merge the adapter of a ``PeftModel`` over a clone. The base's memory is not written into.

    The weights that it goes into become the clone's own first. Nothing undoes it but making the variant anew, which
    gives the base's memory back exactly; PEFT's ``unmerge`` subtracts, which leaves rounding errors.

    Args:
        tuned: From ``put_on``, over a clone (:func:`~hfplug.serving.clones.share`).
        method: Its method.

    Raises:
        ServingError: The method cannot be merged, or the base is quantised.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {name: module for name, module in tuned.named_modules() if isinstance(module, BaseTunerLayer)}
    if not layers or not hasattr(tuned, "merge_adapter") or method.merging.startswith("no"):
        reason = method.merging if method.merging != "exact" else "there is no layer to merge it into"
        raise ServingError(f"{method.name} cannot be merged: {reason}.", fix="Pass merge='never'.")
    if any(hasattr(parameter, "quant_state") for parameter in tuned.parameters()):
        raise ServingError(
            "An adapter is not merged into a quantised base: its weights would be rounded to four bits again.",
            fix="Pass merge='never', or attach it to the base in 16 or 32 bits.",
        )
    bases = {name: layer.get_base_layer() for name, layer in layers.items()}  # type: ignore[operator]
    inside = {id(parameter) for module in bases.values() for parameter in module.parameters()}
    give_own(tuned, {name for name, one in tuned.named_parameters(remove_duplicate=False) if id(one) in inside})
    try:
        tuned.merge_adapter(safe_merge=True)  # type: ignore[operator]
    except REFUSALS_OF_PEFT as error:
        reason = str(error) or "PEFT cannot merge its layers"
        raise ServingError(f"{method.name} cannot be merged: {reason}", fix="Pass merge='never'.") from error
