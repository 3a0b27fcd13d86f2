"""A study: every method on the same data, scored beside the untouched base, in one table.

A study is made of steps that each leave a file, and a step whose file is there is not done again. So a study
that was killed goes on where it was: inside a method at the last whole checkpoint.
"""

from __future__ import annotations

from typing import Any

from hfplug.comparison.finish import finish
from hfplug.comparison.progress import Progress
from hfplug.comparison.study_base import let_go, read_base, score_base
from hfplug.comparison.study_inputs import prepare
from hfplug.comparison.study_method import run_method
from hfplug.comparison.study_records import write_measurements
from hfplug.comparison.study_settings import StudySettings
from hfplug.comparison.variants import Report


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
    before = let_go(before)
    variants += [run_method(inputs, method, before, progress) for method in inputs.settings.methods]
    after = read_base(inputs, keep="nothing")
    made = {one.name: settings.out / one.adapter_path for one in variants if one.adapter_path is not None}
    report, examples = finish(inputs, before, after, variants, _shown_settings(inputs.settings), progress, made)
    write_measurements(settings.out, report, examples)
    return report


def _shown_settings(settings: StudySettings) -> dict[str, Any]:
    """The settings that the report does not hold elsewhere already."""
    return {key: value for key, value in settings.to_json().items() if key not in ("task", "data", "base")}
