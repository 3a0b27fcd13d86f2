"""From an adapter's folder back to a model that answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.lock import check
from hfplug.errors import AdapterError, MethodError, MismatchError, SettingError
from hfplug.methods import TuningMethod, get_method, resolve_method
from hfplug.models.anatomy import read_anatomy
from hfplug.models.base import read_task_type, resolve_base
from hfplug.models.factory import Applied, load_base, remember

_METHOD_OF_PEFT_TYPE = {"LORA": "lora", "PROMPT_TUNING": "prompt_tuning"}


def load_adapter(
    path: str | Path,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    trust_remote_code: bool = False,
) -> nn.Module:
    """Load an adapter's folder, with its base at the commit that it was trained on.

    Works for every folder that PEFT's ``save_pretrained`` wrote; where hfplug left a lock, the base is
    checked against it.

    Args:
        path: Folder of the adapter, or of a fully tuned model.
        base: Repo id or folder of the base, if it is not where it was.
        revision: Commit of the base, if it is not the one that the adapter names.
        dtype: As for ``build_model``.
        device_map: As for ``from_pretrained``.
        trust_remote_code: Run modelling code from the base's repo.

    Returns:
        A ``PeftModel`` (or a transformers model, for full fine-tuning) in eval mode.

    Raises:
        AdapterError: if the folder is not an adapter.
        BaseModelError: if the base cannot be found.
        MismatchError: if the base is another one, or the adapter's tensors do not all fit.
    """
    adapter = AdapterDir.open(path)
    if adapter.kind == "full":
        return _load_full(adapter, dtype=dtype, device_map=device_map, trust_remote_code=trust_remote_code)
    name = str(base) if base is not None else adapter.base_name
    if not name:
        raise AdapterError(
            f"The adapter in {str(path)!r} does not say which base it is for.",
            fix="Pass base='repo id or folder of the base'.",
        )
    found = resolve_base(
        name,
        revision=revision or (adapter.base_revision if base is None else None),
        trust_remote_code=trust_remote_code,
        num_labels=adapter.num_labels,
    )
    task_type = read_task_type(found.config, adapter.config.get("task_type"))
    method = method_of(adapter)
    model, missing = load_base(found, task_type, method, dtype=dtype, device_map=device_map)
    anatomy = read_anatomy(model, task_type, missing_keys=missing, revision=found.commit)
    if adapter.lock is not None:
        check(adapter.lock, model)
    tuned = _put_on(model, adapter)
    tuned.eval()
    remember(tuned, Applied(method=method, anatomy=anatomy, base_name=found.name, base_commit=found.commit))
    return tuned


def method_of(adapter: AdapterDir) -> TuningMethod:
    """The method that an adapter was made with: from its record, else from its PEFT configuration.

    Raises:
        MethodError: if hfplug has no such method.
    """
    record = adapter.record
    if record is not None:
        try:
            return resolve_method(record.method, record.all_method_settings)
        except SettingError:
            # Written by another version: the settings of a trained adapter are in PEFT's own file anyway.
            return get_method(record.method)()
    peft_type = str(adapter.config.get("peft_type"))
    if peft_type not in _METHOD_OF_PEFT_TYPE:
        raise MethodError(
            f"hfplug has no method for adapters of PEFT type {peft_type!r}.",
            fix="Load it with peft.PeftModel.from_pretrained.",
        )
    method = get_method(_METHOD_OF_PEFT_TYPE[peft_type])
    settings = {"num_virtual_tokens": adapter.config["num_virtual_tokens"]} if peft_type == "PROMPT_TUNING" else {}
    return method.from_settings(settings)


def _load_full(adapter: AdapterDir, *, dtype: Any, device_map: Any, trust_remote_code: bool) -> nn.Module:
    found = resolve_base(adapter.path, trust_remote_code=trust_remote_code)
    task_type = read_task_type(found.config)
    method = get_method("full")()
    model, missing = load_base(found, task_type, method, dtype=dtype, device_map=device_map)
    if missing:
        raise MismatchError(
            f"The model in {str(adapter.path)!r} lacks {len(missing)} weights, e.g. {missing[0]}.",
            fix="Export it again from its checkpoint.",
        )
    lock = adapter.lock
    anatomy = read_anatomy(model, task_type)
    model.eval()
    remember(
        model,
        Applied(
            method=method,
            anatomy=anatomy,
            base_name=(lock.base if lock else None) or "",
            base_commit=lock.base_commit if lock else None,
        ),
    )
    return model


def _put_on(model: nn.Module, adapter: AdapterDir) -> nn.Module:
    from peft import PeftModel, get_peft_model_state_dict

    try:
        tuned = PeftModel.from_pretrained(model, str(adapter.path))
    except (RuntimeError, ValueError, KeyError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MismatchError(
            f"The adapter in {str(adapter.path)!r} does not fit its base: {first_line}",
            fix="Pass the base that it was trained on.",
        ) from error
    expected = set(get_peft_model_state_dict(tuned, save_embedding_layers=False))
    came = set(adapter.tensor_names())
    if expected - came:
        raise MismatchError(
            f"{len(expected - came)} tensors of the adapter in {str(adapter.path)!r} are missing, "
            f"e.g. {sorted(expected - came)[0]}.",
            fix="Export it again from its checkpoint, or pass the base that it was trained on.",
        )
    return tuned
