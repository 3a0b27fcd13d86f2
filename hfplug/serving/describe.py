"""What a service says of one of its variants, from what was found when it was attached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hfplug.adapters.task import Task
from hfplug.models.anatomy import count_parameters
from hfplug.serving.info import VariantInfo
from hfplug.serving.resident import BASE, Attached, Resident
from hfplug.serving.shelf import Version

if TYPE_CHECKING:
    from hfplug.adapters.probe import ProbeResult
    from hfplug.serving.proof import BaseProof


def describe(version: Version) -> VariantInfo:
    """A fully tuned model or an adapter.

    Args:
        version: Of the shelf; not the base.
    """
    facts, resident = version.facts, version.resident
    assert facts is not None
    notes = list(facts.notes)
    if version.recipe is not None:
        notes.append("It is on a copy of the base in 4 bits.")
    return VariantInfo(
        name=version.name,
        kind=facts.kind,
        method=facts.method.name,
        settings=_settings(facts),
        trainable_parameters=facts.trainable_parameters,
        trainable_share=facts.trainable_parameters / max(count_parameters(resident.model), 1),
        disk_bytes=facts.disk_bytes,
        held_bytes=facts.held_bytes,
        batching=facts.batching,
        batching_reason=facts.batching_reason,
        state="ready" if version.in_memory else "on disk",
        banner=_banner(facts.probe),
        commit=facts.adapter.base_revision,
        task=facts.adapter.task,
        notes=tuple(notes),
        folder=str(facts.adapter.path),
    )


def describe_base(resident: Resident, proof: BaseProof, task: Task | None) -> VariantInfo:
    """The base.

    Args:
        resident: The base in memory.
        proof: What its last proof said.
        task: The service's.
    """
    proved = proof.verdict == "proved"
    return VariantInfo(
        name=BASE,
        kind="base",
        method="",
        settings={},
        trainable_parameters=0,
        trainable_share=0.0,
        disk_bytes=resident.base_bytes,
        held_bytes=0,
        batching="alone",
        batching_reason="the base never shares a pass with a variant",
        state="ready" if proved else "refused",
        banner=None if proved else str(proof),
        commit=resident.base.commit,
        task=task,
        notes=(),
        folder=resident.base.name,
    )


def _settings(facts: Attached) -> dict[str, Any]:
    """From the record of its training; without one, what PEFT's own file says, as far as it has the same names."""
    record, settings = facts.adapter.record, facts.method.settings()
    if facts.kind == "full" or (record is not None and record.method == facts.method.name):
        return settings
    return {name: facts.adapter.config[name] for name in settings if name in facts.adapter.config}


def _banner(probe: ProbeResult | None) -> str | None:
    if probe is None or probe.verdict == "same":
        return None
    return f"This variant does not answer as it did for its author: {probe}."
