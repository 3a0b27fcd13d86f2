"""Ranks and scales of LoRA that differ from layer to layer: ``feed_forward=8 q_proj=32``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hfplug.errors import MethodError, SettingError, did_you_mean

if TYPE_CHECKING:
    from hfplug.methods.lora import Lora
    from hfplug.methods.method import AnatomyView

HIGHEST = 65536


def parse_pattern(method: str, name: str, pattern: tuple[str, ...]) -> dict[str, int]:
    """What a pattern says.

    Args:
        method: The name of the method, for messages.
        name: The name of the setting, for messages.
        pattern: Texts ``layer=number``.

    Returns:
        Group or layer to number.

    Raises:
        SettingError: for a text of another form.
    """
    found = {}
    for text in pattern:
        layer, equals, number = str(text).rpartition("=")
        if not equals or not layer.strip() or not number.strip().isdigit() or not 1 <= int(number) <= HIGHEST:
            raise SettingError(
                f"{method}: {name} takes layer=number, with a number from 1 to {HIGHEST}, not {text!r}.",
                fix=f"For example {name}={{'feed_forward': 8}}, or --lora_{name} feed_forward=8 q_proj=32.",
            )
        found[layer.strip()] = int(number)
    return found


def layer_pattern(method: Lora, name: str, targets: Any, anatomy: AnatomyView) -> dict[str, int]:
    """A pattern of the settings as PEFT takes it.

    Args:
        method: LoRA or one of its kind.
        name: ``"rank_pattern"`` or ``"alpha_pattern"``.
        targets: Endings of the names of the layers that it goes on.
        anatomy: The model.

    Returns:
        Expressions that match the names of layers, as few as there may be; where a layer is meant twice, what is said
        last holds.

    Raises:
        MethodError: for a name that means none of the layers that LoRA goes on.
    """
    from hfplug.methods.lora import matching_layers, shortest_names

    said = parse_pattern(method.name, name, getattr(method, name))
    if not said:
        return {}
    endings = tuple(targets or ())
    adapted = {one for one in anatomy.modules if any(one == end or one.endswith(f".{end}") for end in endings)}
    # Experts in stacked tensors: PEFT goes by the names of the parameters.
    stacked = anatomy.expert_tensors if "experts" in method.target_modules else ()
    numbers: dict[str, int] = {}
    for layer, number in said.items():
        meant = [one for one in matching_layers(layer, anatomy) if one in adapted]
        meant += [one for one in stacked if layer == "experts" or one.endswith(f".{layer}")]
        if not meant:
            raise MethodError(
                f"{method.name}: {name} names {layer!r}, which is none of the layers that it goes on.",
                fix=f"{did_you_mean(layer, endings)} These end in: {', '.join(sorted(endings)) or 'experts'}; add the"
                " layer to target_modules, or leave it out.".strip(),
            )
        numbers.update(dict.fromkeys(meant, number))
    found = {}
    for number in dict.fromkeys(numbers.values()):
        alike = tuple(one for one in numbers if numbers[one] == number)
        found.update({re.escape(ending): number for ending in shortest_names(alike, (*anatomy.modules, *stacked))})
    return found
