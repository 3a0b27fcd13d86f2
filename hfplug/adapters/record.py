"""The record of one run: what was trained, on what, how well it went, and what it cost.

It is stored with the adapter as ``hfplug_record.json``. Anything that was not measured is None or absent,
never 0 or invented.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import importlib.metadata
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hfplug.adapters.json_types import check_types
from hfplug.errors import AdapterError

RECORD_VERSION = 1
REMOVED = "[removed]"
VERSIONED_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "trl",
    "datasets",
    "bitsandbytes",
    "tokenizers",
)

Curve = tuple[tuple[float, float | None], ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known about one run of one method on one task.

    Args:
        method: Name of the method, e.g. ``"lora"``.
        method_settings: Its settings that differ from the defaults.
        all_method_settings: All of its settings.
        task: Name of the task.
        base: Repo id or folder of the base.
        base_commit: The commit that the base was read at, 40 hexadecimal digits.
        data: What it was trained on, e.g. ``{"source", "revision", "sha256", "train_rows", "eval_rows"}``.
        steps: Optimiser steps. epochs: Passes over the data. batch_size: Examples per optimiser step, over
            all processes and accumulation steps. learning_rate: Its highest value. seed: The Trainer's.
        best_checkpoint: Name of the checkpoint folder that was exported.
        best_metric: Name of the metric that chose it, e.g. ``"eval_loss"``; ``best_value``: its value there.
        loss_curve: Pairs of step and training loss. ``eval_loss_curve``: of step and evaluation loss.
        parameter_efficiency: ``trainable_parameters``, ``total_parameters``, ``share`` (0 to 1),
            ``adapter_bytes``, ``full_copy_bytes``.
        memory_efficiency: ``peak_training_bytes`` and its parts ``weights``, ``gradients``,
            ``optimizer_states``, ``rest``, in bytes.
        model_performance: ``metrics``: name to a number, or to ``{"value", "low", "high"}``.
        inference_cost: e.g. ``generated_tokens_per_second``, ``first_token_seconds``.
        training_speed: e.g. ``seconds_per_step``, ``real_tokens_per_second``, ``padding_share`` (0 to 1).
        versions: Package name to version.
        created: When, in UTC, ISO 8601.
        hfplug_version: The version of hfplug that wrote the record.
        notes: Sentences for people.
        examples: ``{"input", "output", "reference"}`` texts.
    """

    method: str
    method_settings: Mapping[str, Any] = field(default_factory=dict)
    all_method_settings: Mapping[str, Any] = field(default_factory=dict)
    task: str | None = None
    base: str | None = None
    base_commit: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    epochs: float | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    seed: int | None = None
    best_checkpoint: str | None = None
    best_metric: str | None = None
    best_value: float | None = None
    loss_curve: Curve = ()
    eval_loss_curve: Curve = ()
    parameter_efficiency: Mapping[str, Any] = field(default_factory=dict)
    memory_efficiency: Mapping[str, Any] = field(default_factory=dict)
    model_performance: Mapping[str, Any] = field(default_factory=dict)
    inference_cost: Mapping[str, Any] = field(default_factory=dict)
    training_speed: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: package_versions())
    created: str = field(default_factory=lambda: utc_now())
    hfplug_version: str = field(default_factory=lambda: hfplug_version())
    notes: tuple[str, ...] = ()
    examples: tuple[Mapping[str, str], ...] = ()
    record_version: int = RECORD_VERSION

    def __post_init__(self) -> None:
        # Numbers of numpy and torch, paths, tuples: plain now, so that reading back gives an equal record.
        for item in dataclasses.fields(self):
            object.__setattr__(self, item.name, plain(getattr(self, item.name)))
        for name in ("loss_curve", "eval_loss_curve"):
            object.__setattr__(self, name, tuple((step, value) for step, value in getattr(self, name)))
        for name in ("notes", "examples"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    __hash__ = None  # type: ignore[assignment]  # it holds mappings

    @property
    def metrics(self) -> dict[str, Any]:
        """``model_performance["metrics"]``: name to a number or to ``{"value", "low", "high"}``."""
        return dict(self.model_performance.get("metrics") or {})

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON values without secrets; ``from_json`` gives an equal record back."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {"record_version": values.pop("record_version"), **scrub(plain(values))}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Record:
        """The record that ``to_json`` described.

        A key that this version does not know (a newer hfplug wrote it) is left out, and a note says so.

        Raises:
            AdapterError: ``values`` is no record, or a record of a later ``record_version``.
        """
        known = check_version(values, "record_version", RECORD_VERSION, "record", required=("method",))
        names = [item.name for item in dataclasses.fields(cls)]
        foreign = sorted(key for key in known if key not in names)
        kept = {key: value for key, value in known.items() if key in names}
        if foreign:
            note = f"Written by another version of hfplug; not understood and left out: {', '.join(foreign)}."
            kept["notes"] = [*kept.get("notes", ()), note]
        check_types(cls, kept, "hfplug_record.json")
        metrics = kept.get("model_performance", {}).get("metrics")
        if metrics is not None and not isinstance(metrics, Mapping):
            raise AdapterError(
                f"'metrics' in hfplug_record.json must hold an object; it holds {type(metrics).__name__}.",
                fix="Export the adapter again.",
            )
        try:
            return cls(**kept)
        except (TypeError, ValueError) as error:
            raise AdapterError(
                f"hfplug_record.json does not hold a record: {error}.",
                fix="Delete that file (the adapter works without it), or export the adapter again.",
            ) from error

    @classmethod
    def from_log_history(
        cls,
        log_history: Iterable[Mapping[str, Any]],
        *,
        best_metric: str = "eval_loss",
        best: Literal["lowest", "highest"] = "lowest",
        **values: Any,
    ) -> Record:
        """A record with the curves, steps, epochs and best value of a Trainer's ``state.log_history``.

        Args:
            log_history: The Trainer's list of logged dicts.
            best_metric: The metric that chooses the best checkpoint, with or without ``eval_`` in front.
            best: Whether its lowest or its highest value is best.
            values: Any other value of the record; these win over what is read from the log.
        """
        entries = list(log_history)
        # A resumed run may log a step twice; the later one counts.
        losses = {entry["step"]: entry["loss"] for entry in entries if "loss" in entry and "step" in entry}
        evaluations = {e["step"]: e["eval_loss"] for e in entries if "eval_loss" in e and "step" in e}
        rates = [entry["learning_rate"] for entry in entries if "learning_rate" in entry]
        metric = best_metric if best_metric.startswith("eval_") else f"eval_{best_metric}"
        scores = [plain(entry[metric]) for entry in entries if metric in entry]
        scores = [score for score in scores if isinstance(score, (int, float))]
        found: dict[str, Any] = {
            "loss_curve": tuple(sorted(losses.items())),
            "eval_loss_curve": tuple(sorted(evaluations.items())),
            "steps": max((entry["step"] for entry in entries if "step" in entry), default=None),
            "epochs": max((e["epoch"] for e in entries if e.get("epoch") is not None), default=None),
            "learning_rate": max(rates, default=None),
        }
        if scores:
            found |= {"best_metric": metric, "best_value": min(scores) if best == "lowest" else max(scores)}
        return cls(**(found | values))


def check_version(values: object, key: str, newest: int, what: str, *, required: Sequence[str] = ()) -> dict[str, Any]:
    """``values`` as a dict, if it is one of a version that can be read and has the ``required`` keys.

    Raises:
        AdapterError: It is not a mapping, has no version, a later one, or lacks a key.
    """
    if not isinstance(values, Mapping):
        raise AdapterError(
            f"hfplug_{what}.json must hold an object; it holds {type(values).__name__}.",
            fix="Export the adapter again.",
        )
    version = values.get(key)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise AdapterError(
            f"hfplug_{what}.json must hold {key!r}, a number; it holds {version!r}.",
            fix="Export the adapter again.",
        )
    if version > newest:
        raise AdapterError(
            f"The {what} of this adapter has version {version}; this hfplug reads versions up to {newest}.",
            fix="Type: pip install --upgrade hfplug",
        )
    missing = [name for name in required if name not in values]
    if missing:
        raise AdapterError(
            f"hfplug_{what}.json lacks {', '.join(map(repr, missing))}.", fix="Export the adapter again."
        )
    return dict(values)


def plain(value: Any) -> Any:
    """``value`` as JSON values: scalars of numpy and torch as numbers, NaN and infinity as None."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=json.dumps)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if callable(getattr(value, "tolist", None)):  # a scalar or an array of numpy or torch
        return plain(value.tolist())
    return str(getattr(value, "value", value))  # an enum's value; a path, a dtype


# ------------------------------------------------------------------------------------------------ secrets

SECRET_TEXT = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|hf_(?:jwt|oauth)_[A-Za-z0-9._-]{16,}|api_org_[A-Za-z0-9]{16,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,})"
)
_CREDENTIALS_IN_URL = re.compile(r"(?<=://)[^/\s@]+@")
_SECRET_NAMES = re.compile("secret|passw|passphrase|apikey|accesskey|privatekey|credential|authorization")
# What "token" means in the names of language models: special tokens and times, never a secret.
_TOKENS_OF_TEXT = re.compile(
    "(pad|eos|bos|unk|sep|cls|mask|start|end|stop|image|audio|video|special|extra|first|last|next|forced|newline)"
)


def scrub(value: Any) -> Any:
    """``value`` without anything that looks like a secret, for whatever is written or pushed.

    Texts that look like tokens of the Hub (``hf_...``) or of other services, and credentials in URLs, become
    ``"[removed]"`` wherever they stand; entries of mappings whose name says that they hold a secret are left
    out. Names of language models that merely contain "token" (``eos_token``, ``max_new_tokens``,
    ``tokenizer_name``, ``first_token_seconds``) stay.

    Args:
        value: JSON values, nested to any depth. It is not changed.
    """
    if isinstance(value, str):
        return _CREDENTIALS_IN_URL.sub(REMOVED + "@", SECRET_TEXT.sub(REMOVED, value))
    if isinstance(value, Mapping):
        return {scrub(key): scrub(item) for key, item in value.items() if not _names_a_secret(key, item)}
    if isinstance(value, (list, tuple)):
        return type(value)(scrub(item) for item in value)
    return value


def _names_a_secret(key: object, value: object) -> bool:
    if value is None or isinstance(value, bool):
        return False
    # "hubToken", "HF_TOKEN" and "hub-token" are one name.
    name = re.sub("[^a-z0-9]", "", str(key).lower())
    if _SECRET_NAMES.search(name):
        return True
    # "tokenizer_name" and "tokens" speak of text; so does any number.
    name = re.sub("tokeni[sz]|tokens", "", name)
    return "token" in name and isinstance(value, str) and not _TOKENS_OF_TEXT.search(name)


# ------------------------------------------------------------------------------------------------ versions


def package_versions(packages: Iterable[str] = VERSIONED_PACKAGES) -> dict[str, str]:
    """Versions of the ``packages`` that are installed, without importing them."""
    versions = {package: _version(package) for package in packages}
    return {package: version for package, version in versions.items() if version is not None}


@functools.lru_cache(maxsize=64)  # reading it takes milliseconds, and each checkpoint has a record
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def hfplug_version() -> str:
    """The installed version of hfplug; ``"0+unknown"`` when it runs from a folder without being installed."""
    return package_versions(["hfplug"]).get("hfplug", "0+unknown")


def utc_now() -> str:
    """The time now, e.g. ``"2031-05-01T12:00:00+00:00"``."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
