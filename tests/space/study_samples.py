"""A small report for the tabs that show a study, with figures that are easy to check by hand."""

from __future__ import annotations

from hfplug.comparison.variants import (
    BaseInfo,
    DataInfo,
    MachineInfo,
    Metric,
    Report,
    TestResult,
    TrainingMemory,
    Variant,
)


def metric(value):
    return Metric(value=value, low=value - 0.03, high=value + 0.03)


def parts_of(weights, gradients, optimizer_states, rest):
    return TrainingMemory(weights=weights, gradients=gradients, optimizer_states=optimizer_states, rest=rest)


def small_report(*, name="lora", note="A note."):
    """Base, full and one adapter, called ``name``, that a test cannot tell from full tuning."""
    base = Variant(
        name="base", kind="base", metrics={"rouge1": metric(0.12)}, first_token_seconds=0.02,
        generated_tokens_per_second=50.0, mean_generated_tokens=60.0,
    )  # fmt: skip
    full = Variant(
        name="full", kind="full", method="full", metrics={"rouge1": metric(0.58)}, trainable_parameters=4_000_000,
        trainable_share=1.0, total_parameters=4_000_000, adapter_bytes=16_000_000, full_copy_bytes=16_000_000,
        peak_training_bytes=250_000_000, seconds_per_step=0.5, steps=100, training_seconds=60.0,
        training_memory=parts_of(16_000_000, 16_000_000, 32_000_000, 186_000_000),
        first_token_seconds=0.02, generated_tokens_per_second=55.0, mean_generated_tokens=20.0,
        tests={"base": {"rouge1": TestResult(difference=0.46, low=0.42, high=0.5, p_value=0.0004)}},
    )  # fmt: skip
    adapter = Variant(
        name=name, kind="adapter", method="lora", metrics={"rouge1": metric(0.55)}, trainable_parameters=200_000,
        trainable_share=0.05, total_parameters=4_000_000, adapter_bytes=800_000, full_copy_bytes=16_000_000,
        peak_training_bytes=200_000_000, seconds_per_step=0.4, steps=100, training_seconds=45.0,
        training_memory=parts_of(17_000_000, 800_000, 1_600_000, 180_600_000),
        first_token_seconds=0.03, generated_tokens_per_second=40.0, mean_generated_tokens=21.0, notes=(note,),
        tests={
            "base": {"rouge1": TestResult(difference=0.43, low=0.39, high=0.47, p_value=0.0004)},
            "full": {"rouge1": TestResult(difference=-0.03, low=-0.07, high=0.01, p_value=0.12)},
        },
    )  # fmt: skip
    return Report(
        created="2030-01-01T00:00:00+00:00", hfplug_version="0.1.0", base=BaseInfo(name="tiny"), base_untouched=None,
        base_proof=None, task={"name": "summary", "prompt": "Summarize. {dialogue}"}, data=DataInfo(source="rows"),
        settings={"seed": 1}, versions={}, machine=MachineInfo(), variants=(base, full, adapter),
    )  # fmt: skip
