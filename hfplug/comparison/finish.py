"""What a study and a comparison of existing adapters end with: scores, the report, its files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hfplug.adapters.record import hfplug_version, package_versions, utc_now
from hfplug.comparison.baselines import first_turns
from hfplug.comparison.dialogues import DialogueRow
from hfplug.comparison.inputs import ScoredInputs
from hfplug.comparison.inspect_report import write_inside
from hfplug.comparison.machine import describe_machine
from hfplug.comparison.progress import Progress
from hfplug.comparison.report import FILES, write_report
from hfplug.comparison.rouge import RowScores, score_human, score_rows
from hfplug.comparison.study_base import BaseState
from hfplug.comparison.study_folder import read_predictions, write_predictions
from hfplug.comparison.variants import BaseProof, Report, Variant, compare_variants

EXAMPLES_IN_REPORT = 10


def finish(
    inputs: ScoredInputs,
    before: BaseState,
    after: BaseState,
    variants: Sequence[Variant],
    settings: Mapping[str, Any],
    progress: Progress,
    adapters: Mapping[str, Path],
) -> tuple[Report, list[dict[str, Any]]]:
    """Score what was answered, and write the report with its pages.

    Args:
        inputs: What all columns share.
        before: The base before anything was done. ``after``: the base now.
        variants: The columns whose answers are in the folder, the base first.
        settings: For the report, as JSON values.
        progress: Where to show what is missing from the page.
        adapters: Name of each trained column to the folder of its adapter.

    Returns:
        The report, and the examples that it shows.
    """
    columns = [*variants, *_baselines(inputs)]
    scores = _scores(inputs, columns)
    report = _report(inputs, before, after, columns, scores, settings)
    rows = _dialogues(inputs, report, scores)
    examples = [
        {"dialogue": row.text, "references": list(row.references), "outputs": row.outputs}
        for row in rows[:EXAMPLES_IN_REPORT]
    ]
    inside = write_inside(inputs.folder.path, inputs.base, adapters, progress, report=FILES["html"])
    written = write_report(report, inputs.folder.path, examples=examples, dialogues=rows, inside=inside)
    if written.plots_note:
        progress.say(written.plots_note)
    return report, examples


def _baselines(inputs: ScoredInputs) -> list[Variant]:
    """The copied first turns, and one human against another where there are several references."""
    texts = [first_turns(example.text) for example in inputs.evaluation]
    write_predictions(inputs.folder.predictions("first_turns"), inputs.evaluation, texts)
    found = [Variant(name="first_turns", kind="baseline", predictions="predictions/first_turns.jsonl")]
    if any(len(example.references) > 1 for example in inputs.evaluation):
        found.append(Variant(name="human", kind="human"))
    return found


def _scores(inputs: ScoredInputs, variants: Sequence[Variant]) -> dict[str, RowScores]:
    references = [example.references for example in inputs.evaluation]
    scores: dict[str, RowScores] = {}
    for variant in variants:
        if variant.kind == "human":
            human = score_human(references)
            if human is not None:
                scores[variant.name] = human
        else:
            scores[variant.name] = score_rows(read_predictions(inputs.folder.predictions(variant.name)), references)
    return scores


def fully_tuned(variants: Sequence[Variant]) -> str:
    """The name of the variant that the others are tested against as full tuning; ``"full"`` where there is no choice.

    Args:
        variants: The columns. Of several fully tuned ones it is the one that is called ``full``.
    """
    names = [variant.name for variant in variants if variant.kind == "full"]
    return names[0] if len(names) == 1 else "full"


def _report(
    inputs: ScoredInputs,
    before: BaseState,
    after: BaseState,
    variants: Sequence[Variant],
    scores: Mapping[str, RowScores],
    settings: Mapping[str, Any],
) -> Report:
    compared = compare_variants(scores, full=fully_tuned(variants), seed=inputs.seed)
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
            f"loaded anew before and after the {inputs.folder.kind}",
        ),
        task=inputs.task.to_json(),
        data=inputs.data,
        settings=dict(settings),
        versions=package_versions(),
        machine=describe_machine(),
        variants=tuple(filled),
    )


def _dialogues(inputs: ScoredInputs, report: Report, scores: Mapping[str, RowScores]) -> list[DialogueRow]:
    """Every row with what each variant answered, and how that scored."""
    outputs = {
        variant.name: read_predictions(inputs.folder.path / variant.predictions)
        for variant in report.variants
        if variant.predictions
    }
    return [
        DialogueRow(
            id=example.id,
            text=example.text,
            references=example.references,
            outputs={name: texts[at] for name, texts in outputs.items()},
            scores={
                name: {metric: float(values[at]) for metric, values in scores[name].mean.items()} for name in outputs
            },
        )
        for at, example in enumerate(inputs.evaluation)
    ]
