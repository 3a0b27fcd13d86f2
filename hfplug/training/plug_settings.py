"""Whether weights on disk were made with the settings at hand: PEFT loads what happens to match, in silence."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hfplug.errors import AdapterError, MismatchError
from hfplug.models.sharded import sharding_of

# What says where an adapter came from or how it started, and not what it is.
_BOOKKEEPING = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "inference_mode", "init_lora_weights",
        "init_weights", "loftq_config", "peft_version", "prompt_tuning_init", "prompt_tuning_init_text", "revision",
        "runtime_config", "tokenizer_kwargs", "tokenizer_name_or_path", "ephemeral_gpu_offload", "megatron_core",
    }
)  # fmt: skip


def refuse_other_settings(model: Any, folder: Any, adapter_name: str = "default") -> None:
    """Refuse an adapter that was made with other settings than the one on the model.

    Args:
        model: A ``PeftModel``.
        folder: A checkpoint, or a folder that an adapter was saved to; whatever is no folder is left to PEFT.
        adapter_name: Which of the model's adapters it is for.

    Raises:
        MismatchError: naming each setting that differs, with both values.
    """
    there = read_settings(folder)
    if there is None:
        return
    here = model.peft_config[adapter_name].to_dict()
    differences = setting_differences(here, there)
    if differences:
        raise MismatchError(
            f"The adapter in {str(folder)!r} was made with other settings: {'; '.join(differences)}.",
            fix="Run again with those settings, or start afresh in another output folder.",
        )


def read_settings(folder: Any) -> dict[str, Any] | None:
    """The PEFT configuration in a folder, with the defaults of what it does not name; None if there is none."""
    path = Path(str(folder)) / "adapter_config.json"
    if not path.is_file():
        return None
    from peft import PeftConfig

    raw = json.loads(path.read_text(encoding="utf-8"))
    try:
        return {**raw, **PeftConfig.from_pretrained(str(folder)).to_dict()}
    except (TypeError, ValueError, KeyError):  # of a type that this PEFT does not know
        return raw


def setting_differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """What differs between two PEFT configurations, in words; empty if they describe the same adapter.

    Args:
        here: Of the model at hand.
        there: From the disk.
    """
    if _plain(here.get("peft_type")) != _plain(there.get("peft_type")):
        return [f"it is of type {_plain(there.get('peft_type'))}, and this run is {_plain(here.get('peft_type'))}"]
    names = [name for name in here if name not in _BOOKKEEPING and name in there]
    return [
        f"{name} is {_plain(there[name])!r} there and {_plain(here[name])!r} here"
        for name in sorted(names)
        if _plain(here[name]) != _plain(there[name])
    ]


def refuse_other_weights(model: Any, state_dict: Mapping[str, Any]) -> None:
    """Refuse a state dict whose tensors are all the base's own: a fully tuned model under an adapter.

    Args:
        model: A ``PeftModel``.
        state_dict: What is to be loaded.

    Raises:
        MismatchError: The names are those of the base without an adapter.
    """
    came = set(state_dict)
    if came & set(model.get_base_model().state_dict()) and not came & set(model.state_dict()):
        raise MismatchError(
            f"These weights are not those of this adapter: none of their {len(state_dict)} tensors "
            f"(e.g. {next(iter(state_dict))}) has a place in the tuned model.",
            fix="They look like a fully tuned model: resume with --method full, or start afresh in another folder.",
        )


def refuse_empty(model: Any, state_dict: Mapping[str, Any] | None) -> None:
    """Refuse to save an adapter of which a tensor is empty, as one process's part of a sharded model is.

    Args:
        model: A ``PeftModel``.
        state_dict: What Trainer gathered; None for what the model holds.

    Raises:
        AdapterError: naming a tensor.
    """
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, state_dict=state_dict, save_embedding_layers=False)
    if state_dict is None and sharding_of(model):
        raise AdapterError(
            "The adapter is not saved: this process holds a part of the sharded model.",
            fix="Call trainer.save_model(folder) on every process, which gathers the parts, instead of "
            "model.save_pretrained(folder).",
        )
    empty = [name for name, tensor in found.items() if tensor.numel() == 0]
    if found and not empty:
        return
    which = f"{len(empty)} of {len(found)} tensors are empty, e.g. {empty[0]}" if empty else "there is no tensor at all"
    raise AdapterError(
        f"The adapter is not saved: {which}. The model is sharded, and its parts were not gathered.",
        fix="Set zero3_save_16bit_model: true (ZeRO-3) or fsdp_state_dict_type: FULL_STATE_DICT (FSDP).",
    )


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))} or None
    if isinstance(value, Iterable) and not isinstance(value, str):
        return sorted({str(_plain(item)) for item in value}) or None
    return value
