r"""A fully tuned model held as its difference to the base, a byte a number.

A trained weight W is the base's W0 plus a difference, which is small. Each row of the difference is kept as whole
numbers q from -127 to 127 and one factor s, its largest absolute value by 127::

    W[i, :]  is about  W0[i, :] + s[i] * q[i, :]

The error is at most s/2 a number, so it shrinks with the difference itself. W0 is the base's own memory. A linear
layer computes ``x W0' + (x q') * s`` and never builds W; an embedding adds up the rows that it looks up; any other
module with a matrix builds it anew in each pass. Vectors (norms, biases) and matrices of another shape than the base's
are kept as they are, and whatever is the base's bit for bit is the base's memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hfplug.serving.clones import same_bits, share

_LEVELS = 127
# Numbers of a difference that are unpacked at once: 16 MB in float32.
_AT_ONCE = 1 << 22


def as_difference(base: nn.Module, tuned: nn.Module) -> nn.Module:
    """A clone of the base that computes what a fully tuned model does, but for the rounding of the difference.

    Args:
        base: The base; only read.
        tuned: The fully tuned model, of the same class; only read.

    Returns:
        The clone, in eval mode.
    """
    clone = share(base)
    theirs = dict(tuned.named_parameters(remove_duplicate=False))
    packed: dict[int, tuple[Tensor, Tensor]] = {}
    own: dict[int, nn.Parameter] = {}
    for name, module in list(clone.named_modules(remove_duplicate=False)):
        for key, weight in list(module._parameters.items()):
            trained = theirs.get(f"{name}.{key}" if name else key)
            if weight is None or trained is None or same_bits(trained, weight):
                continue
            if weight.dim() != 2 or trained.shape != weight.shape:
                module._parameters[key] = own.setdefault(
                    id(trained), nn.Parameter(trained.detach().clone(), requires_grad=False)
                )
                continue
            if id(trained) not in packed:  # tied weights have one difference
                packed[id(trained)] = _pack(trained.detach(), weight.detach())
            _replace(clone, name, key, *packed[id(trained)])
    for name, module in clone.named_modules():
        trained_module = tuned.get_submodule(name) if not isinstance(module, _Unpacked) and _has(tuned, name) else None
        for key, buffer in list(module._buffers.items()):
            other = None if trained_module is None else trained_module._buffers.get(key)
            if buffer is not None and other is not None and not same_bits(buffer, other):
                module._buffers[key] = other.detach().clone()
    return clone.eval()


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def _pack(trained: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """The difference as int8 of shape (rows, columns), and the factor of each row, of shape (rows, 1)."""
    difference = trained.float() - base.float()
    factor = difference.abs().amax(dim=1, keepdim=True) / _LEVELS
    codes = torch.round(difference / factor.clamp_min(torch.finfo(torch.float32).tiny)).to(torch.int8)
    return codes, factor


def _replace(model: nn.Module, name: str, key: str, codes: Tensor, factor: Tensor) -> None:
    module = model.get_submodule(name)
    owner, _, last = name.rpartition(".")
    if key == "weight" and type(module) is nn.Linear:
        model.get_submodule(owner)._modules[last] = _Linear(module, codes, factor)
    elif key == "weight" and type(module) is nn.Embedding:
        model.get_submodule(owner)._modules[last] = _Embedding(module, codes, factor)
    else:
        parametrize.register_parametrization(module, key, _Sum(codes, factor), unsafe=True)


class _Unpacked(nn.Module):
    """A module of the base, and the difference of its weight."""

    def __init__(self, inner: nn.Module, codes: Tensor, factor: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("codes", codes)
        self.register_buffer("factor", factor)

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            return self._whole()
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def _whole(self) -> Tensor:
        weight: Tensor = super().__getattr__("inner").weight
        return torch.addcmul(weight.float(), self.codes.float(), self.factor).to(weight.dtype)


class _Linear(_Unpacked):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x)
        rows = max(1, _AT_ONCE // self.codes.shape[1])
        for start in range(0, self.codes.shape[0], rows):
            place = slice(start, start + rows)
            part = nn.functional.linear(x, self.codes[place].to(x.dtype))
            result[..., place] += part * self.factor[place, 0].to(x.dtype)
        return result


class _Embedding(_Unpacked):
    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.inner(ids)
        return torch.addcmul(found.float(), self.codes[ids].float(), self.factor[ids]).to(found.dtype)


class _Sum(nn.Module):
    """Builds the weight of any other module whenever it is read."""

    def __init__(self, codes: Tensor, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("factor", factor)

    def forward(self, weight: Tensor) -> Tensor:
        return torch.addcmul(weight.float(), self.codes.float(), self.factor).to(weight.dtype)
