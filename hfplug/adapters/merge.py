"""An adapter into the base's weights, and the proof that the result answers as base and adapter did together.

A LoRA goes into the base's own files one by one (``merge_shards.py``), so that a base of any size needs the memory of
one of them. Everything else that has weights to merge (DoRA, IA3, …), and a LoRA on tied weights, is merged by PEFT
with the model in memory, in float32. A soft prompt is an input: there is nothing to merge it into.

Whatever was trained over a base in 4 bits goes into the unquantised one by default, or into those 4 bits written out
as full numbers, which is the base that it saw. Never into the 4 bits themselves: rounding the sum again would lose most
of what was learnt.

The folder is built beside its place, checked, and put there in one step; what fails leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from hfplug.adapters import atomic
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.card import render_card
from hfplug.adapters.card_front import task_type
from hfplug.adapters.files import CARD, CONFIG, LOCK, RECORD, TASK, copy_file, file_sha256, refuse_taken
from hfplug.adapters.fit import check_files, check_finite
from hfplug.adapters.foreign import method_of, recipe_of
from hfplug.adapters.load import find_base, find_tokenizer
from hfplug.adapters.lock import Lock, make_lock
from hfplug.adapters.merge_check import compare_merged
from hfplug.adapters.merge_shards import Plan, plan_shards, write_config, write_shards
from hfplug.adapters.probe import ProbeResult, compare_probe, make_probe
from hfplug.adapters.put_on import LoadedBase, put_on
from hfplug.adapters.record import Record, scrub
from hfplug.adapters.ties import keep_untied, untie
from hfplug.errors import AdapterError, MethodError, MismatchError
from hfplug.methods import TuningMethod, get_method
from hfplug.methods.tuners.names import is_added
from hfplug.models.base import Base, read_task_type, resolve_base
from hfplug.models.factory import load_base

logger = logging.getLogger(__name__)

DTYPES = ("auto", "float32", "bfloat16", "float16")
INTO = ("unquantised", "dequantised")
Check = Literal["logits", "off"]
Into = Literal["unquantised", "dequantised"]
_CHECKS = ("logits", "off")


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A merged model on disk.

    Attributes:
        adapter: The folder: a whole model of transformers, with record, lock, task and card beside it.
        way: ``"shards"``: file by file, without the model in memory; ``"memory"``: with it, by PEFT.
        why_memory: Why it could not be done file by file; None if it was.
        into: Which base it went into: ``"unquantised"`` or ``"dequantised"``.
        dtype: The number format of the merged weights.
        difference: The logits of the merged model against those of base and adapter; None if not asked for.
        author: The same against what the author saw, from the lock; None if there is no probe, or not asked for.
    """

    adapter: AdapterDir
    way: Literal["shards", "memory"]
    why_memory: str | None
    into: Into
    dtype: str
    difference: ProbeResult | None
    author: ProbeResult | None


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
    adapter = adapter if isinstance(adapter, AdapterDir) else AdapterDir.open(adapter)
    method = _check_request(adapter, out, dtype, check, into)
    places: dict[str, Any] = {"token": token, "offline": offline}
    found = find_base(adapter, base, revision, trust_remote_code=trust_remote_code, **places)
    _refuse_quantised(found)
    check_files(adapter)
    check_finite(adapter)
    job = _Job(
        adapter=adapter,
        method=method,
        base=found,
        task_type=read_task_type(found.config, task_type(adapter)),
        dtype=dtype,
        into=into,
        check=check,
        tokenizer=find_tokenizer(adapter, found, **places),
        options=places,
    )
    merged = _write_in_one_step(job, Path(os.path.realpath(out)))
    return dataclasses.replace(merged, adapter=AdapterDir.open(out))


# --------------------------------------------------------------------------------------------------- parts


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One merge, all of it known but the result."""

    adapter: AdapterDir
    method: TuningMethod
    base: Base
    task_type: str
    dtype: str
    into: Into
    check: Check
    tokenizer: Any
    options: dict[str, Any]

    def build(self, folder: Path, name: str) -> Merged:
        """Fill ``folder`` and check it."""
        plan: Plan | str = "the 4 bits have to be written out in full first"
        if self.into == "unquantised":
            plan = plan_shards(self.adapter, self.base, self.task_type, **self.options)
        tuned = self._load() if self.check == "logits" or isinstance(plan, str) else None
        probe, author = None, None
        if self.check == "logits":
            probe = make_probe(tuned, self.tokenizer, task=self.adapter.task)  # type: ignore[arg-type]
            author = self._against_author(tuned)
        if isinstance(plan, str):
            logger.info("Merged in memory: %s", plan)
            dtype = self._write_from_memory(tuned, folder)
        else:
            tuned = None  # the memory of the model is free from here on
            dtype = self._write_shards(plan, folder)
        del tuned
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        difference = self._check(folder, name, probe, dtype)
        self._write_documents(folder, name, plan, dtype, difference)
        way: Literal["shards", "memory"] = "memory" if isinstance(plan, str) else "shards"
        return Merged(
            adapter=AdapterDir.open(folder),
            way=way,
            why_memory=plan if isinstance(plan, str) else None,
            into=self.into,
            dtype=dtype,
            difference=difference,
            author=author,
        )

    def _load(self) -> nn.Module:
        """Base and adapter in float32."""
        # As full fine-tuning wants the base: its own weights are what changes.
        whole = get_method("full")()
        recipe = recipe_of(self.adapter, self.method) if self.into == "dequantised" else None
        model, missing = load_base(
            self.base, self.task_type, whole, dtype="float32", quantization=recipe, **self.options
        )
        if recipe is not None:
            model = model.dequantize()  # type: ignore[operator]
        loaded = LoadedBase(model=model, found=self.base, task_type=self.task_type, missing=missing)
        return put_on(self.adapter, loaded, self.method, tokenizer=self.tokenizer)

    def _against_author(self, tuned: Any) -> ProbeResult | None:
        stored = self.adapter.lock.probe if self.adapter.lock else None
        if not stored:
            return None
        return compare_probe(stored, tuned, self.tokenizer, adapter_dtype=self.adapter.weight_dtype)

    def _write_shards(self, plan: Plan, folder: Path) -> str:
        size = sum(file.stat().st_size for file in plan.files)
        free = shutil.disk_usage(folder).free
        if free < size:
            raise AdapterError(
                f"The merged model needs {size:,} bytes and {folder.parent} has {free:,} left.",
                fix="Make room, or pass a folder on another disk.",
            )
        wanted = None if self.dtype == "auto" else getattr(torch, self.dtype)
        write_shards(plan, self.adapter, folder, wanted)
        write_config(plan, self.base, folder, wanted)
        self._copy_generation_config(folder)
        _as_readable_as_the_rest(folder)
        return AdapterDir.open(folder).weight_dtype or self.dtype

    def _copy_generation_config(self, folder: Path) -> None:
        from transformers.utils import cached_file

        places: dict[str, Any] = {"revision": self.base.revision or "main", "token": self.options["token"]}
        places |= {"local_files_only": self.options["offline"] == "on", "_raise_exceptions_for_missing_entries": False}
        file = cached_file(self.base.name, "generation_config.json", **places)
        if file is not None:  # not every base has one
            copy_file(Path(file), folder / "generation_config.json")

    def _write_from_memory(self, tuned: Any, folder: Path) -> str:
        untie(tuned)
        try:
            model = tuned.merge_and_unload(safe_merge=True)
        except (AttributeError, NotImplementedError, TypeError) as error:
            raise MethodError(
                f"PEFT cannot merge an adapter of type {self.adapter.config.get('peft_type')}.",
                fix=f"Serve it beside its base with hfplug.Service{_or_with_peft(self.adapter)}.",
            ) from error
        except ValueError as error:
            raise AdapterError(f"PEFT cannot merge it: {error}", fix="Export an earlier checkpoint.") from error
        keep_untied(model)
        stored = getattr(self.base.config, "dtype", None) or torch.float32
        dtype = str(stored).removeprefix("torch.") if self.dtype == "auto" else self.dtype
        model.to(getattr(torch, dtype))
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
                raise AdapterError(
                    f"The merged {name} has numbers that are not finite in {dtype}.",
                    fix="Pass --dtype bfloat16 or float32 (dtype= in Python).",
                )
        model.save_pretrained(folder)
        _as_readable_as_the_rest(folder)
        return dtype

    def _check(self, folder: Path, name: str, probe: dict[str, Any] | None, dtype: str) -> ProbeResult | None:
        """Load what was written and ask it what base and adapter were asked; the lock is made on the way."""
        if probe is None:
            return None
        found = resolve_base(folder, trust_remote_code=self.base.trust_remote_code)
        try:
            model, missing = load_base(found, self.task_type, get_method("full")(), dtype="float32")
        except (ValueError, RuntimeError) as error:
            raise MismatchError(f"The merged model cannot be loaded: {error}") from error
        model.eval()
        lock = self._lock_of(model, folder)  # first: comparing may move the weights
        result = compare_merged(probe, model, self.tokenizer, dtype)
        if missing or result.verdict != "same":
            why = f"it lacks {missing[0]}" if missing else str(result).replace("the author's logits", "the adapter's")
            raise MismatchError(
                f"The merged model of {name!r} does not answer as base and adapter do: {why}. It was not kept.",
                fix="Try --dtype float32 (dtype= in Python), or serve it beside its base with hfplug.Service.",
            )
        atomic.write_json(folder / LOCK, scrub(lock.to_json()))
        return result

    def _lock_of(self, model: nn.Module, folder: Path) -> Lock:
        base_name, commit = self.base.name, self.base.commit
        lock = make_lock(model, self.tokenizer, base_name=base_name, base_commit=commit, task=self.adapter.task)
        own = make_probe(model, self.tokenizer, task=self.adapter.task)
        sums = {file.name: file_sha256(file) for file in AdapterDir.open(folder).weights}
        return dataclasses.replace(lock, probe=own, weights_sha256=sums)

    def _write_documents(
        self, folder: Path, name: str, plan: Plan | str, dtype: str, difference: ProbeResult | None
    ) -> None:
        adapter = self.adapter
        record = adapter.record or Record(
            method=self.method.name,
            task=adapter.task.name if adapter.task else None,
            base=self.base.name,
            base_commit=self.base.commit,
        )
        how = "file by file" if isinstance(plan, Plan) else "in memory"
        notes = [f"Merged into the {self.into} base, in {dtype}, {how}. Training figures are those of the adapter."]
        if difference is not None:
            notes.append(
                f"Checked: the largest difference between its logits and those of base and adapter is"
                f" {difference.largest:.2g} of their root mean square ({difference.where}); allowed is"
                f" {difference.tolerance:g}."
            )
        record = dataclasses.replace(record, notes=(*record.notes, *notes))
        atomic.write_json(folder / RECORD, scrub(record.to_json()))
        if adapter.task is not None:
            atomic.write_json(folder / TASK, scrub(adapter.task.to_json()))
        atomic.write_text(folder / CARD, render_card(AdapterDir.open(folder), name=name))


def _write_in_one_step(job: _Job, place: Path) -> Merged:
    """Build the folder beside its place, check it, and put it there; what fails leaves nothing."""
    building = atomic.make_temporary_folder(place)
    try:
        merged = job.build(building, place.name)
        atomic.sync_tree(building)
        old = atomic.replace_folder(building, place)
    except BaseException as error:
        shutil.rmtree(building, ignore_errors=True)
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        raise AdapterError(
            f"The merged model cannot be written to {place}: {error}.",
            fix="Nothing was left there. Make room, or pass a folder on another disk.",
        ) from error
    if old is not None:
        old.rmdir()  # it was empty
    return merged


def _check_request(adapter: AdapterDir, out: str | os.PathLike[str], dtype: str, check: str, into: str) -> TuningMethod:
    """What can be refused before anything is read; the method of the adapter."""
    choices = {"dtype": (dtype, DTYPES), "check": (check, _CHECKS), "into": (into, INTO)}
    for key, (value, allowed) in choices.items():
        if value not in allowed:
            raise AdapterError(f"{key} must be one of {', '.join(allowed)}, not {value!r}.")
    if adapter.kind == "full":
        raise MethodError(
            f"{adapter.path} holds a fully tuned model: there is nothing to merge.", fix="Use that folder as it is."
        )
    method = method_of(adapter)
    if method.merging.startswith("no"):
        raise MethodError(
            f"An adapter of {method.name} cannot be merged ({method.merging}).",
            fix=f"Serve it beside its base with hfplug.Service{_or_with_peft(adapter)}, or train lora, which can be"
            " merged.",
        )
    if into == "dequantised" and recipe_of(adapter, method) is None:
        raise AdapterError(
            "The adapter was not trained over a base in 4 bits, so there is nothing to dequantise.",
            fix="Leave out --into (into= in Python).",
        )
    refuse_taken(Path(os.path.realpath(out)))
    return method


def _as_readable_as_the_rest(folder: Path) -> None:
    """safetensors makes files that only their owner can read, and an engine often runs as somebody else."""
    for file in folder.glob("*.safetensors"):
        shutil.copymode(folder / CONFIG["full"], file)


def is_of_peft(adapter: AdapterDir) -> bool:
    """Whether plain PEFT has this kind of adapter; hfplug brings some that it does not have."""
    return not is_added(adapter.config.get("peft_type"))


def _or_with_peft(adapter: AdapterDir) -> str:
    return " or PEFT (hfplug export … --for peft)" if is_of_peft(adapter) else ""


def _refuse_quantised(found: Base) -> None:
    if getattr(found.config, "quantization_config", None):
        raise AdapterError(
            f"The weights of the base {found.name!r} are stored quantised; merged into them, most of what the adapter"
            " has learnt would be rounded away.",
            fix="Pass --base with the unquantised model that it was made from (base= in Python).",
        )
