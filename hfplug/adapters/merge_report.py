"""What is written about a merge: the report, the record, the task and the card."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfplug.adapters import atomic
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.card import render_card
from hfplug.adapters.card_front import is_hub_id
from hfplug.adapters.files import CARD, MERGE, RECORD, TASK
from hfplug.adapters.merge_shards import Sums
from hfplug.adapters.probe import ProbeResult
from hfplug.adapters.record import Record, package_versions, plain, scrub
from hfplug.methods import TuningMethod
from hfplug.models.base import Base

if TYPE_CHECKING:
    from hfplug.adapters.merge_job import Merged

MERGE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Story:
    """What went into a merged model.

    Attributes:
        adapters: The adapters.
        methods: Theirs.
        names: What they are called.
        base: Their base.
        sums: Name of each tensor that they may change to its sums; empty if the model was in memory.
    """

    adapters: tuple[AdapterDir, ...]
    methods: tuple[TuningMethod, ...]
    names: tuple[str, ...]
    base: Base
    sums: Mapping[str, Sums]


def write_documents(folder: Path, name: str, merged: Merged, story: Story, places: Mapping[str, Any]) -> None:
    """Write report, record, task and card beside the weights.

    Args:
        folder: Of the merged model.
        name: Its name.
        merged: How it was made.
        story: What of.
        places: ``token`` and ``offline``, for the base's card.
    """
    licence = licence_of(story.base, **places)
    atomic.write_json(folder / MERGE, scrub(plain(_report(merged, story, licence))))
    record = _record(story)
    record = dataclasses.replace(record, notes=(*record.notes, *_notes(merged, story, licence)))
    atomic.write_json(folder / RECORD, scrub(record.to_json()))
    tasks = [one.task for one in story.adapters]
    if tasks[0] is not None and all(one == tasks[0] for one in tasks):
        atomic.write_json(folder / TASK, scrub(tasks[0].to_json()))
    atomic.write_text(folder / CARD, render_card(AdapterDir.open(folder), name=name, licence=licence))


def licence_of(base: Base, token: str | None = None, offline: str = "auto") -> str | None:
    """The licence that a base's own card names; None if there is none.

    Args:
        base: The base.
        token: Access token for a private or gated base.
        offline: ``"on"`` asks no Hub: the cache only.
    """
    from huggingface_hub.repocard import metadata_load
    from transformers.utils import cached_file

    asked: dict[str, Any] = {"revision": base.revision or "main", "token": token, "local_files_only": offline == "on"}
    try:
        file = cached_file(base.name, "README.md", _raise_exceptions_for_missing_entries=False, **asked)
        values = metadata_load(Path(file)) if file else None
    except (OSError, ValueError):  # no card, or one whose front matter is no YAML: the merge does without
        return None
    licence = (values or {}).get("license")
    return licence if isinstance(licence, str) else None


def shown_base(base: Base) -> str:
    """A base's name for people elsewhere: its id, or the name of its folder."""
    return base.name if is_hub_id(base.name, base.commit) else Path(base.name).name


# --------------------------------------------------------------------------------------------------- parts


def _report(merged: Merged, story: Story, licence: str | None) -> dict[str, Any]:
    adapters = [
        {"name": name, "method": method.name, "weight": weight, "sha256": adapter.sha256()}
        for name, method, weight, adapter in zip(
            story.names, story.methods, merged.combination.weights, story.adapters, strict=True
        )
    ]
    return {
        "merge_version": MERGE_VERSION,
        "base": {"name": shown_base(story.base), "commit": story.base.commit, "licence": licence},
        "adapters": adapters,
        "combination": merged.combination.to_json(),
        "into": merged.into,
        "dtype": merged.dtype,
        "way": merged.way,
        "why_memory": merged.why_memory,
        "check": {
            "base_and_adapter": _result(merged.difference),
            "author": _result(merged.author),
            "unquantised_base": _result(merged.other),
        },
        "changed": {key: dataclasses.asdict(one) for key, one in sorted(story.sums.items())},
        "versions": package_versions(),
    }


def _result(result: ProbeResult | None) -> dict[str, Any] | None:
    return None if result is None else dataclasses.asdict(result)


def _record(story: Story) -> Record:
    adapter = story.adapters[0]
    if len(story.adapters) == 1 and adapter.record is not None:
        return adapter.record
    methods = list(dict.fromkeys(method.name for method in story.methods))
    tasks = {one.task.name if one.task else None for one in story.adapters}
    return Record(
        method="+".join(methods),
        task=tasks.pop() if len(tasks) == 1 else None,
        base=story.base.name,
        base_commit=story.base.commit,
    )


def _notes(merged: Merged, story: Story, licence: str | None) -> list[str]:
    how = "tensor by tensor" if merged.way == "shards" else "in memory"
    combination = merged.combination
    if combination.is_one == "yes":
        first = (
            f"Merged into the {merged.into} base, in {merged.dtype}, {how}. Training figures are those of the adapter."
        )
    else:
        parts = ", ".join(
            f"{name} ({method.name}) with weight {weight:g}"
            for name, method, weight in zip(story.names, story.methods, combination.weights, strict=True)
        )
        first = f"Merged into the base by {combination}, in {merged.dtype}, {how}: {parts}."
    notes = [first]
    if merged.difference is not None:
        what = "base and adapter" if combination.is_one == "yes" else "the same combination made in memory"
        notes.append(
            f"Checked: the largest difference between its logits and those of {what} is"
            f" {merged.difference.largest:.2g} of their root mean square ({merged.difference.where}); allowed is"
            f" {merged.difference.tolerance:g}."
        )
    if merged.other is not None:
        notes.append(
            f"The base's 4 bits were written out in full. On the unquantised base the same adapter gives logits that"
            f" differ by up to {merged.other.largest:.2g} of their root mean square."
        )
    named = f"{licence}, as its card says" if licence else "which its card does not name here"
    notes.append(f"The weights hold those of {shown_base(story.base)}: the base's licence ({named}) applies to them.")
    return notes
