"""An optimiser that a script built before the method was on its model holds the wrong weights: it is refilled."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from hfplug.errors import TrainingError

logger = logging.getLogger(__name__)


def refill_optimizer(optimizer: Any, model: nn.Module) -> int:
    """Make an optimiser hold what is trained on the model now, in place, so that a schedule made for it goes on.

    Each group keeps its settings. A weight goes into the group that holds most of the base's weights with as many
    dimensions: so a group without weight decay for biases and norms stays just that.

    Args:
        optimizer: A torch optimiser that has not made a step.
        model: The model as the Trainer holds it.

    Returns:
        How many tensors were put in that it did not hold; 0 if it was right already.

    Raises:
        TrainingError: It has made steps, or has no groups to fill.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    absent = [parameter for parameter in trained if id(parameter) not in held]
    if not absent:
        return 0
    if optimizer.state and any(optimizer.state.values()):
        raise TrainingError(
            f"The script's {type(optimizer).__name__} has made steps already and does not hold {len(absent)} of the "
            "tensors that should train.",
            fix="Let Trainer build the optimizer, or build it after the Trainer.",
        )
    home = {min(parameter.dim(), 2): _group_for(optimizer, min(parameter.dim(), 2)) for parameter in absent}
    wanted = {id(parameter) for parameter in trained}
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) in wanted]
    for parameter in absent:
        optimizer.param_groups[home[min(parameter.dim(), 2)]]["params"].append(parameter)
    logger.info(
        "The script's %s was built before the method was on the model; it now holds the %d tensors that train.",
        type(optimizer).__name__,
        len(trained),
    )
    return len(absent)


def leave_out_frozen(optimizer: Any) -> int:
    """Take what is frozen out of an optimiser that a script filled with every parameter of the model.

    It would not move, but it would be counted, and an optimiser of one's own might still decay or store it.

    Args:
        optimizer: A torch optimiser; left as it is once it has made a step.

    Returns:
        How many tensors were taken out.
    """
    if optimizer.state and any(optimizer.state.values()):
        return 0
    frozen = 0
    for group in optimizer.param_groups:
        trained = [parameter for parameter in group["params"] if parameter.requires_grad]
        frozen += len(group["params"]) - len(trained)
        group["params"] = trained
    return frozen


def set_learning_rate(optimizer: Any, scheduler: Any, value: float) -> None:
    """Give every group of an optimiser, and a schedule over it, a new learning rate.

    Args:
        optimizer: A torch optimiser, or None.
        scheduler: A torch schedule over it, or None.
        value: The rate.
    """
    for group in optimizer.param_groups if optimizer is not None else ():
        ratio = group["lr"] / group["initial_lr"] if group.get("initial_lr") else 1.0
        group["lr"] = value * ratio
        if "initial_lr" in group:
            group["initial_lr"] = value
    if scheduler is not None and hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [value for _ in scheduler.base_lrs]


def _group_for(optimizer: Any, dimensions: int) -> int:
    """The group that holds most tensors of 2 and more dimensions, or most with fewer."""
    counts = [
        sum(min(parameter.dim(), 2) == dimensions for parameter in group["params"]) for group in optimizer.param_groups
    ]
    if not counts:
        raise TrainingError("The script's optimizer has no parameter groups.", fix="Let Trainer build the optimizer.")
    return counts.index(max(counts))
