"""The table fits a terminal, says everything, and never shows a number that was not measured."""

from __future__ import annotations

import dataclasses

import pytest
from report_samples import sample_report

from hfplug.comparison.table import paired_tests_table, quality_table, render_markdown, render_table, tables
from hfplug.comparison.variants import Variant

HEADINGS = [
    "ROUGE-1", "ROUGE-2", "ROUGE-L", "ROUGE-Lsum", "points against base", "p against", "trainable",
    "a full copy", "peak", "weights+gradients", "+optimiser+rest", "s/step", "train", "answer", "first",
]  # fmt: skip


def test_the_table_has_every_column_and_every_variant() -> None:
    report = sample_report()
    text = render_table(report)
    for heading in HEADINGS:
        assert heading in text
    for variant in report.variants:
        assert sum(line.startswith(f"{variant.name} ") for line in text.splitlines()) == 2, variant.name


def test_a_row_shows_the_measured_numbers() -> None:
    lora = sample_report().variant("lora")
    assert lora is not None
    metric, test = lora.metrics["rouge1"], lora.tests["full"]["rouge1"]
    line = next(line for line in render_table(sample_report()).splitlines() if line.startswith("lora "))
    score = f"{100 * metric.value:.1f} {100 * metric.low:.1f}–{100 * metric.high:.1f}"
    assert score in line
    assert f"+{lora.improvement['rouge1']:.1f}" in line  # type: ignore[index]
    assert line.endswith(f"{test.p_value:.3f}")
    costs = [line for line in render_table(sample_report()).splitlines() if line.startswith("lora ")][1]
    assert costs.split("  ")[0] == "lora"
    for figure in ("98.3k 1.85 %", "394 kB / 21.2 MB", "151 MB", "21.2+0.39+0.79+129 MB", "0.32", "31.2 ms"):
        assert figure in costs


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_no_line_is_wider_than_asked_for(width: int) -> None:
    text = render_table(sample_report(), width=width)
    assert max(len(line) for line in text.splitlines() if "(" not in line) <= width
    assert all(heading in text for heading in HEADINGS)


def test_the_two_tables_fit_120_columns_unbroken() -> None:
    text = render_table(sample_report())
    assert "continued" not in text
    assert max(map(len, text.splitlines())) <= 120


def test_what_was_not_measured_is_a_dash() -> None:
    report = dataclasses.replace(sample_report(), variants=(Variant(name="new", kind="adapter"),))
    (row,) = [line for line in render_table(report).splitlines() if line.startswith("new ")][-1:]
    assert set(row.split()) == {"new", "–"}
    assert quality_table(report).cells == (("new", "–", "–"),)
    assert paired_tests_table(report).cells == ()


def test_a_name_cannot_break_the_table() -> None:
    name = "a | b\n\x1b[31m<i>*x*"
    report = dataclasses.replace(sample_report(), variants=(Variant(name=name, kind="adapter"),))
    assert "\x1b" not in render_table(report)
    (line,) = [line for line in render_markdown(report).splitlines() if "a \\|" in line][:1]
    assert line.count(" | ") == len(quality_table(report).columns) - 1
    assert "<i>" not in line.replace("\\<", "")


def test_every_column_but_the_name_is_explained() -> None:
    for table in tables(sample_report()):
        assert all(column.note for column in table.columns[1:])
        assert all(len(row) == len(table.columns) for row in table.cells)


def test_markdown_holds_the_paired_tests_too() -> None:
    text = render_markdown(sample_report())
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "### Quality",
        "### Paired tests",
        "### Trade-offs",
    ]
    assert "RLsum against full" in text


def test_without_full_tuning_there_are_no_tests_against_it() -> None:
    report = sample_report()
    variants = [
        dataclasses.replace(variant, tests={name: test for name, test in variant.tests.items() if name == "base"})
        for variant in report.variants
        if variant.name != "full"
    ]
    headings = [column.heading for column in paired_tests_table(dataclasses.replace(report, variants=variants)).columns]
    assert headings == ["variant", *(f"{metric} against base" for metric in ("R1", "R2", "RL", "RLsum"))]
    assert "R1 against full" in [column.heading for column in paired_tests_table(report).columns]


def test_the_trade_offs_say_how_far_the_memory_plan_was_off() -> None:
    report = sample_report()
    planned = [
        dataclasses.replace(one, predicted_peak_bytes=one.peak_training_bytes and round(one.peak_training_bytes * 0.98))
        for one in report.variants
    ]
    assert "memory plan" not in render_table(report)
    text = render_table(dataclasses.replace(report, variants=tuple(planned)))
    assert "the memory plan's peaks were off by at most 2.00 %" in text
    assert max(len(line) for line in text.splitlines()) <= 120
