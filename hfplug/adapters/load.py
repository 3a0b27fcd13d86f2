"""From an adapter's folder back to a model that answers as it did where it was trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.card_front import task_type as stated_task_type
from hfplug.adapters.files import TOKENIZER
from hfplug.adapters.fit import check_files, check_finite, count_saved_labels
from hfplug.adapters.foreign import method_of, recipe_of
from hfplug.adapters.lock import verify
from hfplug.adapters.probe import ProbeResult, compare_probe
from hfplug.adapters.put_on import LoadedBase, Verify, note_what_is_unknown, put_on, reason_of
from hfplug.errors import AdapterError, MismatchError
from hfplug.models.anatomy import read_anatomy
from hfplug.models.base import Base, read_task_type, resolve_base, tokenizer_source
from hfplug.models.factory import Applied, load_base, remember

__all__ = ["find_base", "find_tokenizer", "load_adapter", "method_of", "verify_adapter"]

logger = logging.getLogger(__name__)

Offline = Literal["auto", "on"]
_VERIFY = ("off", "lock", "probe")
_OPTIONS: dict[str, Any] = {"dtype": "auto", "device": None, "device_map": None, "token": None, "offline": "auto"}


def load_adapter(
    path: str | Path,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    task_type: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    device_map: Any = None,
    token: str | None = None,
    tokenizer: Any = None,
    trust_remote_code: bool = False,
    offline: Offline = "auto",
    verify: Verify = "lock",
) -> nn.Module:
    """Load an adapter's folder, with its base at the commit that it was trained on.

    Works for every folder that PEFT's ``save_pretrained`` wrote. Where hfplug left a lock, the base is built as the
    lock says (commit, vocabulary, number of labels, quantisation) and compared with it; where there is none, a note
    in the log says what could not be checked.

    Args:
        path: Folder of the adapter, or of a fully tuned model. For a repo on a Hub see ``hfplug.load_from_hub``.
        base: Repo id or folder of the base, if it is not where it was.
        revision: Commit of the base, if it is not the one that the adapter names.
        task_type: As for ``build_model``; read from the adapter and the base if None.
        dtype: As for ``build_model``.
        device: Where to put all of it, e.g. ``"cuda"``.
        device_map: As for ``from_pretrained``; instead of ``device``.
        token: Access token for a private or gated base.
        tokenizer: The one that will be used; found in the adapter's folder or beside the base if None.
        trust_remote_code: Run modelling code from the base's repo.
        offline: ``"on"`` asks no Hub for the base and its tokenizer: the cache only.
        verify: ``"lock"`` compares files, base, vocabulary, tokenizer, prompt and tensors with the lock.
            ``"probe"`` also asks the model the probe's questions and compares the logits. ``"off"`` loads whatever
            fits.

    Returns:
        A ``PeftModel`` (or a transformers model, for full fine-tuning) in eval mode.

    Raises:
        AdapterError: The folder is no adapter, a file was changed since it was exported, or a weight is NaN.
        BaseModelError: The base cannot be found.
        MismatchError: The base, its commit or the tokenizer is another one, the adapter's tensors do not all fit, a
            head would stay random, or the probe gives other answers.
    """
    model, tokenizer, adapter = _load(
        path,
        base=base,
        revision=revision,
        task_type=task_type,
        tokenizer=tokenizer,
        trust_remote_code=trust_remote_code,
        verify=verify,
        options=_options(dtype, device, device_map, token, offline),
    )
    if verify == "probe":
        _require_same(adapter, model, tokenizer)
    return model


def verify_adapter(path: str | Path, **load: Any) -> ProbeResult:
    """Load an adapter with every check, ask it the probe's questions, and say how far its answers are off.

    Args:
        path: Folder of the adapter, or of a fully tuned model.
        load: As for :func:`load_adapter`, without ``verify``.

    Returns:
        The largest difference to the logits that the author saw, and the tolerance.

    Raises:
        HfplugError: As :func:`load_adapter`; an ``AdapterError`` too if there is no probe. Answers that differ are
            no error here: see ``verdict``.
    """
    places = {name: load.pop(name, default) for name, default in _OPTIONS.items()}
    wanted = {"base": None, "revision": None, "task_type": None, "tokenizer": None, "trust_remote_code": False, **load}
    model, tokenizer, adapter = _load(path, verify="lock", options=_options(**places), **wanted)
    return _probe(adapter, model, tokenizer)


def find_base(adapter: AdapterDir, base: str | Path | None = None, revision: str | None = None, **options: Any) -> Base:
    """The base of an adapter, at the commit and with as many labels as it was trained with.

    Args:
        adapter: The adapter's folder.
        base: Repo id or folder of the base, if it is not where it was.
        revision: Commit of the base, if it is not the one that the adapter names.
        options: As for :func:`~hfplug.models.base.resolve_base`: ``token``, ``offline``, ``trust_remote_code``.

    Raises:
        AdapterError: The adapter does not say which base it is for, and none is given.
        BaseModelError: The base cannot be found.
    """
    name = str(base) if base is not None else adapter.base_name
    if not name:
        raise AdapterError(
            f"The adapter in {str(adapter.path)!r} does not say which base it is for.",
            fix="Pass base='repo id or folder of the base' (--base on the command line).",
        )
    revision = revision or (adapter.base_revision if base is None else None)
    return resolve_base(name, revision=revision, num_labels=count_saved_labels(adapter), **options)


def find_tokenizer(
    adapter: AdapterDir | None, base: Base | None, *, token: str | None = None, offline: Offline = "auto"
) -> Any:
    """The tokenizer that belongs to an adapter: from its own folder, else the base's; None if neither has one.

    Args:
        adapter: The adapter, or None for the base's own tokenizer.
        base: Its base, or None for a full model.
        token: Access token for a private or gated base.
        offline: ``"on"`` asks no Hub: the cache only.
    """
    from transformers import AutoTokenizer

    own = adapter is not None and any((adapter.path / name).is_file() for name in TOKENIZER)
    if adapter is not None and own:
        source, revision = str(adapter.path), None
    elif base is not None and tokenizer_source(base.name, base.commit):
        source, revision = base.name, base.commit
    else:
        return None
    # Said aloud: left out, transformers would ask on the terminal whether to run code of the repo.
    trust = bool(base is not None and base.trust_remote_code and not own)
    try:
        places: dict[str, Any] = {"token": token, "local_files_only": own or offline == "on"}
        return AutoTokenizer.from_pretrained(source, revision=revision or "main", trust_remote_code=trust, **places)
    except (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError) as error:
        logger.warning("The tokenizer of %s cannot be read and was not compared: %s", source, reason_of(error))
        return None


# --------------------------------------------------------------------------------------------------- parts


def _open(path: str | Path) -> AdapterDir:
    text = str(path)
    if text.startswith("hf://") or (
        text.count("/") == 1 and not text.startswith((".", "~")) and not Path(text).exists()
    ):
        raise AdapterError(
            f"There is no folder {text!r}; load_adapter reads folders.",
            fix=f"For an adapter on a Hub type: hfplug.load_from_hub({text!r})",
        )
    return AdapterDir.open(path)


def _load(
    path: str | Path,
    *,
    base: str | Path | None,
    revision: str | None,
    task_type: str | None,
    tokenizer: Any,
    trust_remote_code: bool,
    verify: Verify,
    options: dict[str, Any],
) -> tuple[nn.Module, Any, AdapterDir]:
    if verify not in _VERIFY:
        raise AdapterError(f"verify must be one of {', '.join(_VERIFY)}, not {verify!r}.")
    adapter = _open(path)
    if verify != "off":
        check_files(adapter)
        check_finite(adapter)
        note_what_is_unknown(adapter)
    if adapter.kind == "full":
        model, tokenizer = _load_full(adapter, tokenizer, task_type, trust_remote_code, verify, options)
    else:
        places = {"token": options["token"], "offline": options["offline"]}
        found = find_base(adapter, base, revision, trust_remote_code=trust_remote_code, **places)
        model, tokenizer = _load_peft(adapter, found, tokenizer, task_type, verify, options)
    return model, tokenizer, adapter


def _options(dtype: Any, device: Any, device_map: Any, token: str | None, offline: Offline) -> dict[str, Any]:
    """What goes on to ``load_base``."""
    if offline not in ("auto", "on"):
        raise AdapterError(f"offline must be 'auto' or 'on', not {offline!r}.")
    if device is not None:
        if device_map is not None:
            raise AdapterError("device and device_map were both given.", fix="Pass one of them.")
        device_map = {"": str(device)}
    return {"dtype": dtype, "device_map": device_map, "token": token, "offline": offline}


def _load_peft(
    adapter: AdapterDir, found: Base, tokenizer: Any, task_type: str | None, verify: Verify, options: dict[str, Any]
) -> tuple[nn.Module, Any]:
    kind = read_task_type(found.config, task_type or stated_task_type(adapter))
    method = method_of(adapter)
    recipe = None if getattr(found.config, "quantization_config", None) else recipe_of(adapter, method)
    model, missing = load_base(found, kind, method, quantization=recipe, **options)
    if verify != "off" and tokenizer is None and adapter.lock is not None and adapter.lock.tokenizer_sha256:
        tokenizer = find_tokenizer(adapter, found, token=options["token"], offline=options["offline"])
    loaded = LoadedBase(model=model, found=found, task_type=kind, missing=missing)
    return put_on(adapter, loaded, method, tokenizer=tokenizer, verify=verify), tokenizer


def _load_full(
    adapter: AdapterDir,
    tokenizer: Any,
    task_type: str | None,
    trust_remote_code: bool,
    verify: Verify,
    options: dict[str, Any],
) -> tuple[nn.Module, Any]:
    found = resolve_base(adapter.path, trust_remote_code=trust_remote_code)
    kind = read_task_type(found.config, task_type or stated_task_type(adapter))
    method = method_of(adapter)
    model, missing = load_base(found, kind, method, **options)
    if missing:
        raise MismatchError(
            f"The model in {str(adapter.path)!r} lacks {len(missing)} weights, e.g. {missing[0]}.",
            fix="Export it again from its checkpoint.",
        )
    lock = adapter.lock
    if verify != "off" and lock is not None:
        if tokenizer is None and lock.tokenizer_sha256:
            tokenizer = find_tokenizer(adapter, None)
        _check_full(adapter, model, tokenizer)
    anatomy = read_anatomy(model, kind)
    model.eval()
    name, commit = (lock.base or "", lock.base_commit) if lock else ("", None)
    remember(model, Applied(method=method, anatomy=anatomy, base_name=name, base_commit=commit))
    return model, tokenizer


def _check_full(adapter: AdapterDir, model: nn.Module, tokenizer: Any) -> None:
    """What of a lock says something about a model whose every weight was trained: all but the base's weights."""
    assert adapter.lock is not None
    differences = verify(adapter.lock, model, tokenizer, task=adapter.task)
    wrong = [text for text in differences if getattr(text, "kind", "base") in ("tokenizer", "task")]
    if wrong:
        raise MismatchError("This model's folder does not fit its lock: " + " ".join(wrong))


def _probe(adapter: AdapterDir, model: nn.Module, tokenizer: Any) -> ProbeResult:
    probe = adapter.lock.probe if adapter.lock else None
    if not probe:
        raise AdapterError(
            f"The adapter in {str(adapter.path)!r} has no probe, so its answers cannot be compared.",
            fix="Pass verify='lock', or export it again with this version of hfplug.",
        )
    return compare_probe(probe, model, tokenizer, adapter_dtype=adapter.weight_dtype)


def _require_same(adapter: AdapterDir, model: nn.Module, tokenizer: Any) -> None:
    result = _probe(adapter, model, tokenizer)
    if result.verdict != "same":
        versions = adapter.lock.versions if adapter.lock else {}
        made_with = ", ".join(
            f"{name} {versions[name]}" for name in ("torch", "transformers", "peft") if name in versions
        )
        raise MismatchError(
            f"The adapter in {str(adapter.path)!r} does not answer as it did for its author: {result}.",
            fix=f"Load it with the base and tokenizer that the lock names, and with its versions ({made_with}).",
        )
    logger.info("Probe: %s", result)
