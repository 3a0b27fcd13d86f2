"""A model without its weights: every tensor has its shape and dtype and none has data, and it can be run.

The model is made on the ``meta`` device, gets its method there, and then its tensors become *fake* ones (torch's
``FakeTensorMode``): an operation on them computes the shape, dtype and storage of its result and nothing else. So a
training step runs through the model's own code, and through autograd, on a machine that could never hold it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hfplug.errors import BaseModelError
from hfplug.methods import Quantization, TuningMethod
from hfplug.models.anatomy import new_modules
from hfplug.models.base import Base, auto_class
from hfplug.models.factory import apply_method, choose_dtype
from hfplug.models.quantize import bitsandbytes_config, layers_to_keep

# A checkpoint whose names are so different from the model's is renamed while it is loaded: nothing is known then.
_RECOGNISED = 0.5


def shape_model(base: Base, task_type: str, method: TuningMethod, *, dtype: str = "auto") -> nn.Module:
    """The tuned model as ``build_model`` would make it, on the ``meta`` device.

    Args:
        base: A base from :func:`~hfplug.models.base.resolve_base`; a configuration is enough.
        task_type: PEFT's name of the task type.
        method: The method to put on it.
        dtype: As for :func:`~hfplug.models.factory.build_model`.

    Raises:
        MethodError: the method does not fit the model.
        BaseModelError: transformers cannot make the model from its configuration.
    """
    model = bare_model(base, task_type, choose_dtype(base, method, dtype))
    missing = missing_parameters(model, base)
    recipe = method.quantization()
    if recipe is not None:
        _four_bit_layers(model, recipe, layers_to_keep(model, new_modules(model, task_type, missing)), method.name)
    return apply_method(model, method, task_type=task_type, missing_keys=missing)


def bare_model(base: Base, task_type: str, dtype: torch.dtype | str | None = None) -> nn.Module:
    """The base alone, on the ``meta`` device.

    Args:
        base: As for :func:`shape_model`.
        task_type: PEFT's name of the task type.
        dtype: Of the weights; that of the configuration if None.

    Raises:
        BaseModelError: transformers cannot make the model from its configuration.
    """
    config = copy.deepcopy(base.config)  # the model writes into it
    try:
        with torch.device("meta"):
            return auto_class(task_type, base.config).from_config(  # type: ignore[attr-defined]
                config,
                dtype=dtype or getattr(config, "dtype", None) or torch.float32,
                trust_remote_code=base.trust_remote_code,
            )
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ZeroDivisionError) as error:
        raise BaseModelError(
            f"No {task_type} model can be made from the configuration of {base.name!r}: {error}",
            fix="Pass another --task-type, or put its config.json right.",
        ) from error


def missing_parameters(model: nn.Module, base: Base) -> tuple[str, ...]:
    """Parameters that the checkpoint does not hold, by the headers of its safetensors files.

    Only those outside the numbered blocks: within them a checkpoint may name, split and stack its tensors in its own
    way (experts), which transformers puts right while it loads them; what is new is a head, a pooler, an embedding.

    Args:
        model: The model, without weights.
        base: Where the checkpoint is.

    Returns:
        Names; none if there is no checkpoint, or if it names its tensors so differently that nothing can be told.
    """
    stored = set(checkpoint_tensors(base))
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    stored |= {name.removeprefix(prefix) for name in stored}
    tied = _tied_names(model)
    names = [name for name, _ in model.named_parameters()]  # a tied tensor by its first name
    absent = tuple(
        name
        for name in names
        if name not in stored
        and name.removeprefix(prefix) not in stored
        and name not in tied
        and not any(part.isdigit() for part in name.split("."))
    )
    return absent if stored and len(absent) <= _RECOGNISED * len(names) else ()


def checkpoint_tensors(base: Base) -> dict[str, str]:
    """Name and dtype of each tensor of a base's safetensors files; only their headers are read.

    Args:
        base: A folder or a repo; for a repo the Hub is asked for the first bytes of each file.

    Returns:
        Empty if there are no such files, or the Hub cannot be asked.
    """
    folder = Path(base.name)
    if folder.is_dir():
        return dict(_local_tensors(folder))
    import httpx
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError

    try:
        found = get_safetensors_metadata(base.name, revision=base.revision)
    except (HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError, OSError, httpx.HTTPError):
        return {}  # the configuration alone is planned with
    return {name: info.dtype for file in found.files_metadata.values() for name, info in file.tensors.items()}


def fake_model(model: nn.Module) -> FakeTensorMode:
    """Exchange the tensors of a model on ``meta`` for fake ones, in place.

    Args:
        model: From :func:`shape_model`.

    Returns:
        The mode under which the model can be run.
    """
    # What a forward pass makes of Python numbers, or keeps as plain attributes, joins in as it is met.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    done: dict[int, torch.Tensor] = {}  # tied tensors stay one
    kept = []
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, one in list(table.items()):
                if one is None:
                    continue
                kept.append(one)  # so that no identity is used twice
                if id(one) not in done:
                    done[id(one)] = _faked(one, mode)
                table[name] = done[id(one)]  # type: ignore[assignment]
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor):
                with mode:
                    object.__setattr__(module, name, torch.empty(value.shape, dtype=value.dtype, device="cpu"))
    return mode


def _faked(one: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    if type(one).__name__ == "Params4bit":
        return _packed(one, mode)
    with mode:
        empty = torch.empty(one.shape, dtype=one.dtype, device="cpu")
        return nn.Parameter(empty, requires_grad=one.requires_grad) if isinstance(one, nn.Parameter) else empty


def _packed(one: Any, mode: FakeTensorMode) -> torch.Tensor:
    """A 4-bit weight as bitsandbytes packs it, with its constants: its own functions on a tensor without data."""
    from bitsandbytes import functional

    # It makes this table once and keeps it for everybody, so it must not be made of tensors without data.
    functional.name2qmap.setdefault("dynamic", functional.create_dynamic_map())
    how = {name: getattr(one, name) for name in ("blocksize", "compress_statistics", "quant_type", "quant_storage")}
    with mode:
        empty = torch.empty(one.shape, dtype=one.dtype, device="cpu")
        packed, state = functional.quantize_4bit(empty, **how)
        weight = nn.Parameter(packed, requires_grad=False)  # a fake tensor cannot be a Params4bit as well
    vars(weight).update(how, quant_state=state, bnb_quantized=True)
    return weight


def _four_bit_layers(model: Any, recipe: Quantization, kept: list[str], needed_for: str) -> None:
    """Give a model on ``meta`` the layers that loading it in 4 bits would give it."""
    config = bitsandbytes_config(
        recipe, model_type=model.config.model_type, skip_modules=kept, needed_for=f"method {needed_for!r}"
    )
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    replace_with_bnb_linear(model, modules_to_not_convert=kept, quantization_config=config)
    model.config.quantization_config = config
    model.is_quantized = True
    model.is_loaded_in_4bit = True
    model.quantization_method = config.quant_method
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _local_tensors(folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(size)) if 0 < size < 100_000_000 else {}
        except (OSError, ValueError) as error:
            raise BaseModelError(
                f"The header of {str(file)!r} cannot be read: {error}.", fix="Fetch the file again."
            ) from error
        if not isinstance(header, dict):
            raise BaseModelError(f"The header of {str(file)!r} holds no tensors.", fix="Fetch the file again.")
        yield from ((name, str(info["dtype"])) for name, info in header.items() if name != "__metadata__")


def _tied_names(model: Any) -> set[str]:
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return {*tied, *(tied.values() if isinstance(tied, dict) else ())}
