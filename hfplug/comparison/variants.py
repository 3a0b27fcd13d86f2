"""The values of a comparison: `Variant`, one column of it, and `Report`, all that `report.json` holds.

The fields are the schema, described for other readers in ``report_schema.md`` beside this file. Whatever
was not measured is None (null in JSON), never 0 and never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from hfplug.comparison.rouge import RowScores
from hfplug.comparison.schema import Checked, from_json
from hfplug.comparison.statistics import interval, paired_test
from hfplug.errors import StudyError

SCHEMA = "hfplug.report"
SCHEMA_VERSION = 2  # 2 added predicted_peak_bytes

Kind = Literal["base", "full", "adapter", "baseline", "human"]
Curve = tuple[tuple[int, float | None], ...]


@dataclass(frozen=True, kw_only=True)
class Metric(Checked):
    """A score, 0 to 1: ``value`` is the mean over each row's references, then over rows, ``low`` and ``high``
    its 95 % interval; ``max`` takes each row's best reference instead."""

    value: float
    low: float
    high: float
    max: float | None = None


@dataclass(frozen=True, kw_only=True)
class TestResult(Checked):
    """This variant minus another one on the same rows, as a share (0.01 is one point)."""

    __test__ = False  # the name is not meant for pytest

    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, kw_only=True)
class TrainingMemory(Checked):
    """The parts of the peak while training, in bytes; ``rest`` is mostly activations."""

    weights: int | None = None
    gradients: int | None = None
    optimizer_states: int | None = None
    rest: int | None = None


@dataclass(frozen=True, kw_only=True)
class Variant(Checked):
    """One column of a comparison. Units and meaning of each field: ``report_schema.md``."""

    name: str
    kind: Kind
    method: str | None = None
    method_settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)
    improvement: dict[str, float] | None = None
    tests: dict[str, dict[str, TestResult]] = field(default_factory=dict)
    trainable_parameters: int | None = None
    trainable_share: float | None = None
    total_parameters: int | None = None
    adapter_bytes: int | None = None
    full_copy_bytes: int | None = None
    peak_training_bytes: int | None = None
    predicted_peak_bytes: int | None = None
    training_memory: TrainingMemory | None = None
    process_peak_bytes: int | None = None
    seconds_per_step: float | None = None
    real_tokens_per_second: float | None = None
    padding_share: float | None = None
    training_seconds: float | None = None
    steps: int | None = None
    learning_rate: float | None = None
    warmup_steps_skipped: int | None = None
    generated_tokens_per_second: float | None = None
    first_token_seconds: float | None = None
    mean_generated_tokens: float | None = None
    loss_curve: Curve = ()
    eval_loss_curve: Curve = ()
    adapter_path: str | None = None
    switched_off_equals_base: bool | None = None
    predictions: str | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Variant:
        """A variant from what :meth:`to_json` gave; StudyError where a key or a value does not fit."""
        name = data.get("name") if isinstance(data, Mapping) else None
        return from_json(cls, data, f"variant {name!r}")


@dataclass(frozen=True, kw_only=True)
class BaseInfo(Checked):
    """The base of all variants; ``bytes`` is the size of its weights as they are held in training."""

    name: str
    commit: str | None = None
    fingerprint: str | None = None
    model_type: str | None = None
    task_type: str | None = None
    parameters: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class BaseProof(Checked):
    """What was compared to show that the base is untouched: the base's output before and after the study."""

    rows: int
    sha256_before: str
    sha256_after: str
    what: str


@dataclass(frozen=True, kw_only=True)
class DataInfo(Checked):
    """The rows that all variants were trained and scored on."""

    source: str
    revision: str | None = None
    sha256: str | None = None
    train_rows: int | None = None
    eval_rows: int | None = None
    references_per_row: tuple[int, int] | None = None
    train_split: str | None = None
    eval_split: str | None = None


@dataclass(frozen=True, kw_only=True)
class MachineInfo(Checked):
    """Where the times and the memory were measured."""

    platform: str | None = None
    processor: str | None = None
    cores: int | None = None
    memory_bytes: int | None = None
    accelerators: tuple[Any, ...] = ()
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Report(Checked):
    """A whole comparison: everything that the table, the files and the page are made from."""

    created: str
    hfplug_version: str
    base: BaseInfo
    base_untouched: bool | None
    base_proof: BaseProof | None
    task: dict[str, Any]
    data: DataInfo
    settings: dict[str, Any]
    versions: dict[str, str]
    machine: MachineInfo
    variants: tuple[Variant, ...]
    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [variant.name for variant in self.variants]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise StudyError(f"Each variant of a report needs its own name; {twice[0]!r} is there twice.")

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values, with the schema's name and version first."""
        plain = super().to_json()
        return {"schema": plain.pop("schema"), "schema_version": plain.pop("schema_version"), **plain}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """A report from what :meth:`to_json` gave.

        Raises:
            StudyError: It is not a report, is of another schema version, or a key or value does not fit.
        """
        schema = data.get("schema") if isinstance(data, Mapping) else None
        if schema != SCHEMA:
            raise StudyError(f"A report with schema {SCHEMA!r} was expected, schema {schema!r} came.")
        version = data.get("schema_version")
        if isinstance(version, bool) or version not in range(1, SCHEMA_VERSION + 1):
            raise StudyError(
                f"This hfplug reads reports of schema versions 1 to {SCHEMA_VERSION}, version {version!r} came.",
                fix="Type: pip install --upgrade hfplug",
            )
        return from_json(cls, {**data, "schema_version": SCHEMA_VERSION}, "report")

    def variant(self, name: str) -> Variant | None:
        """The variant of that name, or None."""
        return next((variant for variant in self.variants if variant.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a variant's scores say beside those of others: ready to be put into its :class:`Variant`."""

    metrics: dict[str, Metric]
    improvement: dict[str, float] | None
    tests: dict[str, dict[str, TestResult]]


def metrics_for(scores: RowScores, *, seed: int = 0) -> dict[str, Metric]:
    """The mean of each metric over rows with its 95 % interval, and the mean of the best references."""
    found = {}
    for metric in scores.metrics:
        around = interval(scores.mean[metric], seed=seed)
        found[metric] = Metric(
            value=around.value, low=around.low, high=around.high, max=float(scores.max[metric].mean())
        )
    return found


def compare_variants(
    variants_scores: Mapping[str, RowScores], *, base: str = "base", full: str = "full", seed: int = 0
) -> dict[str, Comparison]:
    """Set every variant against the base and against full tuning, row by row.

    Args:
        variants_scores: The scores of each variant by its name. One that was scored on fewer rows (the
            human) is compared on the rows that both have.
        base: Name of the untouched base in it; may be absent.
        full: Name of the fully tuned variant in it; may be absent.
        seed: For the draws; the same seed gives the same numbers.

    Returns:
        For each variant its metrics, its improvement over the base in points (100 times the difference;
        None for the base itself and where there is no base), and the paired tests that apply. The base is
        not tested against full tuning: that is full tuning's test against the base with another sign.
    """
    found = {}
    for name, scores in variants_scores.items():
        tests = {
            label: tested
            for label, other in (("base", base), ("full", full))
            if other in variants_scores
            and name not in (base, other)
            and (tested := _tests(scores, variants_scores[other], seed))
        }
        improvement = None
        if "base" in tests:
            improvement = {metric: 100 * test.difference for metric, test in tests["base"].items()}
        found[name] = Comparison(metrics=metrics_for(scores, seed=seed), improvement=improvement, tests=tests)
    return found


def _tests(a: RowScores, b: RowScores, seed: int) -> dict[str, TestResult]:
    """Paired tests on the rows and metrics that both have; empty if there are none."""
    _, in_a, in_b = np.intersect1d(a.rows, b.rows, return_indices=True)
    if not len(in_a):
        return {}
    found = {}
    for metric in a.metrics:
        if metric in b.metrics:
            test = paired_test(a.mean[metric][in_a], b.mean[metric][in_b], seed=seed)
            found[metric] = TestResult(difference=test.difference, low=test.low, high=test.high, p_value=test.p_value)
    return found
