"""A study: every method on the same data, scored beside the untouched base, in one table.

A study is made of steps that each leave a file, and a step whose file is there is not done again. So a study
that was killed goes on where it was: inside a method at the last whole checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hfplug.adapters.record import hfplug_version, package_versions, utc_now
from hfplug.comparison.baselines import first_turns
from hfplug.comparison.machine import describe_machine
from hfplug.comparison.progress import Progress
from hfplug.comparison.report import write_report
from hfplug.comparison.rouge import RowScores, score_human, score_rows
from hfplug.comparison.study_base import BaseState, read_base, score_base
from hfplug.comparison.study_folder import read_predictions, write_predictions
from hfplug.comparison.study_inputs import StudyInputs, prepare
from hfplug.comparison.study_method import run_method
from hfplug.comparison.study_records import write_measurements
from hfplug.comparison.study_settings import StudySettings
from hfplug.comparison.variants import BaseProof, Report, Variant, compare_variants

EXAMPLES_IN_REPORT = 10


def run_study(settings: StudySettings, *, progress: Progress | None = None) -> Report:
    """Train and score every method, or go on with a study that was stopped.

    Args:
        settings: What to do.
        progress: Where to show what is happening; nothing is shown by default.

    Returns:
        The report, which is also written to ``settings.out`` as JSON, CSV, Markdown and HTML.

    Raises:
        HfplugError: if the base, the data or the settings cannot be used; nothing has been trained then.
    """
    progress = progress or Progress("nothing")
    inputs = prepare(settings)
    progress.say(
        f"{settings.task.name}: {len(inputs.train)} rows to train on, {len(inputs.evaluation)} to score on, "
        f"base {inputs.base.name}"
    )
    before = read_base(inputs)
    variants = [score_base(inputs, before, progress)]
    variants += [run_method(inputs, method, before, progress) for method in settings.methods]
    after = read_base(inputs, keep="nothing")
    variants += _baselines(inputs)
    report = _report(inputs, before, after, variants)
    examples = _examples(inputs, report)
    written = write_report(report, settings.out, examples=examples)
    write_measurements(settings.out, report, examples)
    if written.plots_note:
        progress.say(written.plots_note)
    return report


def _baselines(inputs: StudyInputs) -> list[Variant]:
    """The copied first turns, and one human against another where there are several references."""
    texts = [first_turns(example.text) for example in inputs.evaluation]
    write_predictions(inputs.folder.predictions("first_turns"), inputs.evaluation, texts)
    found = [Variant(name="first_turns", kind="baseline", predictions="predictions/first_turns.jsonl")]
    if any(len(example.references) > 1 for example in inputs.evaluation):
        found.append(Variant(name="human", kind="human"))
    return found


def _report(inputs: StudyInputs, before: BaseState, after: BaseState, variants: Sequence[Variant]) -> Report:
    references = [example.references for example in inputs.evaluation]
    scores: dict[str, RowScores] = {}
    for variant in variants:
        if variant.kind == "human":
            human = score_human(references)
            if human is not None:
                scores[variant.name] = human
        else:
            scores[variant.name] = score_rows(read_predictions(inputs.folder.predictions(variant.name)), references)
    compared = compare_variants(scores, seed=inputs.settings.seed)
    filled = [
        dataclasses.replace(
            variant,
            metrics=compared[variant.name].metrics,
            improvement=compared[variant.name].improvement,
            tests=compared[variant.name].tests,
        )
        for variant in variants
        if variant.name in compared
    ]
    return Report(
        created=utc_now(),
        hfplug_version=hfplug_version(),
        base=before.info,
        base_untouched=before.sha256 == after.sha256,
        base_proof=BaseProof(
            rows=before.rows,
            sha256_before=before.sha256,
            sha256_after=after.sha256,
            what="SHA-256 over every weight of the base, and over its logits and greedy answers on these rows, "
            "loaded anew before and after the study",
        ),
        task=inputs.settings.task.to_json(),
        data=inputs.data,
        settings=_shown_settings(inputs.settings),
        versions=package_versions(),
        machine=describe_machine(),
        variants=tuple(filled),
    )


def _shown_settings(settings: StudySettings) -> dict[str, Any]:
    """The settings that the report does not hold elsewhere already."""
    return {key: value for key, value in settings.to_json().items() if key not in ("task", "data", "base")}


def _examples(inputs: StudyInputs, report: Report) -> list[dict[str, Any]]:
    outputs = {
        variant.name: read_predictions(inputs.folder.path / variant.predictions)
        for variant in report.variants
        if variant.predictions
    }
    return [
        {
            "dialogue": example.text,
            "references": list(example.references),
            "outputs": {name: texts[row] for name, texts in outputs.items()},
        }
        for row, example in enumerate(inputs.evaluation[:EXAMPLES_IN_REPORT])
    ]
