"""A LoRA into the base's own files, one shard at a time: a base of any size needs the memory of its largest file.

Each matrix W that LoRA was put beside becomes W + s * B A, computed in float32 and rounded once (Hu et al. 2021,
section 4.1). Which matrices those are, what s is for each (patterns of ranks and alphas, rank-stabilised or not), and
whether a layer holds its weight as (in, out), is asked of PEFT, on a copy of the base on the ``meta`` device that holds
no number. Every other tensor is written as it was read, or rounded to the format that was asked for.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hfplug.adapters import atomic
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.files import CONFIG, SHARD, WEIGHTS, WEIGHTS_INDEX, read_object
from hfplug.adapters.safetensors_header import read_header
from hfplug.errors import AdapterError, BaseModelError
from hfplug.models.base import Base, auto_class

# Starting values that leave the base as it is. The others (PiSSA, OLoRA, CorDA, LoftQ) take their part out of it.
_HARMLESS_STARTS = frozenset({"gaussian", "eva", "orthogonal", "lora_ga"})
# Settings of PEFT's LoraConfig that make it more than W + s * B A beside existing layers.
_MORE_THAN_LORA = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "lora_bias", "modules_to_save",
    "monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora",
    "velora_config",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Update:
    """What is added to one matrix.

    Attributes:
        a, b: Names of A, of shape (r, in), and B, of shape (out, r), in the adapter's file.
        scale: s.
        transposed: ``"yes"`` if the matrix is held as (in, out).
    """

    a: str
    b: str
    scale: float
    transposed: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the files of a base become those of the merged model.

    Attributes:
        files: The base's safetensors files.
        updates: Name of a tensor in them to what is added to it.
        architecture: Class of the model, for its configuration.
        index: Content of ``model.safetensors.index.json``; None for a single file.
    """

    files: tuple[Path, ...]
    updates: Mapping[str, Update]
    architecture: str
    index: Mapping[str, Any] | None


def plan_shards(
    adapter: AdapterDir, base: Base, task_type: str, *, token: str | None = None, offline: str = "auto"
) -> Plan | str:
    """Find the matrices that a LoRA changes among the base's own files, without loading a weight.

    Args:
        adapter: An adapter of PEFT.
        base: Its base.
        task_type: PEFT's name of the task type.
        token: Access token for a private or gated base.
        offline: ``"on"`` asks no Hub for the base's files: the cache only.

    Returns:
        The plan, or why it cannot be done file by file: then the whole model has to be in memory.

    Raises:
        BaseModelError: The base's weights are not there as safetensors.
    """
    if reason := _not_plain(adapter):
        return reason
    layers = _layers(adapter, base, task_type)
    if isinstance(layers, str):
        return layers
    updates, model = layers
    files, index = _files_of(base, token, offline)
    shapes = {name: entry["shape"] for file in files for name, entry in read_header(file).items()}
    tensors = {name: entry["shape"] for file in adapter.weights for name, entry in read_header(file).items()}
    if extra := sorted(set(tensors) - {name for update in updates.values() for name in (update.a, update.b)}):
        return f"{extra[0]} is no part of a LoRA on a linear layer"
    found: dict[str, Update] = {}
    for name, update in updates.items():
        if update.a not in tensors or update.b not in tensors:
            return f"the adapter's file has another name for {update.a}"
        known = [key for key in _names_in_checkpoint(name, model) if key in shapes]
        shape = [tensors[update.b][0], tensors[update.a][1]]
        if len(known) != 1 or shapes[known[0]] != (shape[::-1] if update.transposed == "yes" else shape):
            return f"the base's files hold {name} in another form"
        found[known[0]] = update
    return Plan(files=files, updates=found, architecture=type(model).__name__, index=index)


def write_shards(plan: Plan, adapter: AdapterDir, folder: Path, dtype: torch.dtype | None) -> None:
    """Write the merged weights, one file for each file of the base.

    Args:
        plan: From :func:`plan_shards`.
        adapter: The adapter.
        folder: Where to.
        dtype: Format of all floating-point weights; that of each tensor in the base if None.

    Raises:
        AdapterError: A number of the merged weights is not finite in that format.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    low_rank = {name: tensor for file in adapter.weights for name, tensor in load_file(file).items()}
    total = 0
    for file in plan.files:
        tensors: dict[str, torch.Tensor] = {}
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no dict
                tensor = opened.get_tensor(name)
                update = plan.updates.get(name)
                wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
                new = tensor.to(wanted) if update is None else _merged(tensor, update, low_rank).to(wanted)
                if (update is not None or wanted != tensor.dtype) and not bool(torch.isfinite(new).all()):
                    raise _not_finite(name, wanted)
                tensors[name] = new
                total += new.numel() * new.element_size()
        save_file(tensors, folder / _name_of(plan, file), metadata={"format": "pt"})
        tensors.clear()
    if plan.index is not None:
        metadata = {**(plan.index.get("metadata") or {}), "total_size": total}
        atomic.write_json(folder / WEIGHTS_INDEX, {**plan.index, "metadata": metadata})


def write_config(plan: Plan, base: Base, folder: Path, dtype: torch.dtype | None) -> None:
    """Write ``config.json`` of the merged model: the base's, with its class and number format.

    Args:
        plan: From :func:`plan_shards`.
        base: The base.
        folder: Where to.
        dtype: As for :func:`write_shards`.
    """
    values = json.loads(base.config.to_json_string(use_diff=True))
    values["architectures"] = [plan.architecture]
    if dtype is not None:
        values.pop("torch_dtype", None)
        values["dtype"] = str(dtype).removeprefix("torch.")
    atomic.write_json(folder / CONFIG["full"], values)


# ---------------------------------------------------------------------------------------------------- plan


def _not_plain(adapter: AdapterDir) -> str:
    """Why an adapter is no plain LoRA; an empty text if it is one."""
    kind = adapter.config.get("peft_type")
    return more_than_lora(adapter.config) if str(kind).upper() == "LORA" else f"it is no LoRA but {kind}"


def more_than_lora(config: Mapping[str, Any]) -> str:
    """Why a LoRA is more than W + s * B A beside existing layers; an empty text if it is not.

    Args:
        config: Its settings, as in PEFT's ``adapter_config.json``.
    """
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _HARMLESS_STARTS:
        return f"init_lora_weights={start!r} changes the base when it is loaded"
    if config.get("bias", "none") != "none":
        return f"it has trained biases (bias={config['bias']!r})"
    more = next((key for key in _MORE_THAN_LORA if config.get(key)), None)
    return f"{more} is set" if more else ""


def _layers(adapter: AdapterDir, base: Base, task_type: str) -> tuple[dict[str, Update], nn.Module] | str:
    """Full name of each weight that the adapter changes, and the base on the ``meta`` device."""
    from peft import PeftConfig, PeftModel
    from peft.tuners.lora.layer import Linear, LoraLayer

    with torch.device("meta"):
        auto: Any = auto_class(task_type)
        model = auto.from_config(copy.deepcopy(base.config), trust_remote_code=base.trust_remote_code)
    holders: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    config = PeftConfig.from_pretrained(str(adapter.path))
    try:
        tuned = PeftModel(model, config, adapter_name="merging", low_cpu_mem_usage=True)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError) as error:
        return f"PEFT cannot lay it out without the weights ({(str(error).splitlines() or [''])[0]})"
    updates: dict[str, Update] = {}
    for name, layer in tuned.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        inner = layer.get_base_layer()
        if type(layer) is not Linear or layer.lora_variant or type(inner).__name__ not in ("Linear", "Conv1D"):
            return f"{name} is no plain linear layer"
        if holders.get(id(inner.weight), 0) != 1:
            return f"the weight of {name} is tied to another one"
        updates[f"{name.removeprefix('base_model.model.')}.weight"] = Update(
            a=f"{name}.lora_A.weight",
            b=f"{name}.lora_B.weight",
            scale=float(layer.scaling["merging"]),
            transposed="yes" if type(inner).__name__ == "Conv1D" else "no",
        )
    return updates, model


def _names_in_checkpoint(name: str, model: nn.Module) -> list[str]:
    """What a checkpoint may call a weight: with or without the prefix that a head's class puts before the rest."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    if prefix == ".":
        return [name]
    return [name, name.removeprefix(prefix) if name.startswith(prefix) else prefix + name]


def _files_of(base: Base, token: str | None, offline: str) -> tuple[tuple[Path, ...], Mapping[str, Any] | None]:
    """The base's safetensors files on this machine, fetched if they are not; and the index, if there is one."""
    from transformers.utils import cached_file

    places: dict[str, Any] = {"revision": base.revision or "main", "token": token}
    places |= {"local_files_only": offline == "on", "_raise_exceptions_for_missing_entries": False}
    try:
        single = cached_file(base.name, WEIGHTS["full"], **places)
        if single is not None:
            return (Path(single),), None
        index_file = cached_file(base.name, WEIGHTS_INDEX, **places)
        if index_file is None:
            raise OSError("there is neither model.safetensors nor its index")
        index = read_object(Path(index_file))
        names = sorted({str(name) for name in (index.get("weight_map") or {}).values()})
        if not names or not all(SHARD.fullmatch(name) for name in names):
            raise OSError(f"{WEIGHTS_INDEX} names no shards")
        shards = [cached_file(base.name, name, **places) for name in names]
        if missing := [name for name, shard in zip(names, shards, strict=True) if shard is None]:
            raise OSError(f"{missing[0]} is missing")
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"The weights of the base {base.name!r} cannot be read as safetensors: {str(error).splitlines()[0]}.",
            fix="Pass a base that is whole, as a folder or repo id.",
        ) from error
    return tuple(Path(str(shard)) for shard in shards), index


# --------------------------------------------------------------------------------------------------- write


def _merged(weight: torch.Tensor, update: Update, low_rank: Mapping[str, torch.Tensor]) -> torch.Tensor:
    exact = torch.float64 if weight.dtype == torch.float64 else torch.float32
    delta = update.scale * (low_rank[update.b].to(exact) @ low_rank[update.a].to(exact))
    return weight.to(exact) + (delta.T if update.transposed == "yes" else delta)


def _name_of(plan: Plan, file: Path) -> str:
    # In the Hub's cache a file may be reached by a link, whose own name is the right one.
    return WEIGHTS["full"] if plan.index is None else file.name


def _not_finite(name: str, dtype: torch.dtype) -> AdapterError:
    return AdapterError(
        f"The merged {name} has numbers that are not finite in {str(dtype).removeprefix('torch.')}.",
        fix="Pass --dtype bfloat16 or float32 (dtype= in Python); if it stays so, the adapter is broken.",
    )
