"""From a folder to a model over a resident base's memory."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.fit import check_files, check_finite
from hfplug.adapters.load import find_tokenizer, load_adapter, method_of
from hfplug.adapters.lock import verify as compare_with_lock
from hfplug.adapters.probe import ProbeResult, compare_probe
from hfplug.adapters.put_on import LoadedBase, note_what_is_unknown, put_on
from hfplug.adapters.safetensors_header import read_header
from hfplug.errors import MismatchError, ServingError
from hfplug.methods import TuningMethod
from hfplug.models.anatomy import count_parameters
from hfplug.serving.clones import (
    bytes_beyond,
    give_own,
    memory_of,
    same_bits,
    share,
    share_again,
    write_counts,
)
from hfplug.serving.difference import as_difference
from hfplug.serving.merging import merge_into_own
from hfplug.serving.trial import Bench, alone_logits, difference

_PEFT_NAME = re.compile(r"^base_model\.(?:model\.)?")
_WRAPPERS = re.compile(r"\.(?:base_layer|original_module|modules_to_save(?:\.\w+)?|token_adapter)(?=\.)")


@dataclass(frozen=True, kw_only=True)
class AsStored(TuningMethod):
    """No method: the base as its checkpoint has it, to be asked and not trained. Not registered."""

    name: ClassVar[str] = "serving"
    category: ClassVar[str] = "selective"
    flag_prefix: ClassVar[str] = "serving"
    summary: ClassVar[str] = "the base as it is stored"
    paper: ClassVar[str] = ""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A variant's model, before it is known how it can be batched. Fields as of ``Attached``.

    Attributes:
        alone_because: Why its rows are not tried beside others', or empty.
    """

    adapter: AdapterDir
    method: TuningMethod
    kind: Literal["adapter", "full"]
    model: nn.Module
    tokenizer: Any
    trainable_parameters: int
    probe: ProbeResult | None
    notes: tuple[str, ...]
    alone_because: str = ""


def put_variant_on(
    base: LoadedBase,
    folder: str | Path,
    tokenizer: Any,
    bench: Bench,
    *,
    verify: Literal["probe", "lock"],
    full: Literal["copy", "difference"],
    merge: Literal["never", "always"],
) -> Made:
    """Make a variant's model over the base's memory. Other arguments and errors as of ``Resident.attach``.

    Args:
        base: The base.
        folder: The adapter's folder.
        tokenizer: The base's.
        bench: Measures what a difference or a merge costs in exactness.
    """
    for what, value, choices in _choices(verify, full, merge):
        if value not in choices:
            raise ServingError(f"{what} must be one of {', '.join(choices)}, not {value!r}.")
    adapter = AdapterDir.open(folder)
    check_files(adapter)
    check_finite(adapter)
    note_what_is_unknown(adapter)
    method = method_of(adapter)
    tokenizer = find_tokenizer(adapter, None, offline="on") or tokenizer
    notes: tuple[str, ...] = ()
    because = ""
    if adapter.kind == "full":
        model = _full_model(base, adapter, tokenizer)
        trainable = count_parameters(model)
        because = "every weight is its own, there is nothing to share in a pass"
        if full == "difference":
            model, note = _difference(bench, method, base.model, model)
            notes = (note,)
    else:
        model = _adapter_model(base, adapter, method, tokenizer)
        trainable = _saved_numbers(adapter)
        if merge == "always":
            notes = (_merged(bench, method, model),)
            because = "merged into weights of its own"
    probe, unknown = _ask_probe(adapter, model, tokenizer, verify)
    model.eval().requires_grad_(False)
    return Made(
        adapter=adapter,
        method=method,
        kind="full" if adapter.kind == "full" else "adapter",
        model=model,
        tokenizer=tokenizer,
        trainable_parameters=trainable,
        probe=probe,
        notes=(*notes, *unknown),
        alone_because=because,
    )


def _choices(verify: str, full: str, merge: str) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    return (
        ("verify", verify, ("probe", "lock")),
        ("full", full, ("copy", "difference")),
        ("merge", merge, ("never", "always")),
    )


def _difference(bench: Bench, method: TuningMethod, base: nn.Module, copy: nn.Module) -> tuple[nn.Module, str]:
    """A full model as a difference, and what that costs in exactness, in words."""
    whole = bytes_beyond([copy], memory_of([base]))
    model = as_difference(base, copy)
    held = bytes_beyond([model], memory_of([base]))
    off = difference(alone_logits(bench, method, model), alone_logits(bench, method, copy))
    return model, (
        f"Held as a difference to the base of 8 bits a number: {held / 1e6:.1f} MB in place of {whole / 1e6:.1f} MB;"
        f" its logits differ from the copy's by {off:.1g} of their root mean square at most, on"
        f" {len(bench.prompts)} short inputs."
    )


def _merged(bench: Bench, method: TuningMethod, model: nn.Module) -> str:
    """Merge an adapter, and say what that costs in exactness.

    Raises:
        ServingError: The merged model is another one.
    """
    before = alone_logits(bench, method, model)
    merge_into_own(model, method)
    off = difference(alone_logits(bench, method, model), before)
    if off > 10 * bench.limit:
        raise ServingError(
            f"Merged, its logits differ from what they were by {off:.1g} of their root mean square.",
            fix="Pass merge='never'.",
        )
    return f"Merged into weights of its own; its logits differ by {off:.1g} of their root mean square from unmerged."


def _adapter_model(base: LoadedBase, adapter: AdapterDir, method: TuningMethod, tokenizer: Any) -> nn.Module:
    """A ``PeftModel`` over a clone; whatever loading writes into is the clone's own."""
    clone = share(base.model)
    names = dict(base.model.named_parameters(remove_duplicate=False))
    written = None if method.loading(adapter.config) == "into" else _base_names(adapter, names)
    given = give_own(clone, written)
    before = write_counts(base.model)
    mine = LoadedBase(model=clone, found=base.found, task_type=base.task_type, missing=base.missing)
    tuned = put_on(adapter, mine, method, tokenizer=tokenizer)
    if write_counts(base.model) != before:
        raise ServingError(
            f"Putting on the adapter in {str(adapter.path)!r} wrote into the base, which is spoilt now.",
            fix="Load the base again, and serve this adapter in a process of its own.",
        )
    share_again(tuned, given)
    return tuned


def _base_names(adapter: AdapterDir, names: Mapping[str, Any]) -> set[str]:
    """Parameters of the base that the adapter's file has values for: PEFT writes into those."""
    plain = {_WRAPPERS.sub("", _PEFT_NAME.sub("", name)) for name in adapter.tensor_names()}
    return {name for name in names if name in plain or any(one.endswith(f".{name}") for one in plain)}


def _full_model(base: LoadedBase, adapter: AdapterDir, tokenizer: Any) -> nn.Module:
    """A fully tuned model; tensors that are the base's, bit for bit, are the base's memory."""
    weight = next(base.model.parameters())
    if getattr(base.model, "is_quantized", False):
        raise ServingError(
            f"{str(adapter.path)!r} is a fully tuned model, which is not held over a quantised base.",
            fix="Attach it to the base in 16 or 32 bits.",
        )
    dtype: Any = base.model.dtype
    trusted = base.found.trust_remote_code
    places: dict[str, Any] = {"task_type": base.task_type, "dtype": dtype, "device": weight.device}
    model = load_adapter(adapter.path, trust_remote_code=trusted, **places)
    if type(model) is not type(base.model):
        raise MismatchError(
            f"{str(adapter.path)!r} holds a {type(model).__name__}; the base is a {type(base.model).__name__}.",
            fix="Serve it on a base of its own.",
        )
    if adapter.lock is not None and tokenizer is not None:
        differences = compare_with_lock(adapter.lock, model, tokenizer, task=adapter.task)
        wrong = [text for text in differences if getattr(text, "kind", "base") in ("tokenizer", "task")]
        if wrong:
            raise MismatchError("This model's folder does not fit its lock: " + " ".join(wrong))
    shared = dict(base.model.named_parameters(remove_duplicate=False))
    buffers = dict(base.model.named_buffers(remove_duplicate=False))
    for name, module in model.named_modules():
        for own, theirs in ((module._parameters, shared), (module._buffers, buffers)):
            for key, tensor in own.items():
                other = theirs.get(f"{name}.{key}" if name else key)
                if tensor is not None and other is not None and same_bits(tensor, other):
                    tensor.data = other.detach()
    return model


def _ask_probe(
    adapter: AdapterDir, model: nn.Module, tokenizer: Any, verify: str
) -> tuple[ProbeResult | None, tuple[str, ...]]:
    probe = adapter.lock.probe if adapter.lock is not None else None
    if verify != "probe":
        return None, ("Its answers were not compared with its author's (verify='lock').",)
    if not probe:
        return None, ("It has no probe, so that its answers could not be compared with its author's.",)
    return compare_probe(probe, model, tokenizer, adapter_dtype=adapter.weight_dtype), ()


def _saved_numbers(adapter: AdapterDir) -> int:
    """Numbers that the adapter trained: from its record, else those in its file."""
    known = adapter.record.parameter_efficiency.get("trainable_parameters") if adapter.record is not None else None
    if isinstance(known, int):
        return known
    return sum(math.prod(entry["shape"]) for file in adapter.weights for entry in read_header(file).values())
