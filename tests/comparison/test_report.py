"""The files of a report: whole or not at all, the same bytes twice, readable by others."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest
from report_samples import sample_examples, sample_report

from hfplug.comparison.report import read_report, write_report
from hfplug.errors import MissingExtraError, StudyError


def test_four_files_are_written_and_the_json_reads_back_equal(tmp_path: Path) -> None:
    report = sample_report()
    written = write_report(report, tmp_path / "new" / "folder", plots="never")
    assert {kind: path.name for kind, path in written.items()} == {
        "json": "report.json",
        "csv": "report.csv",
        "md": "report.md",
        "html": "report.html",
    }
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(
        path.name for path in written.values()
    )
    assert read_report(written["json"]) == read_report(written["json"].parent) == report


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    report, examples = sample_report(), sample_examples()
    one = write_report(report, tmp_path / "one", examples=examples)
    other = write_report(report, tmp_path / "other", examples=examples)
    assert one.plots_note is None
    for kind, path in one.items():
        assert path.read_bytes() == other[kind].read_bytes(), kind


@pytest.mark.parametrize("failing", ["report.json", "report.html"])
def test_an_interrupted_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch, failing: str) -> None:
    old = write_report(sample_report(), tmp_path, plots="never")
    before = {kind: path.read_bytes() for kind, path in old.items()}
    replace = os.replace

    def fail(source, target, **rest) -> None:
        if Path(target).name == failing:
            raise OSError(28, "No space left on device")
        replace(source, target, **rest)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StudyError, match="No space left on device"):
        write_report(sample_report(created="2026-01-01T00:00:00+00:00"), tmp_path, plots="never")
    assert (tmp_path / failing).read_bytes() == before[failing.removeprefix("report.")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in old.values())


def test_a_page_that_cannot_be_made_leaves_all_old_files(tmp_path: Path) -> None:
    old = write_report(sample_report(), tmp_path, plots="never")
    before = {kind: path.read_bytes() for kind, path in old.items()}
    with pytest.raises(StudyError, match="Did you mean 'outputs'"):
        write_report(sample_report(created="later"), tmp_path, examples=[{"output": {}}], plots="never")
    assert {kind: path.read_bytes() for kind, path in old.items()} == before


def test_the_csv_has_a_row_for_each_variant_and_survives_line_breaks_and_quotes(tmp_path: Path) -> None:
    report = sample_report()
    noted = dataclasses.replace(report.variants[2], notes=('He said "no",', "then left.\nReally"))
    report = dataclasses.replace(report, variants=(*report.variants[:2], noted, *report.variants[3:]))
    path = write_report(report, tmp_path, plots="never")["csv"]
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [variant.name for variant in report.variants]
    lora = rows[2]
    assert lora["notes"] == 'He said "no",\nthen left.\nReally'
    assert json.loads(lora["method_settings"]) == {"r": 16}
    assert float(lora["rouge1_low"]) == noted.metrics["rouge1"].low
    assert float(lora["test_full_rouge2_p_value"]) == noted.tests["full"]["rouge2"].p_value
    assert int(lora["memory_weights"]) == noted.training_memory.weights  # type: ignore[union-attr]
    assert rows[0]["peak_training_bytes"] == rows[0]["improvement_rouge1"] == ""
    assert not {"loss_curve", "metrics", "tests", "training_memory"} & set(lora)


def test_the_document_says_what_was_compared_and_that_the_base_is_untouched(tmp_path: Path) -> None:
    text = write_report(sample_report(), tmp_path, plots="never")["md"].read_text(encoding="utf-8")
    assert "- base untouched: yes, equal bit for bit (16 rows, sha256 bbbbbbbbbbbb…): logits" in text
    assert "- settings: seed 7, steps 120, batch_size 16" in text
    assert "1,600 rows to train, 40 to score, 1 to 2 references each" in text
    assert "- first_turns: Needs no model." in text


def test_a_changed_base_is_said_loudly_and_an_unchecked_one_honestly(tmp_path: Path) -> None:
    changed = write_report(sample_report(base_untouched=False), tmp_path / "a", plots="never")
    assert "NO, its output changed" in changed["md"].read_text(encoding="utf-8")
    assert 'class="bad">NO' in changed["html"].read_text(encoding="utf-8")
    unchecked = sample_report(base_untouched=None, base_proof=None)
    assert "base untouched: not checked" in write_report(unchecked, tmp_path, plots="never")["md"].read_text()


def test_without_matplotlib_the_page_says_what_to_type_unless_plots_were_asked_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"hfplug\[plots\]"):
        write_report(sample_report(), tmp_path, plots="always")
    assert list(tmp_path.iterdir()) == []
    written = write_report(sample_report(), tmp_path)
    assert written.plots_note is not None
    assert "hfplug[plots]" in written.plots_note
    page = written["html"].read_text(encoding="utf-8")
    assert "hfplug[plots]" in page
    assert "<svg" not in page


def test_plots_is_one_of_three_words(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="auto, always, never"):
        write_report(sample_report(), tmp_path, plots="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "There is no report"), ("{", "cannot be read as a report"), ("[]", "schema None came")],
)
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(StudyError, match=message):
        read_report(path)


def test_a_lone_surrogate_in_an_answer_does_not_lose_the_report(tmp_path: Path) -> None:
    broken = dataclasses.replace(sample_report().variants[0], notes=("half \ud83d",))
    report = sample_report(variants=(broken,))
    written = write_report(report, tmp_path, plots="never")
    assert read_report(written["json"]) == report
