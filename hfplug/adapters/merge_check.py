"""Whether a merged model answers as base and adapter did together.

The logits on the probe's inputs are compared, within the probe's tolerance. A model may be so sensitive that one
rounding of its weights moves the answers further than that, and a merge is one rounding of the weights. Where the
tolerance is exceeded, the merged model is therefore compared with itself after every weight was moved by up to one
rounding of its format, and a few times that difference is allowed, up to a limit beyond which nothing could be told
apart.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import nn

from hfplug.adapters.probe import ProbeResult, compare_probe, make_probe

# Half a step between neighbouring numbers, relative.
_ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
_TIMES = 4.0
_LARGEST = 0.3  # of the logits' root mean square


def compare_merged(probe: dict[str, Any], model: nn.Module, tokenizer: Any, dtype: str) -> ProbeResult:
    """Compare a merged model with what base and adapter answered.

    Args:
        probe: Made of base and adapter.
        model: The merged model, loaded in float32. Its weights are moved a little if the tolerance is exceeded, so it
            is of no use afterwards.
        tokenizer: As for ``compare_probe``.
        dtype: The number format that the merged weights are stored in.

    Returns:
        The largest difference and what was allowed; ``basis`` says if that was widened.
    """
    result = compare_probe(probe, model, tokenizer, adapter_dtype=dtype)
    if result.verdict != "different" or not math.isfinite(result.largest) or result.largest > _LARGEST:
        return result
    own = make_probe(model, tokenizer)
    _move_by_a_rounding_step(model, _ROUNDING.get(dtype, _ROUNDING["float32"]))
    moved = compare_probe(own, model, tokenizer)
    allowed = min(_TIMES * moved.largest, _LARGEST)
    if result.largest > allowed:
        return result
    basis = f"{dtype} on this model, which one rounding of its weights moves by {moved.largest:.2g}"
    return dataclasses.replace(result, verdict="same", tolerance=float(f"{allowed:.2g}"), basis=basis)


def _move_by_a_rounding_step(model: nn.Module, step: float) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                noise = torch.rand(parameter.shape, generator=generator).to(parameter.device, parameter.dtype)
                parameter.mul_(1 + step * (2 * noise - 1))
