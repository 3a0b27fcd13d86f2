"""Writing a report as files, and reading it back.

All files are rendered before the first is written, and each is replaced as a whole: a kill at any moment
leaves the old file or the new one, never half of one.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from hfplug.adapters.atomic import write_bytes
from hfplug.comparison.dialogues import DialogueRow
from hfplug.comparison.rouge import METRICS
from hfplug.comparison.summary import notes, summary
from hfplug.comparison.table import escape_markdown, render_markdown
from hfplug.comparison.variants import Metric, Report, TestResult, TrainingMemory, Variant
from hfplug.errors import StudyError

Plots = Literal["auto", "always", "never"]
FILES = {
    "json": "report.json",
    "csv": "report.csv",
    "md": "report.md",
    "html": "report.html",
    "dialogues": "dialogues.html",
}


class WrittenReport(dict[str, Path]):
    """The paths that were written, by ``"json"``, ``"csv"``, ``"md"``, ``"html"`` and ``"dialogues"``.

    Attributes:
        plots_note: Why the page has no plots and what to type for them, or None if it has them.
    """

    plots_note: str | None = None


def write_report(
    report: Report,
    out_dir: str | os.PathLike[str],
    *,
    examples: Sequence[Mapping[str, Any]] = (),
    dialogues: Sequence[DialogueRow] = (),
    inside: Mapping[str, str] | None = None,
    plots: Plots = "auto",
) -> WrittenReport:
    """Write ``report.json``, ``report.csv``, ``report.md`` and ``report.html``, and ``dialogues.html`` for rows.

    The same report and examples give the same bytes.

    Args:
        report: The report.
        out_dir: The folder; it is made if it does not exist.
        examples: Dialogues for the page, of which the first ten are shown: each
            ``{"dialogue": text, "references": [text], "outputs": {variant name: text}}``.
        dialogues: Every row that was scored, for a page of its own with the answers side by side; none, no page.
        inside: Name of a variant to the address of the page of what its adapter holds, to be linked to.
        plots: ``"auto"`` draws them if matplotlib is installed, ``"always"`` insists, ``"never"`` leaves
            them out.

    Returns:
        The paths, and in ``plots_note`` why there are no plots, if there are none.

    Raises:
        MissingExtraError: ``plots="always"`` and matplotlib is not installed.
        StudyError: ``plots`` or an example is not as above, or the folder cannot be written to.
    """
    # jinja2 and matplotlib: only where a page is wanted
    from hfplug.comparison.dialogues import render_dialogues
    from hfplug.comparison.page import render_page

    if plots not in get_args(Plots):
        raise StudyError(f"plots is one of {', '.join(get_args(Plots))}; {plots!r} came.")
    page, plots_note = render_page(
        report,
        examples=examples,
        plots=plots,
        dialogues=FILES["dialogues"] if dialogues else None,
        inside=inside,
    )
    texts = {
        "json": json.dumps(report.to_json(), ensure_ascii=False, allow_nan=False, indent=1) + "\n",
        "csv": render_csv(report),
        "md": render_document(report),
        "html": page,
    }
    if dialogues:
        texts["dialogues"] = render_dialogues(report, dialogues, back=FILES["html"])
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, text in texts.items():
            # A lone surrogate in a prediction is no reason to lose the report.
            write_bytes(folder / FILES[kind], text.encode("utf-8", errors="backslashreplace"))
    except OSError as error:
        raise StudyError(
            f"The report cannot be written to {str(folder)!r}: {error.strerror or error}.",
            fix="Choose a folder that you may write to.",
        ) from error
    written = WrittenReport({kind: folder / FILES[kind] for kind in texts})
    written.plots_note = plots_note
    return written


def read_report(path: str | os.PathLike[str]) -> Report:
    """Read a report.

    Args:
        path: ``report.json``, or the folder that holds it.

    Raises:
        StudyError: There is no such file, it is not JSON, or not a report of this schema version.
    """
    file = Path(path)
    file = file / FILES["json"] if file.is_dir() else file
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StudyError(f"There is no report at {str(file)!r}.", fix="Type: hfplug study --help") from error
    except (OSError, ValueError) as error:
        raise StudyError(f"{str(file)!r} cannot be read as a report: {error}.") from error
    return Report.from_json(data)


def render_document(report: Report) -> str:
    """The report as a Markdown document: what was compared, the tables, the notes."""
    lines = [f"# {escape_markdown(report.base.name)}: methods side by side", ""]
    lines += [f"- {label}: {escape_markdown(text)}" for label, text in summary(report)]
    lines += ["", render_markdown(report)]
    found = notes(report)
    if found:
        lines += [
            "### Notes",
            "",
            *(f"- {escape_markdown(name)}: {escape_markdown(note)}" for name, note in found),
            "",
        ]
    return "\n".join(lines)


def render_csv(report: Report) -> str:
    """One row a variant, one flat column for each number; empty where nothing was measured.

    Nested numbers are joined with underscores (``rouge1_low``, ``test_full_rouge1_p_value``,
    ``memory_weights``); settings are JSON; the loss curves are only in ``report.json``.
    """
    rows = [dict(_flat(variant)) for variant in report.variants]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict(_flat(Variant(name="", kind="base")))), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(variant: Variant) -> Iterator[tuple[str, Any]]:
    """The variant's cells, always the same names in the same order."""
    for name, value in variant.to_json().items():
        if name == "metrics":
            for metric in METRICS:
                for part in Metric.__dataclass_fields__:
                    yield f"{metric}_{part}", (value.get(metric) or {}).get(part)
        elif name == "improvement":
            for metric in METRICS:
                yield f"improvement_{metric}", (value or {}).get(metric)
        elif name == "tests":
            for other in ("base", "full"):
                for metric in METRICS:
                    for part in TestResult.__dataclass_fields__:
                        yield (
                            f"test_{other}_{metric}_{part}",
                            value.get(other, {}).get(metric, {}).get(part),
                        )
        elif name == "training_memory":
            for part in TrainingMemory.__dataclass_fields__:
                yield f"memory_{part}", (value or {}).get(part)
        elif name == "method_settings":
            yield name, json.dumps(value, ensure_ascii=False)
        elif name == "notes":
            yield name, "\n".join(value)
        elif name not in ("loss_curve", "eval_loss_curve"):
            yield name, value
