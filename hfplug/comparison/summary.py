"""What was compared, in a few lines of words: the head of the Markdown document and of the page."""

from __future__ import annotations

import json
from typing import Any

from hfplug.comparison.quantities import count, memory
from hfplug.comparison.variants import Report


def summary(report: Report) -> list[tuple[str, str]]:
    """What was compared, as pairs of label and one line: base, task, data, settings, proof, machine."""
    base, data, machine = report.base, report.data, report.machine

    def joined(*parts: str | None) -> str:
        return ", ".join(part for part in parts if part)

    per_row = data.references_per_row
    references = None
    if per_row:
        low, high = per_row
        references = f"{low} to {high} references each" if low != high else f"{low} reference{'s' * (low > 1)} each"
    return [
        (
            "base",
            joined(
                base.name,
                base.commit and f"commit {base.commit[:12]}",
                base.model_type,
                base.task_type,
                None if base.parameters is None else f"{count(base.parameters)} parameters",
                None if base.bytes is None else memory(base.bytes),
            ),
        ),
        ("base untouched", proof(report)),
        ("task", joined(str(report.task.get("name", "")), repr(str(report.task.get("prompt", ""))))),
        (
            "data",
            joined(
                data.source,
                data.revision and f"revision {data.revision[:12]}",
                None if data.train_rows is None else f"{data.train_rows:,} rows to train",
                None if data.eval_rows is None else f"{data.eval_rows:,} to score",
                references,
            ),
        ),
        (
            "settings",
            ", ".join(f"{key} {shown(value)}" for key, value in report.settings.items() if value is not None),
        ),
        (
            "machine",
            joined(
                machine.platform,
                machine.processor,
                None if machine.cores is None else f"{machine.cores} cores",
                None if machine.threads is None else f"{machine.threads} threads",
                None if machine.memory_bytes is None else memory(machine.memory_bytes),
                *(map(shown, machine.accelerators) if machine.accelerators else ("no accelerator",)),
            ),
        ),
        (
            "made",
            joined(
                report.created,
                f"hfplug {report.hfplug_version}",
                *(f"{name} {version}" for name, version in report.versions.items()),
            ),
        ),
    ]


def notes(report: Report) -> list[tuple[str, str]]:
    """The notes on the variants, as pairs of names and sentence; one that several share is there once."""
    names: dict[str, list[str]] = {}
    for variant in report.variants:
        for note in variant.notes:
            names.setdefault(note, []).append(variant.name)
    return [(", ".join(found), note) for note, found in names.items()]


def untouched(report: Report) -> bool | None:
    """Whether the base was proved untouched; None if nobody looked."""
    found = report.base_proof
    if found is None or report.base_untouched is None:
        return None
    return report.base_untouched and found.sha256_before == found.sha256_after


def proof(report: Report) -> str:
    """In one sentence, whether the base was proved untouched."""
    found, same = report.base_proof, untouched(report)
    if found is None or same is None:
        return "not checked"
    outcome = "yes, equal bit for bit" if same else "NO, its output changed"
    return f"{outcome} ({found.rows} rows, sha256 {found.sha256_before[:12]}…): {found.what}"


def shown(value: Any) -> str:
    """A setting's value as one would type it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
