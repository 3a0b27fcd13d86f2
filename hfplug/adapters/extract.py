"""A LoRA taken out of a fully tuned model: what full tuning changed, as a few percent of its bytes.

The difference to the base is read a tensor at a time from the files of both, and each matrix of a linear layer becomes
B @ A of a low rank (``extract_layers.py``). What LoRA cannot hold (norms, biases, embeddings, tied weights) is left
out, and its share of the whole difference is said; or saved beside it as PEFT saves trained modules. A classifier's
head, and whatever else the base lacks, is always saved.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from hfplug.adapters import atomic
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.base_files import find_files
from hfplug.adapters.card import render_card
from hfplug.adapters.extract_layers import Place, Shape, differences, energy, low_rank, shape_of
from hfplug.adapters.files import CARD, EXTRACT, LOCK, RECORD, file_sha256, settings_sha256
from hfplug.adapters.load import find_tokenizer
from hfplug.adapters.lock import make_lock
from hfplug.adapters.merge_report import shown_base
from hfplug.adapters.one_step import built_at, place_for
from hfplug.adapters.probe import compare_probe, make_probe
from hfplug.adapters.put_on import LoadedBase, put_on
from hfplug.adapters.record import Record, plain, scrub
from hfplug.errors import AdapterError, MismatchError
from hfplug.methods import get_method
from hfplug.models.base import Base, read_task_type, resolve_base
from hfplug.models.factory import load_base

logger = logging.getLogger(__name__)

_OTHERS = ("lost", "saved")
_CHECKS = ("logits", "off")


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """An adapter that was taken out of a full model.

    Attributes:
        adapter: Its folder: plain PEFT, with record, lock (unless the check was off), report and card.
        rank: The rank that was asked for. A layer that is smaller has the rank of its smaller side.
        layers: Name of each layer with a LoRA to ``{"rank", "kept", "share"}``: the share of the layer's own difference
            that is kept, and the layer's share of the whole difference (squared Frobenius norm, 0 to 1).
        kept: The share of the whole difference that is kept.
        lost: Name of each changed parameter that is left out to its share of the whole difference.
        saved: Names of the modules that are saved whole.
        difference: Largest distance of the adapter's logits to the full model's, in units of their root mean square;
            None if not checked.
        base_difference: The same for the base without the adapter; None if not checked or the base has no such head.
    """

    adapter: AdapterDir
    rank: int
    layers: dict[str, dict[str, float]]
    kept: float
    lost: dict[str, float]
    saved: tuple[str, ...]
    difference: float | None
    base_difference: float | None


def extract_adapter(
    full: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    base: str | Path,
    rank: int = 16,
    others: Literal["lost", "saved"] = "lost",
    check: Literal["logits", "off"] = "logits",
    revision: str | None = None,
    token: str | None = None,
    offline: Literal["auto", "on"] = "auto",
    trust_remote_code: bool = False,
) -> Extracted:
    """Take the low-rank difference of a fully tuned model to its base out as a LoRA adapter.

    Args:
        full: Folder of the full model, as ``save_pretrained`` or hfplug wrote it. It is only read.
        out: The adapter's folder. It may not exist, or be empty; nothing is ever overwritten.
        base: Repo id or folder of the base that it was tuned from.
        rank: Of the LoRA, 1 or more.
        others: What becomes of changed norms, embeddings and the like: ``"lost"``, with their share said, or
            ``"saved"`` whole. (Biases of layers that have a LoRA, stacked experts and tied weights are lost.)
        check: ``"logits"`` compares the answers of the full model, the base and the adapter, one model in memory at a
            time, and leaves a lock; ``"off"`` does neither.
        revision: Commit of the base.
        token: Access token for a private or gated base.
        offline: ``"on"`` asks no Hub for the base: the cache only.
        trust_remote_code: Run modelling code from the base's repo.

    Raises:
        AdapterError: ``out`` is taken, ``rank`` is below 1, a model is quantised, or there is no difference.
        BaseModelError: A model cannot be found or read.
        MismatchError: The full model has another type, shape or vocabulary than the base.
    """
    _check_request(rank, others, check)
    opened = AdapterDir.open(full)
    if opened.kind != "full":
        raise AdapterError(
            f"{opened.path} holds an adapter, not a full model: there is nothing to extract.",
            fix="Use it as it is, or merge it first with hfplug merge.",
        )
    tuned = resolve_base(opened.path, trust_remote_code=trust_remote_code)
    places: dict[str, Any] = {"token": token, "offline": offline}
    labels = getattr(tuned.config, "num_labels", None)
    task_type = read_task_type(tuned.config)
    more: dict[str, Any] = {"num_labels": labels} if task_type in ("SEQ_CLS", "TOKEN_CLS") else {}
    found = resolve_base(base, revision=revision, trust_remote_code=trust_remote_code, **more, **places)
    place = place_for(out, [found.name, opened.path])
    _refuse_pair(tuned, found)
    job = _Job(
        full=tuned,
        source=opened,
        base=found,
        task_type=task_type,
        rank=rank,
        others=others,
        check=check,
        tokenizer=find_tokenizer(opened, found, **places),
        places=places,
    )
    with built_at(place, "The adapter") as building:
        made = job.build(building, place.name)
    return dataclasses.replace(made, adapter=AdapterDir.open(out))


def _check_request(rank: int, others: str, check: str) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise AdapterError(f"The rank must be a whole number of 1 or more, not {rank!r}.", fix="For example --rank 16.")
    for key, value, allowed in (("others", others, _OTHERS), ("check", check, _CHECKS)):
        if value not in allowed:
            raise AdapterError(f"{key} must be one of {', '.join(allowed)}, not {value!r}.")


def _refuse_pair(full: Base, base: Base) -> None:
    for which, one in (("full model", full), ("base", base)):
        if getattr(one.config, "quantization_config", None):
            raise AdapterError(
                f"The weights of the {which} {one.name!r} are stored quantised: a difference to them is mostly"
                " rounding.",
                fix="Pass the unquantised model.",
            )
    if full.config.model_type != base.config.model_type:
        raise MismatchError(
            f"The full model is of the type {full.config.model_type}, the base of the type {base.config.model_type}.",
            fix="Pass the base that it was tuned from: --base.",
        )


@dataclass(kw_only=True)
class _Found:
    """What was read off the two models."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    layers: dict[str, dict[str, float]] = field(default_factory=dict)
    saved: dict[str, str] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)
    total: float = 0.0
    kept: float = 0.0
    fan_in: bool = False


@dataclass(frozen=True, kw_only=True)
class _Job:
    full: Base
    source: AdapterDir
    base: Base
    task_type: str
    rank: int
    others: str
    check: str
    tokenizer: Any
    places: dict[str, Any]

    def build(self, folder: Path, name: str) -> Extracted:
        shape = shape_of(self.full, self.task_type)
        found = self._read(shape)
        self._write(shape, found, folder)
        difference, base_difference = self._compare(folder) if self.check == "logits" else (None, None)
        made = Extracted(
            adapter=AdapterDir.open(folder),
            rank=self.rank,
            layers=found.layers,
            kept=found.kept / found.total if found.total else 1.0,
            lost=found.lost,
            saved=tuple(sorted(found.saved)),
            difference=difference,
            base_difference=base_difference,
        )
        report = {item.name: getattr(made, item.name) for item in dataclasses.fields(made) if item.name != "adapter"}
        report |= {"base": {"name": shown_base(self.base), "commit": self.base.commit}, "extract_version": 1}
        atomic.write_json(folder / EXTRACT, scrub(plain(report)))
        task = self.source.record.task if self.source.record else None
        record = Record(
            method="lora", task=task, base=self.base.name, base_commit=self.base.commit, notes=tuple(notes_of(made))
        )
        atomic.write_json(folder / RECORD, scrub(record.to_json()))
        atomic.write_text(folder / CARD, render_card(AdapterDir.open(folder), name=name))
        return made

    def _read(self, shape: Shape) -> _Found:
        """Each tensor's difference, as a LoRA, saved or lost."""
        found = _Found()
        changed: dict[str, Place] = {}
        is_new = False
        files = [find_files(one, **self.places) for one in (self.full, self.base)]
        for place, new, difference in differences(shape, *files):
            if not bool(torch.isfinite(new).all()):
                raise AdapterError(f"{place.name} of the full model has numbers that are not finite.")
            head = self._head_of(place)
            if difference is None or head:
                found.saved[head or place.module] = "new"
            size = energy(difference) if difference is not None else 0.0
            is_new |= difference is None
            found.total += size
            if head or not size:
                continue
            if place.kind in ("matrix", "conv1d"):
                self._add_layer(found, place, difference, size)
            else:
                changed[place.name] = place
                found.lost[place.name] = size
        if not found.total and not is_new:
            raise AdapterError(
                "The full model and the base hold the same numbers: there is nothing to extract.",
                fix="Pass the model that was tuned, and the base that it was tuned from.",
            )
        if not found.layers:
            raise AdapterError(
                "No matrix of a linear layer differs from the base: there is nothing that a LoRA could hold.",
                fix="Keep the full model.",
            )
        self._save_others(shape, found, changed, files)
        total = found.total or 1.0
        found.lost = {name: size / total for name, size in found.lost.items()}
        for values in found.layers.values():
            values["share"] /= total
        return found

    def _head_of(self, place: Place) -> str:
        """A classifier's head that a parameter is part of; PEFT saves it whole, always. Else an empty text."""
        parts = place.module.split(".")
        if self.task_type not in ("SEQ_CLS", "TOKEN_CLS"):
            return ""
        at = next((number for number, part in enumerate(parts) if part in ("classifier", "score")), None)
        return "" if at is None else ".".join(parts[: at + 1])

    def _add_layer(self, found: _Found, place: Place, difference: torch.Tensor, size: float) -> None:
        matrix = difference.T if place.kind == "conv1d" else difference
        rank = min(self.rank, *matrix.shape)
        a, b, kept = low_rank(matrix.contiguous(), rank)
        found.tensors[f"base_model.model.{place.module}.lora_A.weight"] = a
        found.tensors[f"base_model.model.{place.module}.lora_B.weight"] = b
        found.layers[place.module] = {"rank": rank, "kept": kept, "share": size}
        found.kept += kept * size
        found.fan_in |= place.kind == "conv1d"

    def _save_others(self, shape: Shape, found: _Found, changed: dict[str, Place], files: list[Any]) -> None:
        """The modules that are saved whole: what the base lacks, and on request what LoRA cannot hold."""
        if self.others == "saved":
            for place in changed.values():
                owner = shape.model.get_submodule(place.module)
                if place.kind == "other" and place.module not in found.layers and not list(owner.children()):
                    found.saved[place.module] = "changed"
        for module in [one for one in found.saved if one in found.layers]:  # a LoRA and a whole copy cannot both be
            del found.saved[module]
            logger.warning("%s: its weight becomes a LoRA; what else it holds is left out.", module)
        for place, new, difference in differences(shape, *files):
            if any(place.name.startswith(f"{module}.") for module in found.saved):
                found.tensors[f"base_model.model.{place.name}"] = new.contiguous()
                found.lost.pop(place.name, None)
                found.kept += energy(difference) if difference is not None else 0.0

    def _write(self, shape: Shape, found: _Found, folder: Path) -> None:
        from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
        from safetensors.torch import save_file

        smaller = {name: int(one["rank"]) for name, one in found.layers.items() if one["rank"] != self.rank}
        config = LoraConfig(
            task_type=self.task_type,
            r=self.rank,
            lora_alpha=self.rank,
            rank_pattern=smaller,
            alpha_pattern=dict(smaller),
            target_modules=sorted(found.layers),
            modules_to_save=sorted(found.saved) or None,
            fan_in_fan_out=found.fan_in,
            base_model_name_or_path=self.base.name,
            revision=self.base.commit,
            inference_mode=True,
        )
        tuned = get_peft_model(shape.model, config, low_cpu_mem_usage=True)
        expected = set(get_peft_model_state_dict(tuned, save_embedding_layers=False))
        if expected != set(found.tensors):
            odd = sorted(expected ^ set(found.tensors))[0]
            raise AdapterError(f"PEFT has no place for {odd}, or wants it: this model cannot be extracted.")
        config.base_model_name_or_path = self.base.name
        config.revision = self.base.commit
        config.save_pretrained(str(folder))
        save_file(found.tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_model.safetensors").chmod((folder / "adapter_config.json").stat().st_mode)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)

    def _compare(self, folder: Path) -> tuple[float, float | None]:
        """Distances of the adapter's and the base's logits to the full model's; the lock is made on the way."""
        whole = get_method("full")()
        model, _ = load_base(self.full, self.task_type, whole, dtype="float32", **self.places)
        seen = make_probe(model.eval(), self.tokenizer)
        del model
        model, missing = load_base(self.base, self.task_type, whole, dtype="float32", **self.places)
        plainly = None if missing else compare_probe(seen, model.eval(), self.tokenizer).largest
        lock = make_lock(model, self.tokenizer, base_name=self.base.name, base_commit=self.base.commit, skip=missing)
        adapter = AdapterDir.open(folder)
        loaded = LoadedBase(model=model, found=self.base, task_type=self.task_type, missing=missing)
        tuned = put_on(adapter, loaded, get_method("lora")(), tokenizer=self.tokenizer)
        distance = compare_probe(seen, tuned, self.tokenizer).largest
        lock = dataclasses.replace(
            lock,
            probe=make_probe(tuned, self.tokenizer),
            weights_sha256={file.name: file_sha256(file) for file in adapter.weights},
            settings_sha256=settings_sha256(adapter.config),
        )
        atomic.write_json(folder / LOCK, scrub(lock.to_json()))
        return distance, plainly


def notes_of(made: Extracted) -> list[str]:
    """What people should know of it, in sentences.

    Args:
        made: The adapter.
    """
    notes = [
        f"Taken out of a fully tuned model as a LoRA of rank {made.rank}: it keeps {100 * made.kept:.1f} % of the"
        " difference to the base (squared Frobenius norm)."
    ]
    if made.lost:
        largest = max(made.lost, key=lambda name: made.lost[name])
        notes.append(
            f"Left out, as LoRA cannot hold them: {len(made.lost)} tensors with {100 * sum(made.lost.values()):.1f} %"
            f" of the difference, the largest is {largest} with {100 * made.lost[largest]:.1f} %."
        )
    capped = [name for name, values in made.layers.items() if values["rank"] < made.rank]
    if capped:
        notes.append(f"{len(capped)} layers are smaller than the rank and are kept whole, e.g. {capped[0]}.")
    if made.saved:
        notes.append(f"Saved whole: {', '.join(made.saved[:3])}{' and others' if len(made.saved) > 3 else ''}.")
    if made.difference is not None:
        beside = f"; without the adapter the base's are {made.base_difference:.2g} away" if made.base_difference else ""
        notes.append(
            f"Checked: its logits are at most {made.difference:.2g} of their root mean square away from the full"
            f" model's{beside}."
        )
    return notes
