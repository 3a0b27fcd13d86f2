"""Adapters into the base's weights, and the proof that the result answers as base and adapters did together.

They go into the base's own files one by one, a tensor at a time (``merge_shards.py``), so that a base of any size needs
the memory of its largest layer. What changes a weight that is tied to another one, or the base when it is loaded, is
merged with the model in memory, in float32. A soft prompt is an input: there is nothing to merge it into.

Whatever was trained over a base in 4 bits goes into the unquantised one by default, or into those 4 bits written out
as full numbers, which is the base that it saw. Never into the 4 bits themselves: rounding the sum again would lose most
of what was learnt.

The folder is built beside its place, checked, and put there in one step; what fails leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.card_front import task_type
from hfplug.adapters.fingerprint import tokenizer_sha256
from hfplug.adapters.fit import check_files, check_finite
from hfplug.adapters.foreign import method_of, recipe_of
from hfplug.adapters.load import find_base, find_tokenizer
from hfplug.adapters.merge_combine import Combination, make_combination
from hfplug.adapters.merge_job import Check, Into, Job, Merged, is_of_peft
from hfplug.adapters.merge_plan import MergePlan
from hfplug.adapters.one_step import built_at, place_for
from hfplug.errors import AdapterError, MethodError, MismatchError
from hfplug.methods import TuningMethod
from hfplug.models.base import Base, read_task_type

__all__ = ["Check", "Into", "MergePlan", "Merged", "is_of_peft", "merge_adapter", "merge_adapters", "plan_merge"]

DTYPES = ("auto", "float32", "bfloat16", "float16")
INTO = ("unquantised", "dequantised")
_CHECKS = ("logits", "off")


def merge_adapter(
    adapter: AdapterDir | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    into: Into = "unquantised",
    check: Check = "logits",
    token: str | None = None,
    offline: Literal["auto", "on"] = "auto",
    trust_remote_code: bool = False,
) -> Merged:
    """Merge an adapter into its base's weights: a whole model, without PEFT and without cost at inference.

    Args:
        adapter: The adapter, made with hfplug or not. It is only read.
        out: Folder of the merged model. It may not exist, or be empty; nothing is ever overwritten.
        base: Repo id or folder of the base, if it is not where it was.
        revision: Commit of the base, if it is not the one that the adapter names.
        dtype: Number format of the merged weights: ``"float32"``, ``"bfloat16"`` or ``"float16"``; that of the
            base's own files for ``"auto"``.
        into: For an adapter that was trained over a base in 4 bits: ``"unquantised"`` merges it into the base's own
            files; ``"dequantised"`` into the 4 bits written out in full, which answers as the author saw it.
        check: ``"logits"`` loads base and adapter, then the merged model, and compares their logits on the probe's
            inputs; it needs the memory of one model. ``"off"`` writes it as it is, and leaves no lock.
        token: Access token for a private or gated base.
        offline: ``"on"`` asks no Hub for the base and its tokenizer: the cache only.
        trust_remote_code: Run modelling code from the base's repo.

    Returns:
        Where it is, how it was made, and how far its answers are from the adapter's.

    Raises:
        MethodError: There is nothing to merge: a soft prompt, a fully tuned model, a method that PEFT cannot merge.
        AdapterError: ``out`` is taken, the adapter is damaged, the disk has no room, or ``dtype`` is no such thing.
        BaseModelError: The base cannot be found or read.
        MismatchError: The base is not that of the adapter, or the merged model gives other answers: nothing is left.
    """
    return merge_adapters(
        [adapter],
        out,
        base=base,
        revision=revision,
        dtype=dtype,
        into=into,
        check=check,
        token=token,
        offline=offline,
        trust_remote_code=trust_remote_code,
    )


def merge_adapters(
    adapters: Sequence[AdapterDir | str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    combination: str = "linear",
    density: float | None = None,
    seed: int = 0,
    names: Sequence[str] | None = None,
    base: str | Path | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    into: Into = "unquantised",
    check: Check = "logits",
    token: str | None = None,
    offline: Literal["auto", "on"] = "auto",
    trust_remote_code: bool = False,
    announce: Callable[[MergePlan], object] | None = None,
) -> Merged:
    """Merge several adapters of one base into its weights, whatever methods made them.

    Args:
        adapters: The adapters. They are only read.
        out: As for :func:`merge_adapter`, like everything that is not described here.
        weights: What each adapter's difference to the base is multiplied by. If None: 1 for one adapter, and for
            ``"ties"`` and ``"dare_ties"``, which end in a mean; 1 / count for the others.
        combination: ``"linear"``, ``"magnitude_prune"``, ``"ties"``, ``"dare_linear"`` or ``"dare_ties"``; see
            ``merge_combine.py`` for what each does.
        density: The share of each difference that is kept, above 0 and up to 1; not for ``"linear"``.
        seed: Of the draws of DARE.
        names: What to call the adapters in the card; the names of their folders if None.
        announce: Called with what is going to be done, before anything is loaded or written.

    Returns:
        As :func:`merge_adapter`; ``difference`` is to the same combination, made in memory of what PEFT merges.

    Raises:
        HfplugError: As :func:`merge_adapter`; an ``AdapterError`` too if weights or density are off, a
            ``MismatchError`` if the adapters are not of one base, task type or tokenizer.
    """
    job, place = _prepare(
        adapters,
        out,
        weights=weights,
        combination=combination,
        density=density,
        seed=seed,
        names=names,
        base=base,
        revision=revision,
        dtype=dtype,
        into=into,
        check=check,
        token=token,
        offline=offline,
        trust_remote_code=trust_remote_code,
    )
    with built_at(place, "The merged model") as building:
        merged = job.build(building, place.name, announce)
    return dataclasses.replace(merged, adapter=AdapterDir.open(out))


def plan_merge(
    adapters: Sequence[AdapterDir | str | os.PathLike[str]], out: str | os.PathLike[str], **options: Any
) -> MergePlan:
    """What :func:`merge_adapters` would do, without loading a weight or writing anything.

    Args:
        adapters, out, options: As for :func:`merge_adapters`.

    Raises:
        HfplugError: As :func:`merge_adapters`, as far as it can be known before it is done.
    """
    job, _ = _prepare(adapters, out, **options)
    return job.outline(job.plan())


def _prepare(
    adapters: Sequence[AdapterDir | str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    combination: str = "linear",
    density: float | None = None,
    seed: int = 0,
    names: Sequence[str] | None = None,
    base: str | Path | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    into: Into = "unquantised",
    check: Check = "logits",
    token: str | None = None,
    offline: Literal["auto", "on"] = "auto",
    trust_remote_code: bool = False,
) -> tuple[Job, Path]:
    """The merge with all that can be refused beforehand refused, and its place; keywords as for `merge_adapters`."""
    places: dict[str, Any] = {"token": token, "offline": offline}
    opened = [one if isinstance(one, AdapterDir) else AdapterDir.open(one) for one in adapters]
    if not opened:
        raise AdapterError("There is no adapter to merge.", fix="Pass one or more.")
    combined = make_combination(combination, len(opened), weights, density, seed)
    methods = [_check_request(one, dtype, check, into) for one in opened]
    _refuse_several(combined, opened, into)
    found = find_base(opened[0], base, revision, trust_remote_code=trust_remote_code, **places)
    place = place_for(out, [found.name, *(one.path for one in opened)])
    _refuse_quantised(found)
    if base is None:
        _refuse_other_bases(opened)
    for one in opened:
        check_files(one)
        check_finite(one)
    job = Job(
        adapters=tuple(opened),
        methods=tuple(methods),
        names=tuple(names) if names is not None else tuple(one.path.name for one in opened),
        combination=combined,
        base=found,
        task_type=_common_task_type(opened, found),
        dtype=dtype,
        into=into,
        check=check,
        tokenizer=_common_tokenizer(opened, found, places),
        options=places,
    )
    return job, place


# ------------------------------------------------------------------------------------------------ refusals


def _check_request(adapter: AdapterDir, dtype: str, check: str, into: str) -> TuningMethod:
    """What can be refused before anything is read; the method of the adapter."""
    choices = {"dtype": (dtype, DTYPES), "check": (check, _CHECKS), "into": (into, INTO)}
    for key, (value, allowed) in choices.items():
        if value not in allowed:
            raise AdapterError(f"{key} must be one of {', '.join(allowed)}, not {value!r}.")
    if adapter.kind == "full":
        raise MethodError(
            f"{adapter.path} holds a fully tuned model: there is nothing to merge.",
            fix="Use that folder as it is, or make a LoRA of it with hfplug extract.",
        )
    method = method_of(adapter)
    if method.merging.startswith("no"):
        peft = " or PEFT (hfplug export … --for peft)" if is_of_peft(adapter) else ""
        raise MethodError(
            f"An adapter of {method.name} cannot be merged ({method.merging}).",
            fix=f"Serve it beside its base with hfplug.Service{peft}, or train lora, which can be merged.",
        )
    rank = adapter.config.get("r")
    if isinstance(rank, int) and not isinstance(rank, bool) and rank < 1:
        raise AdapterError(
            f"{adapter.path} says that its rank is {rank}: an adapter has a rank of 1 or more.",
            fix="Export it again from its checkpoint.",
        )
    if into == "dequantised" and recipe_of(adapter, method) is None:
        raise AdapterError(
            "The adapter was not trained over a base in 4 bits, so there is nothing to dequantise.",
            fix="Leave out --into (into= in Python).",
        )
    return method


def _refuse_several(combination: Combination, adapters: Sequence[AdapterDir], into: str) -> None:
    if combination.is_one == "no" and into == "dequantised":
        raise AdapterError(
            "Several adapters, or one with a weight, go into the unquantised base only.",
            fix="Leave out --into (into= in Python), or merge one adapter as it is.",
        )
    if len({one.path.resolve() for one in adapters}) < len(adapters):
        raise AdapterError("The same adapter was passed twice.", fix="Pass it once, with another weight.")


def _refuse_quantised(found: Base) -> None:
    if getattr(found.config, "quantization_config", None):
        raise AdapterError(
            f"The weights of the base {found.name!r} are stored quantised; merged into them, most of what the adapter"
            " has learnt would be rounded away.",
            fix="Pass --base with the unquantised model that it was made from (base= in Python).",
        )


def _refuse_other_bases(adapters: Sequence[AdapterDir]) -> None:
    first = adapters[0]
    for other in adapters[1:]:
        if (other.base_name, other.base_revision) != (first.base_name, first.base_revision):
            raise MismatchError(
                f"The adapters are not of one base: {first.path.name} is of {first.base_name!r}"
                f" ({first.base_revision or 'no commit'}), {other.path.name} of {other.base_name!r}"
                f" ({other.base_revision or 'no commit'}).",
                fix="If it is the same base at two places, pass it: --base (base= in Python).",
            )


def _common_task_type(adapters: Sequence[AdapterDir], found: Base) -> str:
    kinds = [read_task_type(found.config, task_type(one)) for one in adapters]
    if len(set(kinds)) > 1:
        raise MismatchError(
            f"The adapters are for {' and '.join(sorted(set(kinds)))}: one model cannot be all of that.",
            fix="Merge adapters of one task type.",
        )
    return kinds[0]


def _common_tokenizer(adapters: Sequence[AdapterDir], found: Base, places: dict[str, Any]) -> Any:
    tokenizers = [find_tokenizer(one, found, **places) for one in adapters]
    if len({tokenizer_sha256(one) for one in tokenizers}) > 1:
        raise MismatchError(
            "The adapters were trained with different tokenizers: one model has one.",
            fix="Merge adapters that share a tokenizer.",
        )
    return tokenizers[0]
