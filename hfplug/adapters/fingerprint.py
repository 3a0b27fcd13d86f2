"""Fingerprints of a base and its tokenizer: cheap, and the same wherever and however they are loaded.

The weights' fingerprint reads a small part of the base: the input embedding and up to 16 other matrices,
those whose names have the smallest hashes (so that one name more or less changes one choice at most), and
up to 1,024 evenly spaced elements of each. It does not depend on the device, nor on whether PEFT is wrapped
around the base. Tensors that are quantised cannot be compared and are left out. Next to each hash stand
eight values, so that a base in bfloat16 can be recognised when it is loaded in float32. Only matrices are
read, because methods such as BitFit train the base's vectors in place.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from hfplug.adapters.record import plain
from hfplug.models.ends import embedding_weight

TENSORS = 16
ELEMENTS = 1024
VALUES = 8

# Relative size of one rounding step, and the smallest number, of each format.
_STEP = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10, "float64": 2.0**-52}
_SMALLEST = {"float16": 2.0**-24}

# Keys of a configuration that change without the base being another: where and how it was loaded, and what
# Trainer and tokenizers write into it. The vocabulary's size is compared on its own.
_VOLATILE = frozenset(
    {
        "architectures", "attn_implementation", "bos_token_id", "dtype", "eos_token_id", "label2id",
        "name_or_path", "output_attentions", "output_hidden_states", "pad_token_id", "problem_type",
        "quantization_config", "return_dict", "torch_dtype", "transformers_version", "use_cache",
        "vocab_size",
    }
)  # fmt: skip

# What only says how answers are written, and scripts set for a language; sums once held it.
_WRITING = ("forced_bos_token_id", "forced_eos_token_id")

# Heads and poolers are initialised at random by from_pretrained wherever the checkpoint lacks them, so they
# are new after every load; an output embedding may be tied to the input's, or not any more once wrapped.
_LEFT_OUT = re.compile(
    r"(^|\.)(pooler|classifier|score|classification_head|qa_outputs|lm_head|embed_out|output_projection)\."
)


def config_sha256(config: Any) -> str:
    """SHA-256 of a model's configuration as canonical JSON, without keys that change when it is reloaded.

    Values that equal the class's defaults are left out, so that a later version of transformers which adds
    a setting does not change the sum. Names of labels count by their number.
    """
    kept, defaults = _kept(config)
    if len(kept.get("id2label") or ()) == len(defaults.get("id2label") or ()):
        kept.pop("id2label", None)  # as many as by default, under names of their own
    for name in _WRITING:
        kept.pop(name, None)
    return sha256_of(json.dumps(_canonical(kept), sort_keys=True)) or ""


def is_config_of(config: Any, expected: str) -> bool:
    """Whether a model's configuration has this sum, as it is or as it was once computed.

    Once, labels as many as by default counted if they bore names, and not if they did not.

    Args:
        config: Of a transformers model.
        expected: A sum by ``config_sha256``, of this version or of one before.
    """
    if config_sha256(config) == expected:
        return True
    kept, _ = _kept(config)
    named = {**kept, "id2label": getattr(config, "id2label", None) or {}}
    return any(sha256_of(json.dumps(_canonical(one), sort_keys=True)) == expected for one in (kept, named))


def _kept(config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What differs from the defaults of a configuration's class, and those defaults."""
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    try:
        defaults = type(config)().to_dict() if hasattr(config, "to_dict") else {}
    except (TypeError, ValueError):
        defaults = {}  # a class that cannot be made without arguments
    return {k: v for k, v in values.items() if k == "model_type" or k not in defaults or defaults[k] != v}, defaults


def tokenizer_sha256(tokenizer: Any) -> str | None:
    """SHA-256 of a tokenizer's rules and vocabulary, whatever padding and truncation are set now."""
    if tokenizer is None:
        return None
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor holds one
    backend = getattr(tokenizer, "backend_tokenizer", None) or getattr(tokenizer, "_tokenizer", None)
    if backend is not None and hasattr(backend, "to_str"):
        rules = json.loads(backend.to_str())
        rules.pop("padding", None)
        rules.pop("truncation", None)
        return sha256_of(json.dumps(rules, sort_keys=True))
    special = {key: str(value) for key, value in getattr(tokenizer, "special_tokens_map", {}).items()}
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    return sha256_of(json.dumps([type(tokenizer).__name__, vocabulary, special], sort_keys=True))


def fingerprint_tensors(model: Any, *, skip: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Hashes of a small, evenly spaced part of the base, by the names of the plain base.

    Modules that the checkpoint did not hold are left out: they are random, and others at every load.

    Returns:
        Name to ``{"shape": [...], "dtype": str, "sha256": str, "values": [8 numbers]}``. Empty if nothing
        can be read: adapters merged into the weights, or every sampled tensor quantised or elsewhere.
    """
    from hfplug.models.factory import applied_to  # torch, which reading a lock does without

    if is_merged(model):
        return {}
    applied = applied_to(model)
    random = tuple(f"{name}." for name in (applied.anatomy.new_modules if applied is not None else ()))
    matrices = {
        name: tensor
        for name, tensor in base_parameters(model)
        if tensor.dim() >= 2 and name not in skip and not _LEFT_OUT.search(name) and not name.startswith(random)
    }
    embedding = embedding_weight(model)
    chosen = sorted(matrices, key=lambda name: sha256_of(name) or "")[:TENSORS]
    chosen += [name for name, tensor in matrices.items() if tensor is embedding and name not in chosen]
    entries = {name: fingerprint_tensor(matrices[name]) for name in sorted(chosen)}
    return {name: entry for name, entry in entries.items() if entry is not None}


def combine_fingerprints(tensors: Mapping[str, Any]) -> str | None:
    """One SHA-256 over what ``fingerprint_tensors`` returned; None if that is empty."""
    lines = [f"{name} {entry['shape']} {entry['sha256']}" for name, entry in sorted(tensors.items())]
    return sha256_of("\n".join(lines)) if lines else None


def base_parameters(model: Any) -> Iterator[tuple[str, Any]]:
    """The base's parameters under the names of the plain base, without those that PEFT added.

    PEFT moves a wrapped module's weights to ``base_layer`` or ``original_module`` and puts its own beside
    them; whatever stands beside is an adapter's. A prompt stands outside of the base model altogether.
    """
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        model = model.get_base_model()
    kept_in = {"base_layer", "original_module"}
    pairs = [(name.split("."), tensor) for name, tensor in model.named_parameters()]
    # Tied weights count once above; below every name counts, or a wrapper around one would be missed.
    paths = [name.split(".") for name, _ in model.named_parameters(remove_duplicate=False)]
    wrappers = {tuple(path[:i]) for path in paths for i, part in enumerate(path) if part in kept_in}
    for path, tensor in pairs:
        added = any(part not in kept_in and tuple(path[:i]) in wrappers for i, part in enumerate(path))
        if not added:
            yield ".".join(part for part in path if part not in kept_in | {"token_adapter"}), tensor


def fingerprint_tensor(tensor: Any) -> dict[str, Any] | None:
    """The entry of one tensor in ``fingerprint_tensors``; None if quantised, sharded, or elsewhere."""
    plain_types = {"Parameter", "Tensor"}
    if type(tensor).__name__ not in plain_types or type(tensor.data).__name__ not in plain_types:
        return None
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _STEP or tensor.device.type == "meta" or tensor.numel() == 0:
        return None
    flat = tensor.detach().reshape(-1)
    sample = flat[:: max(1, flat.numel() // ELEMENTS)][:ELEMENTS].float().cpu()
    values = sample[:: max(1, sample.numel() // VALUES)][:VALUES].tolist()
    digest = hashlib.sha256(sample.numpy().astype("<f4").tobytes()).hexdigest()
    # Shortest decimals that give the same float32 back, so that the file is small and exact.
    values = [float(f"{value:.9g}") if math.isfinite(value) else None for value in values]
    return {"shape": list(tensor.shape), "dtype": dtype, "sha256": digest, "values": values}


def same_tensor(expected: Mapping[str, Any], found: Mapping[str, Any], *, known_rows: int | None = None) -> bool:
    """Whether two entries are of one tensor, exactly, or up to rounding where their formats differ.

    Args:
        expected: The entry in the lock.
        found: The entry of the tensor at hand.
        known_rows: If only so many of its first rows can be the same, because the others are new after every load.
    """
    if list(expected.get("shape", [])) != found["shape"]:
        return False
    if known_rows is None and expected.get("dtype") == found["dtype"]:
        return expected.get("sha256") == found["sha256"]
    # One of the two was rounded: their values may differ by a rounding step of the coarser format.
    dtypes = (expected.get("dtype"), found["dtype"])
    step = max(_STEP.get(str(dtype), 0.0) for dtype in dtypes)
    least = max(_SMALLEST.get(str(dtype), 0.0) for dtype in dtypes)
    pairs = list(zip(expected.get("values", []), found["values"], strict=False))
    if known_rows is not None:
        pairs = pairs[: _count_values_before(found["shape"], known_rows)]
    return all(
        a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=step, abs_tol=least))
        for a, b in pairs
    )


def _count_values_before(shape: list[int], rows: int) -> int:
    """How many of the eight values of :func:`fingerprint_tensor` lie in the first ``rows`` rows."""
    total = math.prod(shape)
    step = max(1, total // ELEMENTS)
    sampled = min(ELEMENTS, -(-total // step))
    stride = step * max(1, sampled // VALUES)
    return -(-rows * (total // shape[0]) // stride)


def _canonical(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        if key == "id2label":
            return len(value)
        return {
            str(k): _canonical(v, str(k))
            for k, v in value.items()
            if str(k) not in _VOLATILE and not str(k).startswith("_")
        }
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return plain(value)


def count_labels(model: Any, config: Any) -> int | None:
    """The number of labels, for models whose class has labels; every configuration claims to have two."""
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        model = model.get_base_model()
    has_labels = type(model).__name__.endswith("Classification") and config is not None
    return int(config.num_labels) if has_labels else None


def label_names(model: Any, config: Any) -> list[str] | None:
    """The names of the labels in order, or None if there are no labels or all bear the names of the library."""
    count = count_labels(model, config)
    names = {int(number): str(name) for number, name in (getattr(config, "id2label", None) or {}).items()}
    # transformers' own run_glue.py names them in ``label2id`` alone.
    other = {number: str(name) for name, number in (getattr(config, "label2id", None) or {}).items()}
    for named in (names, other):
        if count and sorted(named) == list(range(count)):
            found = [named[number] for number in range(count)]
            if found != [f"LABEL_{number}" for number in range(count)]:
                return found
    return None


def main_dtype(model: Any) -> str | None:
    """The floating format that holds most of the base's numbers; quantised ones do not count."""
    sizes: dict[str, int] = {}
    for _, tensor in base_parameters(model):
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype in _STEP and not hasattr(tensor, "quant_state"):
            sizes[dtype] = sizes.get(dtype, 0) + tensor.numel()
    return max(sizes, key=lambda dtype: sizes[dtype]) if sizes else None


def is_merged(model: Any) -> bool:
    """Whether PEFT has an adapter merged into the base's weights at the moment."""
    return any(getattr(module, "merged_adapters", None) for module in model.modules())


def sha256_of(value: Any) -> str | None:
    """Of a text; of other JSON values as canonical JSON; None for None."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(plain(value), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
