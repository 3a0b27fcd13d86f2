"""What a study measured, written into the record and the card of each adapter: it travels with the adapter."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.comparison.variants import Report, Variant

CONFIDENCE = 0.95  # of the intervals in a report
EXAMPLES_IN_CARD = 3
_INFERENCE = ("generated_tokens_per_second", "first_token_seconds", "mean_generated_tokens")


def write_measurements(out: Path, report: Report, examples: Sequence[Mapping[str, Any]]) -> None:
    """Add scores with intervals, inference cost and examples to every adapter of a study.

    Args:
        out: The study's folder, which ``adapter_path`` of each variant is relative to.
        report: The finished report.
        examples: Of the report: ``dialogue``, ``references``, ``outputs`` by name of the variant.
    """
    for variant in report.variants:
        if variant.adapter_path is None:
            continue
        adapter = AdapterDir.open(out / variant.adapter_path)
        if adapter.record is None:
            continue
        record = dataclasses.replace(
            adapter.record,
            data={**adapter.record.data, **report.data.to_json()},
            model_performance={"metrics": {**adapter.record.metrics, **_metrics(variant)}},
            inference_cost=_known(variant),
            examples=tuple(_example(example, variant.name) for example in examples[:EXAMPLES_IN_CARD]),
        )
        if record != adapter.record:  # a study that is only looked at again changes nothing
            AdapterDir.write(adapter.path, source=adapter.path, record=record)


def _metrics(variant: Variant) -> dict[str, Any]:
    return {
        name: {"value": metric.value, "low": metric.low, "high": metric.high, "confidence": CONFIDENCE}
        for name, metric in variant.metrics.items()
    }


def _known(variant: Variant) -> dict[str, Any]:
    values = {name: getattr(variant, name) for name in _INFERENCE}
    return {name: value for name, value in values.items() if value is not None}


def _example(example: Mapping[str, Any], name: str) -> dict[str, str]:
    return {
        "input": example["dialogue"],
        "output": example["outputs"].get(name, ""),
        "reference": example["references"][0],
    }
