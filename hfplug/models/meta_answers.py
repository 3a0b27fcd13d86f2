"""What a model that asks about its data is told on ``meta``, where there are none.

That a mask hides nothing, that no padding is in the text, and that rows have one end.
"""

from __future__ import annotations

from typing import Any

import torch

_ANSWERS: dict[str, Any] = {
    "__bool__": lambda tensor: True,
    "__contains__": lambda tensor: False,
    "item": lambda tensor: 1,
    "__int__": lambda tensor: 1,
    "__index__": lambda tensor: 1,
    "__float__": lambda tensor: 1.0,
    "unique_consecutive": lambda tensor: tensor,
}


def answer_on_meta(function: str, args: tuple[Any, ...]) -> Any:
    """What a function of torch gives where its own answer would depend on data that is not there.

    Args:
        function: Its name.
        args: What it is called with.

    Returns:
        ``NotImplemented`` if it can be called as it is.
    """
    first = args[0] if args else None
    if not isinstance(first, torch.Tensor) or first.device.type != "meta":
        return NotImplemented
    if function == "__getitem__" and len(args) > 1:
        # What a mask takes of a tensor, ``states[ends, :]``: all of it.
        mask = args[1][0] if isinstance(args[1], tuple) and args[1] else args[1]
        rest = args[1][1:] if isinstance(args[1], tuple) else ()
        if isinstance(mask, torch.Tensor) and mask.dtype == torch.bool and all(one == slice(None) for one in rest):
            return first.flatten(0, mask.dim() - 1)
    return _ANSWERS[function](first) if function in _ANSWERS else NotImplemented
