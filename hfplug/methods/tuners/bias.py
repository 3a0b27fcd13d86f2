r"""BitFit as PEFT sees it: a layer that adds a trained difference to its output.

A layer that computes ``f(x) + b`` computes ``f(x) + b + d`` with the vector d of shape (out,), which starts at zero.
Training d is training b, and the base's own b stays as it was. d is held in float32, also over a base in 16 bits,
where the steps of training would be lost in the rounding of b.

Not every layer adds its bias to the last dimension of what it gives (a convolution adds it to the second), or to what
it gives at all (a router chooses by the sum). Such a layer is called with b + d in the place of b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn

from hfplug.methods.tuners.layers import LayerConfig, LayerTuner


@dataclass
class Config(LayerConfig):
    """The content of ``adapter_config.json``: the layers whose bias is trained."""

    word: ClassVar[str] = "HFPLUG_BITFIT"


class BiasLayer(nn.Module, BaseTunerLayer):
    """A layer with a bias, and the difference to it of each adapter.

    Args:
        base_layer: The layer of the base; it is called, not changed.
        adapter_name: The name of the first adapter.
        config: Its settings.
    """

    adapter_layer_names = ("bitfit_bias",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: Config) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bitfit_bias = nn.ParameterDict({})
        self.merged_adapters: list[str] = []
        self._unmerged: torch.Tensor | None = None
        self._active_adapter = adapter_name
        self.add(adapter_name, config)

    def add(self, adapter_name: str, config: Config) -> None:
        """Make the difference of one more adapter, of zeros."""
        bias = self._own_bias()
        self.bitfit_bias[adapter_name] = nn.Parameter(torch.zeros_like(bias, dtype=torch.float32))
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _own_bias(self) -> torch.Tensor:
        return self.get_base_layer().bias  # type: ignore[return-value]

    def _difference(self) -> torch.Tensor | None:
        if self.disable_adapters or self.merged:
            return None
        own = [self.bitfit_bias[name] for name in self.active_adapters if name in self.bitfit_bias]
        return torch.stack(list(own)).sum(0) if len(own) > 1 else (own[0] if own else None)

    @property
    def bias(self) -> torch.Tensor:
        """What the layer adds, for models that read it instead of calling the layer."""
        difference = self._difference()
        own = self._own_bias()
        return own if difference is None else (own + difference).to(own.dtype)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """The layer's output, with the difference of the active adapters."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        difference = self._difference()
        if difference is None:
            return self.base_layer(x, *args, **kwargs)
        if not _ends_with_its_bias(self.get_base_layer()):
            return self._with_another_bias(x, *args, **kwargs)
        result = self.base_layer(x, *args, **kwargs)
        return (result + difference).to(result.dtype)

    def _with_another_bias(self, *args: Any, **kwargs: Any) -> Any:
        held = self.get_base_layer()._parameters
        own, held["bias"] = held["bias"], self.bias  # type: ignore[assignment]
        try:
            return self.base_layer(*args, **kwargs)
        finally:
            held["bias"] = own

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the difference to the bias of the base; the bias as it was is kept for :meth:`unmerge`.

        Raises:
            ValueError: with ``safe_merge``, if the sum is not finite.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) or () if name in self.bitfit_bias]
        if not names:
            return
        bias = self._own_bias()
        summed = (bias.data + torch.stack([self.bitfit_bias[name].data for name in names]).sum(0)).to(bias.dtype)
        if safe_merge and not bool(torch.isfinite(summed).all()):
            raise ValueError(f"NaNs detected in the merged bias of {names}.")
        if self._unmerged is None:  # else another adapter is merged already
            self._unmerged = bias.data
        bias.data = summed
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Put the bias back, bit for bit."""
        if self._unmerged is not None:
            self._own_bias().data = self._unmerged
        self._unmerged = None
        self.merged_adapters = []


def _ends_with_its_bias(layer: nn.Module) -> bool:
    """Whether a layer's last step is to add its bias to the last dimension of its one output."""
    usual = type(layer).forward in (nn.Linear.forward, nn.LayerNorm.forward)
    return usual or type(layer).__name__ in ("Conv1D", "Linear4bit")  # of GPT-2 and of bitsandbytes


class Model(LayerTuner):
    """A model with trained differences to its biases."""

    prefix = "bitfit_"
    tuner_layer_cls = BiasLayer
