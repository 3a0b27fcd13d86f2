"""Whether an adapter's files fit the model that they are put on: what PEFT lets pass in silence, said aloud.

PEFT ignores tensors that it has no place for, overwrites the base with any that bear the name of a base weight,
leaves a head random that neither file holds, and loads NaN. Each is an error here, with what to do.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.card_front import task_type
from hfplug.adapters.files import file_sha256, settings_sha256
from hfplug.adapters.safetensors_header import read_header
from hfplug.errors import AdapterError, MismatchError
from hfplug.methods.method import CLASSIFICATION, TOKENS
from hfplug.models.ends import embedding_rows, input_embedding, output_embedding

logger = logging.getLogger(__name__)

_WRAPPED = re.compile(r"\.(?:base_layer|original_module|modules_to_save|token_adapter)(?:\.|$)")
_EXACT = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_files(adapter: AdapterDir) -> None:
    """Compare the weights and settings with the sums in the lock.

    Raises:
        AdapterError: A file is not the one that was exported.
    """
    lock = adapter.lock
    if lock is None:
        return
    found = {file.name: file_sha256(file) for file in adapter.weights} if lock.weights_sha256 else {}
    for name in sorted({*found, *lock.weights_sha256}):
        here, there = found.get(name, "missing"), lock.weights_sha256.get(name, "missing")
        if here != there:
            raise AdapterError(
                f"{adapter.path / name} is not the file that was exported: its SHA-256 is {here[:16]}…, that in the"
                f" lock {there[:16]}….",
                fix="Pull or export it again. If you changed it yourself, pass verify='off'.",
            )
    if lock.settings_sha256 and settings_sha256(adapter.config) != lock.settings_sha256:
        raise AdapterError(
            f"{adapter.path / 'adapter_config.json'} does not hold the settings that the adapter was exported with.",
            fix="Pull or export it again. If you changed them yourself, pass verify='off'.",
        )


def check_finite(adapter: AdapterDir) -> None:
    """Look for NaN and infinity among the adapter's weights.

    Raises:
        AdapterError: There are some; the message names the first tensor.
    """
    from safetensors import safe_open

    for file in adapter.weights:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no dict
                tensor = opened.get_tensor(name)
                if not tensor.is_floating_point():
                    continue
                finite = torch.isfinite(tensor if tensor.dtype in _EXACT else tensor.float())
                if not bool(finite.all()):
                    count = int((~finite).sum())
                    raise AdapterError(
                        f"{count} of {tensor.numel()} numbers of {name!r} in {file} are NaN or infinite.",
                        fix="Export an earlier checkpoint, or train again with a lower learning rate.",
                    )


def check_tensors(tuned: nn.Module, adapter: AdapterDir) -> None:
    """Compare the names of the adapter's tensors with those that the model has a place for.

    Args:
        tuned: The ``PeftModel`` that they were loaded into.
        adapter: The adapter's folder.

    Raises:
        MismatchError: Some are missing, or there are some too many.
    """
    from peft import get_peft_model_state_dict

    expected = set(get_peft_model_state_dict(tuned, save_embedding_layers=False))
    came = set(adapter.tensor_names())
    if expected != came:
        came = _converted(tuned, adapter, came)
    if missing := sorted(expected - came):
        raise MismatchError(
            f"{len(missing)} tensors of the adapter in {str(adapter.path)!r} are missing, e.g. {missing[0]}.",
            fix="Export it again from its checkpoint, or pass the base that it was trained on.",
        )
    # PEFT saves the whole embedding, wrappers and all, once the vocabulary was resized.
    embeddings = tuple(f"base_model.{inner}{name}." for name in _embedding_modules(tuned) for inner in ("", "model."))
    if unexpected := sorted(name for name in came - expected if not name.startswith(embeddings)):
        raise MismatchError(
            f"{len(unexpected)} tensors of the adapter in {str(adapter.path)!r} have no place in this model,"
            f" e.g. {unexpected[0]}.",
            fix="Pass the base that it was trained on, or export it again from its checkpoint.",
        )


def check_nothing_random(missing: Iterable[str], adapter: AdapterDir) -> None:
    """Make sure that whatever the base's checkpoint lacks is in the adapter.

    Args:
        missing: Names of the parameters that the base's checkpoint did not hold.
        adapter: The adapter's folder.

    Raises:
        MismatchError: A head, say, would start at random, and give other answers after every load.
    """
    came = adapter.tensor_names()
    random = [name for name in missing if not any(key == name or key.endswith(f".{name}") for key in came)]
    if random:
        modules = sorted({name.rpartition(".")[0] for name in random})
        raise MismatchError(
            f"{', '.join(modules[:3])} would stay random: neither the base {adapter.base_name!r} nor the adapter in"
            f" {str(adapter.path)!r} holds {random[0]}.",
            fix=f"Train again with modules_to_save={modules}, or pass the base that holds them."
            " With verify='off' it loads as it is.",
        )


def count_saved_labels(adapter: AdapterDir) -> int | None:
    """Labels of the head that an adapter brings along, from the lock or the shape of its tensors; None if none.

    The last layer of a head has a row a label; the layers before it have as many as the model is wide.
    """
    if adapter.num_labels is not None or task_type(adapter) not in (CLASSIFICATION, TOKENS):
        return adapter.num_labels
    saved = (one.rpartition(".")[2] for one in adapter.config.get("modules_to_save") or ())
    heads = {"classifier", "score", *saved}
    rows = [
        int(entry["shape"][0])
        for name, entry in _headers(adapter).items()
        if len(entry["shape"]) == 2 and name.endswith(".weight") and heads & {*name.split(".")}
    ]
    return min(rows, default=None)


def fit_vocabulary(model: Any, adapter: AdapterDir, tokenizer: Any = None) -> int | None:
    """Give the base as many embedding rows as it had when the adapter was trained.

    Args:
        model: The base. It is resized in place.
        adapter: The adapter's folder.
        tokenizer: Tells whether the new rows are used at all.

    Returns:
        The rows that the base's checkpoint has, if it was resized, else None.

    Raises:
        MismatchError: The new rows are used, and nothing in the adapter fills them.
    """
    before = embedding_rows(model)
    wanted = adapter.lock.vocab_size if adapter.lock else _saved_rows(model, adapter, before or 0)
    if before is None or wanted in (None, before):
        return None
    model.resize_token_embeddings(wanted, mean_resizing=False)
    logger.info("The base's embedding was resized from %d to %d rows, as the adapter was trained", before, wanted)
    unfilled = [name for name in embedding_names(model) if not _fills(adapter, name, range(before, wanted))]
    if wanted < before or not unfilled:
        return before
    if tokenizer is not None and len(tokenizer) <= before:
        logger.info("Its %d new rows are not used by the tokenizer", wanted - before)
        return before
    raise MismatchError(
        f"The adapter in {str(adapter.path)!r} was trained with {wanted} rows in the embedding; the base has {before},"
        f" and the adapter does not hold the new rows of {unfilled[0]}: they would be random.",
        fix="Train again with trainable_token_indices or with the embedding in modules_to_save, or pass as base=... a"
        " folder that the resized base was saved to. With verify='off' it loads as it is.",
    )


def embedding_names(model: Any) -> list[str]:
    """Names of the weights of the input and the output embedding of a plain base; tied ones once."""
    found = []
    for end in (input_embedding(model), output_embedding(model)):
        weight = getattr(end, "weight", None)
        found += [name for name, other in model.named_parameters() if other is weight and name not in found]
    return found


def _embedding_modules(tuned: Any) -> set[str]:
    """Names of the input and the output embedding in the base of a ``PeftModel``, without PEFT's wrappers."""
    base = tuned.get_base_model()
    embeddings = [input_embedding(base), output_embedding(base)]
    named = base.named_modules(remove_duplicate=False)
    return {_WRAPPED.split(name)[0] for name, module in named if any(module is one for one in embeddings)}


def _saved_rows(model: Any, adapter: AdapterDir, before: int) -> int | None:
    """Rows that the adapter's own tensors ask for, where there is no lock to say it."""
    header = _headers(adapter)
    for name in embedding_names(model):
        for key, entry in header.items():
            if key.endswith(f".{name}") and len(entry["shape"]) == 2:
                return int(entry["shape"][0])
    highest = max((max(ids) for ids in _trained_tokens(adapter).values() if ids), default=-1)
    return max(before, highest + 1) or None


def _fills(adapter: AdapterDir, name: str, rows: Collection[int]) -> bool:
    """Whether the adapter brings the ``rows`` of the embedding weight ``name`` along."""
    module = name.removesuffix(".weight")
    saved = {key for key in adapter.tensor_names() if key.endswith((f".{name}", f".{module}.base_layer.weight"))}
    trained = {
        one for key, ids in _trained_tokens(adapter).items() if not key or module.split(".")[-1] == key for one in ids
    }
    return bool(saved) or set(rows) <= trained


def _trained_tokens(adapter: AdapterDir) -> Mapping[str, list[int]]:
    """Name of the embedding (empty if not said) to the rows that the adapter trains."""
    found = adapter.config.get("trainable_token_indices") or adapter.config.get("token_indices") or {}
    pairs = found if isinstance(found, Mapping) else {"": found}
    return {str(key).split(".")[-1]: [int(one) for one in ids] for key, ids in pairs.items()}


def _converted(tuned: Any, adapter: AdapterDir, came: set[str]) -> set[str]:
    """The names as PEFT rewrites them for models that transformers 5 lays out in another way (mixtures of experts)."""
    try:
        from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
    except ImportError:  # an older PEFT, which rewrites nothing
        return came
    from safetensors.torch import load_file

    tensors = {name: tensor for file in adapter.weights for name, tensor in load_file(file).items()}
    name = next(iter(tuned.peft_config))
    return set(
        convert_peft_adapter_state_dict_for_transformers(
            model=tuned, peft_config=tuned.peft_config[name], adapter_state_dict=tensors, adapter_name=name
        )
    )


def _headers(adapter: AdapterDir) -> dict[str, dict[str, Any]]:
    return {name: entry for file in adapter.weights for name, entry in read_header(file).items()}
