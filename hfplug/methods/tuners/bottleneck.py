r"""Bottleneck adapters as PEFT sees them: a small network after a module, or beside it.

With the module F and its input x the layer computes

    y = F(x) + scale * U act(D h + d) + u        h = F(x) (after it) or x (beside it)

with D of shape (width / reduction_factor, width) and U of shape (width, width / reduction_factor). U and u start at
zero, so that the layer starts as F. The network is held and computed in float32, also over a base in 16 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from hfplug.errors import MethodError
from hfplug.methods.tuners.layers import LayerConfig, LayerTuner


@dataclass
class Config(LayerConfig):
    """The content of ``adapter_config.json``: the modules that get a network, and its shape.

    Attributes:
        width: Numbers that such a module gives, where it does not say so itself.
        reduction_factor: Width by the width of the network.
        non_linearity: relu, gelu, silu or tanh.
        scale: What the network's output is multiplied by.
        place: ``"after"`` or ``"beside"`` the module.
    """

    word: ClassVar[str] = "HFPLUG_BOTTLENECK"

    width: int = field(default=0)
    reduction_factor: float = field(default=16.0)
    non_linearity: str = field(default="relu")
    scale: float = field(default=1.0)
    place: str = field(default="after")


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A module and the networks after it or beside it, one an adapter.

    Args:
        base_layer: A module that takes one tensor of shape (…, in) and gives one of shape (…, width); further
            arguments are passed on, and of a tuple the first entry is taken.
        adapter_name: The name of the first adapter.
        config: Its settings.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: Config) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict({})
        self.bottleneck_up = nn.ModuleDict({})
        self.settings: dict[str, Config] = {}
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.add(adapter_name, config)

    def add(self, adapter_name: str, config: Config) -> None:
        """Make the network of one more adapter."""
        base = self.get_base_layer()
        named = (getattr(base, name, None) for name in ("out_features", "nf", "out_channels"))
        given = next((one for one in named if one), config.width)
        fed = int(given) if config.place == "after" else config.width
        middle = max(1, round(given / config.reduction_factor))
        device = next(base.parameters()).device
        down = nn.Linear(fed, middle, device=device, dtype=torch.float32)
        up = nn.Linear(middle, int(given), device=device, dtype=torch.float32)
        if device.type != "meta":
            nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
            for tensor in (down.bias, up.weight, up.bias):
                nn.init.zeros_(tensor)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self.settings[adapter_name] = config
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives, with that of the active networks added; the first argument is its input."""
        x = args[0] if args else next(iter(kwargs.values()))
        whole = self.base_layer(*args, **kwargs)
        if self.disable_adapters:
            return whole
        result = plain = whole[0] if isinstance(whole, tuple) else whole
        for name in self.active_adapters:
            if name not in self.bottleneck_down:
                continue
            config, down, up = self.settings[name], self.bottleneck_down[name], self.bottleneck_up[name]
            hidden = (plain if config.place == "after" else x).to(down.weight.dtype)
            act = getattr(nn.functional, config.non_linearity)
            # A convolution gives (batch, width, positions).
            axis = 1 if isinstance(self.get_base_layer(), nn.Conv1d) else -1
            result = result + config.scale * up(act(down(hidden.movedim(axis, -1)))).movedim(-1, axis)
        result = result.to(plain.dtype)
        return (result, *whole[1:]) if isinstance(whole, tuple) else result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused.

        Raises:
            MethodError: always: no weight of the base computes a non-linear function of its input.
        """
        raise MethodError(
            "A bottleneck adapter is a network with a non-linearity, so there is no weight to merge it into.",
            fix="Serve it beside the base, or train lora, which merges.",
        )

    def unmerge(self) -> None:
        """Nothing is ever merged."""


class Model(LayerTuner):
    """A model with bottleneck adapters in it."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
