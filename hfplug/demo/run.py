"""The settings of ``hfplug demo``: a study on the built-in base and task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hfplug.adapters.atomic import write_text
from hfplug.comparison.study_settings import StudySettings
from hfplug.demo.base import base_path
from hfplug.demo.tasks import TASKS, load_demo_data
from hfplug.errors import StudyError, did_you_mean
from hfplug.methods import get_method, resolve_method

if TYPE_CHECKING:
    from hfplug.comparison.variants import Report

# Found by trying a few values of each on the validation dialogues, never on the test dialogues; see
# benchmarks/demo_rates.py.
LEARNING_RATES = {"full": 1e-3, "lora": 1e-2, "qlora": 1e-2, "prompt_tuning": 0.3}
EPOCHS = 2.0
BATCH_SIZE = 8


def demo_settings(out: Path, *, methods: Sequence[str], task: str = "summary", seed: int = 42) -> StudySettings:
    """The study that the demo runs.

    Args:
        out: The folder; the generated dialogues are written to ``out/data``, the study to ``out/study``.
        methods: Names of methods.
        task: ``"summary"``, ``"title"`` or ``"action_items"``.
        seed: Of the rows' order and the adapters' start.

    Returns:
        Settings for ``run_study``.

    Raises:
        StudyError: for an unknown task.
        MethodError: for an unknown method.
    """
    if task not in TASKS:
        guess = did_you_mean(task, TASKS)
        raise StudyError(f"The demo has no task {task!r}.", fix=guess or f"The tasks are {', '.join(TASKS)}.")
    names = [get_method(name).name for name in methods]
    return StudySettings(
        base=str(base_path()),
        data=str(write_demo_data(out / "data")),
        task=TASKS[task],
        methods=tuple(resolve_method(name) for name in names),
        out=out / "study",
        train_split="train",
        eval_split="test",
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        eval_batch_size=32,
        learning_rates={name: rate for name, rate in LEARNING_RATES.items() if name in names},
        seed=seed,
    )


def write_demo_data(folder: Path) -> Path:
    """Write the generated dialogues as JSON lines, one file a split, for anybody to look at.

    Args:
        folder: Made if it is not there. Files of the same content are left alone.

    Returns:
        ``folder``.

    Raises:
        StudyError: if a file of that name with other content is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in load_demo_data().items():
        file = folder / f"{split}.jsonl"
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if file.is_file() and file.read_text(encoding="utf-8") == text:
            continue
        if file.exists():
            raise StudyError(f"{str(file)!r} is there already, with other rows.", fix="Pass another --out.")
        write_text(file, text)
    return folder


def next_commands(settings: StudySettings, report: Report) -> str:
    """What to type after the demo.

    Args:
        settings: Of the demo.
        report: What came out.
    """
    data = Path(settings.data)
    lines = [
        "",
        "Next:",
        "  the same on another task of these dialogues",
        f"    hfplug demo --task title --out {data.parent.with_name(data.parent.name + '-title')}",
        "  the same on your own base and data",
        "    hfplug study --base BASE --data FILE --methods full,lora,qlora,prompt_tuning --out my-study",
        "  all methods and their settings",
        "    hfplug methods",
    ]
    if report.variant("lora") is not None:
        adapter = settings.out / "adapters" / "lora"
        lines += [
            "  load an adapter",
            f"    python -c \"import hfplug; print(hfplug.load_adapter('{adapter}'))\"",
        ]
    return "\n".join(lines)
