"""One merge, once all of it is known but the result: the files, their check, and what is written about it."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from hfplug.adapters import atomic
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.base_files import BaseFiles, check_base_files, find_files
from hfplug.adapters.files import CONFIG, LOCK, copy_file, file_sha256
from hfplug.adapters.foreign import recipe_of
from hfplug.adapters.lock import Lock, make_lock
from hfplug.adapters.merge_check import compare_merged
from hfplug.adapters.merge_combine import Combination
from hfplug.adapters.merge_layout import Layout, lay_out
from hfplug.adapters.merge_memory import combined_in_memory, merged_in_memory
from hfplug.adapters.merge_plan import MergePlan
from hfplug.adapters.merge_report import Story, write_documents
from hfplug.adapters.merge_shards import Plan, Sums, plan_shards, size_of, write_config, write_shards
from hfplug.adapters.one_step import refuse_full_disk
from hfplug.adapters.probe import ProbeResult, compare_probe, make_probe
from hfplug.adapters.put_on import LoadedBase, put_on
from hfplug.adapters.record import scrub
from hfplug.errors import AdapterError, MethodError, MismatchError
from hfplug.methods import TuningMethod, get_method
from hfplug.methods.tuners.names import is_added
from hfplug.models.base import Base, resolve_base
from hfplug.models.factory import load_base

logger = logging.getLogger(__name__)

Check = Literal["logits", "off"]
Into = Literal["unquantised", "dequantised"]


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A merged model on disk.

    Attributes:
        adapter: The folder: a whole model of transformers, with record, lock, task, report and card beside it.
        way: ``"shards"``: tensor by tensor, without the model in memory; ``"memory"``: with it, by PEFT.
        why_memory: Why it could not be done tensor by tensor; None if it was.
        into: Which base it went into: ``"unquantised"`` or ``"dequantised"``.
        dtype: The number format of the merged weights.
        difference: The logits of the merged model against those of base and adapter; None if not asked for.
        author: The same against what the author saw, from the lock; None if there is no probe, not asked for, or there
            are several adapters.
        other: For ``"dequantised"``: the logits of the merged model against those of the adapter on the unquantised
            base; None for the others, or if not asked for.
        combination: How the adapters were combined.
    """

    adapter: AdapterDir
    way: Literal["shards", "memory"]
    why_memory: str | None
    into: Into
    dtype: str
    difference: ProbeResult | None
    author: ProbeResult | None
    other: ProbeResult | None
    combination: Combination


@dataclass(frozen=True, kw_only=True)
class Job:
    """One merge, all of it known but the result."""

    adapters: tuple[AdapterDir, ...]
    methods: tuple[TuningMethod, ...]
    names: tuple[str, ...]
    combination: Combination
    base: Base
    task_type: str
    dtype: str
    into: Into
    check: Check
    tokenizer: Any
    options: dict[str, Any]

    def build(self, folder: Path, name: str, announce: Callable[[MergePlan], object] | None = None) -> Merged:
        """Fill ``folder`` and check it.

        Args:
            folder: An empty one.
            name: What the model will be called.
            announce: Called with what is going to be done, once that is known.
        """
        plan = self.plan()
        if announce is not None:
            announce(self.outline(plan))
        tuned = self._reference() if self.check == "logits" or isinstance(plan, str) else None
        probe, author = None, None
        if self.check == "logits":
            probe = make_probe(tuned, self.tokenizer, task=self._task)  # type: ignore[arg-type]
            author = self._against_author(tuned)
        sums: dict[str, Sums] = {}
        if isinstance(plan, str):
            logger.info("Merged in memory: %s", plan)
            dtype = self._write_from_memory(tuned, folder)
        else:
            tuned = None  # the memory of the model is free from here on
            dtype, sums = self._write_shards(plan, folder)
        del tuned
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        difference = self._check(folder, name, probe, dtype)
        merged = Merged(
            adapter=AdapterDir.open(folder),
            way="memory" if isinstance(plan, str) else "shards",
            why_memory=plan if isinstance(plan, str) else None,
            into=self.into,
            dtype=dtype,
            difference=difference,
            author=author,
            other=self._against_other_base(probe),
            combination=self.combination,
        )
        story = Story(adapters=self.adapters, methods=self.methods, names=self.names, base=self.base, sums=sums)
        write_documents(folder, name, merged, story, self.options)
        return merged

    @property
    def _task(self) -> Any:
        tasks = [one.task for one in self.adapters]
        return tasks[0] if all(one == tasks[0] for one in tasks) else None

    def outline(self, plan: Plan | str) -> MergePlan:
        """What is going to be done, for people.

        Args:
            plan: From :meth:`plan`.
        """
        stored = self._files().dtype()
        dtype = stored if self.dtype == "auto" else self.dtype
        parameters = sum(file.stat().st_size for file in self._files().files) // getattr(torch, stored).itemsize
        models = 1 if self.combination.is_one == "yes" else 2
        loaded = isinstance(plan, str) or self.check == "logits"
        weights = ", ".join(f"{one:g}" for one in self.combination.weights)
        return MergePlan(
            adapters=self.names,
            methods=tuple(method.name for method in self.methods),
            combination="" if self.combination.is_one == "yes" else f"{self.combination}, weights {weights}",
            base=self.base.name,
            into=self.into,
            dtype=dtype,
            way="memory" if isinstance(plan, str) else "shards",
            why_memory=plan if isinstance(plan, str) else None,
            changed=None if isinstance(plan, str) else len(plan.names) + len(plan.added),
            files=None if isinstance(plan, str) else len(plan.files),
            size=self._size(plan, dtype, parameters),
            check=self.check,
            memory=models * parameters * 4 if loaded else 0,
        )

    def _size(self, plan: Plan | str, dtype: str, parameters: int) -> int:
        if isinstance(plan, str):
            return parameters * getattr(torch, dtype).itemsize
        return size_of(plan, self._wanted)

    def _files(self) -> BaseFiles:
        return find_files(self.base, **self.options)

    @property
    def _wanted(self) -> torch.dtype | None:
        return None if self.dtype == "auto" else getattr(torch, self.dtype)

    def plan(self) -> Plan | str:
        """How the base's files become those of the merged model, or why that takes the model in memory."""
        plan: Plan | str = "the 4 bits have to be written out in full first"
        if self.into == "unquantised":
            plan = self._plan_shards()
        if isinstance(plan, str) and self.combination.is_one == "no":
            raise MethodError(
                "Several adapters, or one with a weight, are merged tensor by tensor only, which cannot be done here:"
                f" {plan}.",
                fix="Merge one adapter as it is; a second one trained on the same base can go into the result with"
                " --base (base= in Python).",
            )
        return plan

    def _plan_shards(self) -> Plan | str:
        layouts: list[Layout] = []
        for adapter, method in zip(self.adapters, self.methods, strict=True):
            layout = lay_out(adapter, method, self.base, self.task_type)
            if isinstance(layout, str):
                return layout
            layouts.append(layout)
        files = self._files()
        if self.check == "off":  # else put_on compares the loaded base
            for layout in layouts:
                if layout.adapter.lock is not None:
                    check_base_files(layout.adapter.lock, layout.prefix, files)
        return plan_shards(layouts, self.combination, files)

    # ----------------------------------------------------------------------------------------- in memory

    def _reference(self) -> nn.Module:
        """What the merged model has to answer like: base and adapter, or the combination made in memory."""
        if self.combination.is_one == "yes":
            return self._load(self.into)
        each = (self._load("unquantised", number) for number in range(len(self.adapters)))
        base, missing = self._load_base("unquantised")
        return combined_in_memory(base, missing, each, self.combination)

    def _load_base(self, into: Into, number: int = 0) -> tuple[nn.Module, tuple[str, ...]]:
        """The base in float32, and what its checkpoint lacks."""
        # As full fine-tuning wants the base: its own weights are what changes.
        whole = get_method("full")()
        recipe = recipe_of(self.adapters[number], self.methods[number]) if into == "dequantised" else None
        model, missing = load_base(
            self.base, self.task_type, whole, dtype="float32", quantization=recipe, **self.options
        )
        return (model.dequantize() if recipe is not None else model), missing  # type: ignore[operator]

    def _load(self, into: Into, number: int = 0) -> nn.Module:
        """Base and one adapter in float32."""
        model, missing = self._load_base(into, number)
        loaded = LoadedBase(model=model, found=self.base, task_type=self.task_type, missing=missing)
        return put_on(self.adapters[number], loaded, self.methods[number], tokenizer=self.tokenizer)

    def _against_author(self, tuned: Any) -> ProbeResult | None:
        lock = self.adapters[0].lock
        if not lock or not lock.probe or self.combination.is_one == "no":
            return None
        return compare_probe(lock.probe, tuned, self.tokenizer, adapter_dtype=self.adapters[0].weight_dtype)

    def _against_other_base(self, probe: dict[str, Any] | None) -> ProbeResult | None:
        if probe is None or self.into == "unquantised":
            return None
        return compare_probe(probe, self._load("unquantised"), self.tokenizer)

    # ------------------------------------------------------------------------------------------- writing

    def _write_shards(self, plan: Plan, folder: Path) -> tuple[str, dict[str, Sums]]:
        refuse_full_disk(folder, size_of(plan, self._wanted), "The merged model")
        sums = write_shards(plan, folder, self._wanted)
        write_config(plan, self.base, folder, self._wanted)
        self._copy_generation_config(folder)
        as_readable_as_the_rest(folder)
        return AdapterDir.open(folder).weight_dtype or self.dtype, sums

    def _copy_generation_config(self, folder: Path) -> None:
        from transformers.utils import cached_file

        places: dict[str, Any] = {"revision": self.base.revision or "main", "token": self.options["token"]}
        places |= {"local_files_only": self.options["offline"] == "on", "_raise_exceptions_for_missing_entries": False}
        file = cached_file(self.base.name, "generation_config.json", **places)
        if file is not None:  # not every base has one
            copy_file(Path(file), folder / "generation_config.json")

    def _write_from_memory(self, tuned: Any, folder: Path) -> str:
        model = merged_in_memory(tuned, self.adapters[0])
        dtype = self._files().dtype() if self.dtype == "auto" else self.dtype
        model.to(getattr(torch, dtype))
        refuse_full_disk(
            folder, sum(one.numel() * one.element_size() for one in model.parameters()), "The merged model"
        )
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
                raise AdapterError(
                    f"The merged {name} has numbers that are not finite in {dtype}.",
                    fix="Pass --dtype bfloat16 or float32 (dtype= in Python).",
                )
        model.save_pretrained(folder)
        as_readable_as_the_rest(folder)
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
        lock = make_lock(model, self.tokenizer, base_name=base_name, base_commit=commit, task=self._task)
        own = make_probe(model, self.tokenizer, task=self._task)
        sums = {file.name: file_sha256(file) for file in AdapterDir.open(folder).weights}
        return dataclasses.replace(lock, probe=own, weights_sha256=sums)


def as_readable_as_the_rest(folder: Path) -> None:
    """Give safetensors the mode of the configuration: they are made for their owner only, and an engine is often
    somebody else.

    Args:
        folder: Of the model.
    """
    for file in folder.glob("*.safetensors"):
        shutil.copymode(folder / CONFIG["full"], file)


def is_of_peft(adapter: AdapterDir) -> bool:
    """Whether plain PEFT has this kind of adapter; hfplug brings some that it does not have."""
    return not is_added(adapter.config.get("peft_type"))
