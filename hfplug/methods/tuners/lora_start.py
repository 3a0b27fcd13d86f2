r"""How the two matrices of LoRA start, where they start from the weight W of the layer.

PiSSA, OLoRA and MiCA are in PEFT, which for the first two takes a part of W into B A and leaves the rest in W: the base
is another one then, also when the adapter is switched off, and an adapter so made fits no other. Here W stays. What is
trained starts at the same matrices, what it started from is kept beside it and never moves, and the layer computes

    y = W x + s (B A - B0 A0) x        which is        (W - s B0 A0) x + s B A x

the very function, with the very gradients. So A and A0 are one matrix of rank 2r, and B and -B0 are another: an
ordinary LoRA adapter, which loads anywhere, and which is what PEFT makes of its own when it is asked to convert one.
It takes twice the space on disk; the optimiser holds the trained half alone.

* ``pissa``: the r largest singular values and their vectors (Meng et al. 2024, https://arxiv.org/abs/2404.02948,
  section 3); ``pissa_niter_16`` finds them by 16 rounds of a random method (ibid., section 4), far quicker;
* ``olora``: the first r columns of Q and rows of R of W = Q R (Büyükakyüz 2024, https://arxiv.org/abs/2406.01775);
* ``mica``: B is the r left vectors of the smallest singular values and stays, A starts at zero and is trained
  (https://arxiv.org/abs/2604.01694);
* ``loftq``: over 4 bits, what they lost of W (Li et al. 2023, https://arxiv.org/abs/2310.08659): one round of it, as in
  PEFT's ``replace_lora_weights_loftq``, with the base's 4 bits as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hfplug.errors import MethodError

OLORA, MICA, LOFTQ = "olora", "mica", "loftq"
PISSA = ("pissa", "pissa_niter_16")
_ROUNDS = 16


class PartlyFixed(nn.Module):
    """A matrix of LoRA, of which a part is trained and a part stays; it is saved and loaded as one ``weight``.

    Args:
        trained: The part that is trained, or None: shape (r, in) of an A, (out, r) of a B.
        fixed: The part that stays, or None; of the same shape but along ``dim``.
        dim: Along which they stand side by side: 0 for A, 1 for B.
    """

    saved_as_a_whole = True

    def __init__(self, trained: Tensor | None, fixed: Tensor | None, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.trained = nn.Parameter(trained) if trained is not None else None
        self.register_buffer("fixed", fixed, persistent=False)

    @property
    def weight(self) -> Tensor:
        """Both parts as one matrix."""
        return torch.cat([part for part in (self.trained, self.fixed) if part is not None], dim=self.dim)

    def forward(self, x: Tensor) -> Tensor:
        """The product with an input of shape (…, in)."""
        return nn.functional.linear(x, self.weight)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight if keep_vars else self.weight.detach()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        found = state_dict.get(f"{prefix}weight")
        if found is None:
            missing_keys.append(f"{prefix}weight")
            return
        expected = self.weight.shape
        if found.shape != expected:
            error_msgs.append(f"size mismatch for {prefix}weight: {tuple(found.shape)}, and {tuple(expected)} here.")
            return
        at = 0
        with torch.no_grad():
            for part in (self.trained, self.fixed):
                if part is not None:
                    part.copy_(found.narrow(self.dim, at, part.shape[self.dim]))
                    at += part.shape[self.dim]


def start_from_weights(model: Any, how: str, *, method: str) -> None:
    """Let the LoRA on a model start from the weights that it is on.

    Args:
        model: A ``PeftModel`` with an untrained LoRA, of twice the rank for ``pissa`` and ``olora``; changed in place.
        how: The name of the start.
        method: The name of the method, for messages.

    Raises:
        MethodError: A layer, or the base, is of a kind from which one cannot start so.
    """
    adapter = model.active_adapter
    if how == LOFTQ:
        _start_from_what_was_lost(model, adapter, method)
        return
    for name, layer in _layers(model, adapter, how, method):
        weight = _full_weight(layer)
        if how in PISSA and hasattr(layer.get_base_layer().weight, "quant_state"):
            raise MethodError(
                f"{method}: {how} over 4 bits quantises what is left of a weight, which would change the base.",
                fix="Use init_lora_weights='olora' or 'loftq' here, or load the base without a quantization_config.",
            )
        rank = layer.r[adapter] // (1 if how == MICA else 2)
        if rank > min(weight.shape):
            raise MethodError(
                f"{method}: the rank {rank} is more than {name}, of shape {tuple(weight.shape)}, has for {how}.",
                fix=f"Pass r={min(weight.shape)} or less, or a rank_pattern for this layer.",
            )
        a, b = layer.lora_A[adapter], layer.lora_B[adapter]
        first, second = _start(weight, how, rank, layer.scaling[adapter])
        first, second = first.to(a.weight.dtype).contiguous(), second.to(b.weight.dtype).contiguous()
        if how == MICA:
            layer.lora_A[adapter] = PartlyFixed(torch.zeros_like(a.weight.data), None, 0)
            layer.lora_B[adapter] = PartlyFixed(None, second, 1)
        else:
            layer.lora_A[adapter] = PartlyFixed(first.clone(), first, 0)
            layer.lora_B[adapter] = PartlyFixed(second.clone(), -second, 1)


def _layers(model: Any, adapter: str, how: str, method: str) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora.layer import LoraLayer

    for name, layer in list(model.named_modules()):
        if not isinstance(layer, LoraLayer):
            continue
        base = layer.get_base_layer()
        if (
            adapter not in layer.lora_A
            or not isinstance(layer.lora_A[adapter], nn.Linear)
            or hasattr(layer, "parameter_name")
        ):
            raise MethodError(
                f"{method}: {how} starts from the weight of a linear layer, and {name} is a {type(base).__name__}.",
                fix="Use init_lora_weights='default', or name linear layers only.",
            )
        yield name.removeprefix("base_model.model."), layer


def _full_weight(layer: Any) -> Tensor:
    """The weight of a layer in float32, as (out, in)."""
    base = layer.get_base_layer()
    if hasattr(base.weight, "quant_state") and base.weight.device.type != "meta":
        from peft.utils.integrations import dequantize_module_weight

        weight = dequantize_module_weight(base)
    elif type(base.weight).__name__ == "Params4bit":
        return torch.empty(base.out_features, base.in_features, device="meta")
    else:
        weight = base.weight
    weight = weight.detach().to(torch.float32)
    return weight.T if layer.fan_in_fan_out else weight


def _start(weight: Tensor, how: str, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """A of shape (rank, in) and B of shape (out, rank) from W of shape (out, in)."""
    if weight.is_meta:
        return weight.new_empty(rank, weight.shape[1]), weight.new_empty(weight.shape[0], rank)
    if how == OLORA:
        q, r = torch.linalg.qr(weight)
        return r[:rank], q[:, :rank]
    if how == MICA:
        u, _, _ = torch.linalg.svd(weight, full_matrices=False)
        return weight.new_zeros(rank, weight.shape[1]), u[:, -rank:]
    if how == "pissa":
        u, values, v = torch.linalg.svd(weight, full_matrices=False)
        u, values, v = u[:, :rank], values[:rank], v[:rank]
    else:
        u, values, v = torch.svd_lowrank(weight, q=rank, niter=_ROUNDS)
        v = v.T
    root = (values / scale).sqrt()
    return root[:, None] * v, u * root


def _start_from_what_was_lost(model: Any, adapter: str, method: str) -> None:
    """B A is the part of rank r that is nearest to what 4 bits lost of each weight."""
    base = model.get_base_model()
    layers = list(_layers(model, adapter, LOFTQ, method))
    if any(one.is_meta for one in base.parameters()):
        return
    if not all(hasattr(layer.get_base_layer().weight, "quant_state") for _, layer in layers):
        raise MethodError(
            f"{method}: loftq makes up for what 4 bits lost, and this base has layers here that are not in 4 bits.",
            fix="Use qlora, or another init_lora_weights.",
        )
    stored = _Stored(base, method)
    for name, layer in layers:
        exact = stored.weight(f"{name}.weight")
        lost = exact.to(layer.get_base_layer().weight.device, torch.float32) - _full_weight(layer)
        first, second = _start(lost, "pissa", layer.r[adapter], layer.scaling[adapter])
        for matrix, value in ((layer.lora_A[adapter], first), (layer.lora_B[adapter], second)):
            matrix.weight.data = value.to(matrix.weight.dtype).contiguous()


class _Stored:
    """The weights of a base as its safetensors files hold them, read one by one.

    Args:
        base: A transformers model.
        method: The name of the method, for messages.
    """

    def __init__(self, base: Any, method: str) -> None:
        from safetensors import safe_open

        self.method, self.prefix = method, f"{getattr(base, 'base_model_prefix', '')}."
        self.files = {}
        for file in sorted(_checkpoint_of(base, method).glob("*.safetensors")):
            with safe_open(file, framework="pt") as opened:
                self.files.update(dict.fromkeys(opened.keys(), file))

    def weight(self, name: str) -> Tensor:
        """A weight, by its name in the model.

        Raises:
            MethodError: if no file has it.
        """
        from safetensors import safe_open

        found = next((one for one in (name, name.removeprefix(self.prefix)) if one in self.files), None)
        if found is None:
            raise _not_found(self.method, f"no safetensors file of the base has {name}")
        with safe_open(self.files[found], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(found)
        return tensor


def _checkpoint_of(base: Any, method: str) -> Path:
    """The folder with the safetensors files of a loaded base."""
    name = str(getattr(base, "name_or_path", "") or "")
    if name and Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    commit = getattr(base.config, "_commit_hash", None)
    try:
        return Path(snapshot_download(name, revision=commit, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise _not_found(method, f"there is no copy of {name!r} on this machine") from error


def _not_found(method: str, why: str) -> MethodError:
    return MethodError(
        f"{method}: loftq reads the weights that the base had before it was quantised, and {why}.",
        fix="Load the base by build_model from a folder or a repo with safetensors files, or use another"
        " init_lora_weights.",
    )
