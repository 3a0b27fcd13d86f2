"""The report's values: to JSON and back, strictly; and what a comparison of scores says."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from report_samples import REFERENCES, sample_report

import hfplug.comparison.variants as variants
from hfplug.comparison.rouge import RowScores, score_human, score_rows
from hfplug.comparison.schema import Checked
from hfplug.comparison.variants import Report, Variant, compare_variants
from hfplug.errors import StudyError


def test_a_report_read_back_equals_the_one_written() -> None:
    report = sample_report()
    assert Report.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False))) == report


def test_a_variant_with_nothing_measured_reads_back_as_nulls() -> None:
    bare = Variant(name="base", kind="base")
    plain = bare.to_json()
    assert Variant.from_json(plain) == bare
    assert plain["peak_training_bytes"] is plain["training_memory"] is plain["improvement"] is None


def test_numpy_numbers_become_plain_and_what_is_not_a_number_becomes_null() -> None:
    variant = Variant(
        name="lora",
        kind="adapter",
        steps=np.int64(3),  # type: ignore[arg-type]
        learning_rate=np.float32(0.5),  # type: ignore[arg-type]
        seconds_per_step=float("nan"),
        switched_off_equals_base=np.bool_(True),  # type: ignore[arg-type]
        loss_curve=[[np.int64(1), float("inf")], (2, np.float64(0.25))],  # type: ignore[arg-type]
    )
    plain = variant.to_json()
    assert (plain["steps"], plain["learning_rate"], plain["seconds_per_step"]) == (3, 0.5, None)
    assert plain["loss_curve"] == [[1, None], [2, 0.25]]
    assert plain["switched_off_equals_base"] is True
    assert Variant.from_json(json.loads(json.dumps(plain))) == variant


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 3}, "reads reports of schema versions 1 to 2, version 3 came.*upgrade"),
        ({"schema_version": True}, "version True came"),
        ({"schema": "other"}, "schema 'other' came"),
        ({"varients": []}, "'varients' is unknown.*Did you mean 'variants'"),
        ({"created": 5}, "Report.created: str was expected, int 5 came"),
        ({"data": {"source": "x", "train_rows": "many"}}, "train_rows: int was expected, str 'many' came"),
        ({"base": {"commit": None}}, "Report.base: the key 'name' is missing"),
        ({"base": []}, "Report.base: an object was expected, list came"),
        ({"variants": [{"name": "a", "kind": "thing"}]}, "one of 'base', 'full'.*'thing' came"),
        ({"variants": [{"name": "a", "kind": "base"}] * 2}, "'a' is there twice"),
        (
            {"variants": [{"name": "a", "kind": "base", "metrics": {"rouge1": {"value": 1}}}]},
            "'low' is missing",
        ),
    ],
)
def test_what_does_not_fit_the_schema_is_refused_and_named(change: dict, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        Report.from_json(sample_report().to_json() | change)


def test_a_report_without_a_part_is_refused() -> None:
    plain = sample_report().to_json()
    del plain["machine"]
    with pytest.raises(StudyError, match="'machine' is missing"):
        Report.from_json(plain)


def test_every_field_is_described_in_the_schema_document() -> None:
    text = Path(variants.__file__).with_name("report_schema.md").read_text(encoding="utf-8")
    described = set(re.findall(r"`(\w+)`", text))
    for kind in vars(variants).values():
        if isinstance(kind, type) and issubclass(kind, Checked) and dataclasses.is_dataclass(kind):
            assert {field.name for field in dataclasses.fields(kind)} <= described, kind.__name__
    assert f"schema version {variants.SCHEMA_VERSION}" in text


def test_improvement_is_the_difference_to_the_base_in_points() -> None:
    references = [["red kettle"], ["blue sofa"]]
    found = compare_variants(
        {
            "base": score_rows(["red", "green"], references),
            "lora": score_rows(["red kettle", "blue"], references),
        }
    )
    base, lora = found["base"], found["lora"]
    assert (base.improvement, base.tests) == (None, {})
    assert lora.improvement is not None
    assert lora.metrics["rouge1"].value - base.metrics["rouge1"].value == pytest.approx(0.5)
    assert lora.improvement["rouge1"] == pytest.approx(50.0)
    assert set(lora.tests) == {"base"}


def test_everything_but_the_base_is_tested_against_base_and_full() -> None:
    tested = {variant.name: set(variant.tests) for variant in sample_report().variants}
    assert tested == {
        "base": set(),
        "full": {"base"},
        "lora": {"base", "full"},
        "qlora": {"base", "full"},
        "prompt_tuning": {"base", "full"},
        "first_turns": {"base", "full"},
        "human": {"base", "full"},
    }


def test_the_human_is_compared_on_the_rows_that_have_two_references() -> None:
    human = score_human(REFERENCES)
    assert human is not None
    level = np.linspace(0, 1, len(REFERENCES))
    base = RowScores(mean={"rouge1": level}, max={"rouge1": level}, rows=np.arange(len(REFERENCES)))
    test = compare_variants({"base": base, "human": human})["human"].tests["base"]["rouge1"]
    assert test.difference == pytest.approx(human.mean["rouge1"].mean() - level[human.rows].mean())


def test_a_report_of_version_1_is_still_read() -> None:
    report = sample_report()
    old = report.to_json() | {"schema_version": 1}
    for variant in old["variants"]:
        del variant["predicted_peak_bytes"]
    assert Report.from_json(old) == report
