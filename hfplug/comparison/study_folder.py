"""The folder of a study: what is where, and what is done already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfplug.adapters.atomic import write_json, write_text
from hfplug.comparison.variants import Variant
from hfplug.errors import StudyError
from hfplug.training.dataset import Example

# What a folder may hold, and the file that says so.
STATE_FILES = {"study": "study.json", "comparison": "comparison.json"}


@dataclass(frozen=True)
class StudyFolder:
    """Where a study, or a comparison of adapters that exist, keeps things.

    ::

        OUT/
          study.json             the settings, so that a study is only ever continued with the same ones
                                 (comparison.json of a comparison, which has no adapters/ and runs/)
          adapters/<method>/     the adapters
          runs/<method>/         Trainer's checkpoints
          variants/<name>.json   what is known of a finished variant
          predictions/<name>.jsonl
          report.json .csv .md .html   dialogues.html

    Attributes:
        path: ``OUT``.
        kind: ``"study"`` or ``"comparison"``.
    """

    path: Path
    kind: str = "study"

    def adapter(self, name: str) -> Path:
        return self.path / "adapters" / name

    def run(self, name: str) -> Path:
        return self.path / "runs" / name

    def predictions(self, name: str) -> Path:
        return self.path / "predictions" / f"{name}.jsonl"

    def variant(self, name: str) -> Path:
        return self.path / "variants" / f"{name}.json"

    def open(self, settings: Mapping[str, Any], *, growing: str) -> None:
        """Start in the folder, or go on with what is in it.

        A method or a variant may be added; nothing else may change, as the columns would not be comparable.

        Args:
            settings: The settings, as JSON values.
            growing: The key of the settings whose entries are the columns.

        Raises:
            StudyError: if the folder holds a study with other settings, or something else.
        """
        state, wanted = self.path / STATE_FILES[self.kind], json.loads(json.dumps(settings))
        if self.path.exists() and not self.path.is_dir():
            raise StudyError(f"{str(self.path)!r} is a file; a {self.kind} needs a folder.", fix="Pass another --out.")
        if state.is_file():
            self._check_same(json.loads(state.read_text(encoding="utf-8")), wanted, growing)
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise StudyError(
                f"The folder {str(self.path)!r} is not empty and holds no {self.kind}.", fix="Pass another --out."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(state, wanted)

    def _check_same(self, before: dict[str, Any], wanted: dict[str, Any], growing: str) -> None:
        known = before.get(growing, {})
        for key in sorted(set(before) | set(wanted)):
            old, new = before.get(key), wanted.get(key)
            if key in (growing, "learning_rates"):
                old = {name: value for name, value in (old or {}).items() if name in (new or {})}
                new = {name: value for name, value in (new or {}).items() if name in known}
                if key == "learning_rates":
                    old = {name: value for name, value in old.items() if name in known}
            if old != new:
                raise StudyError(
                    f"The {self.kind} in {str(self.path)!r} was made with {key}={_short(old)}, not {_short(new)}.",
                    fix="Pass another --out, or the same settings to go on with it.",
                )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."


def write_predictions(path: Path, examples: Sequence[Example], texts: Sequence[str]) -> None:
    """Write one JSON object a line: the row's id, the prediction, the references.

    Args:
        path: The file.
        examples: The rows.
        texts: A prediction for each row.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"id": example.id, "prediction": text, "references": list(example.references)}, ensure_ascii=False)
        for example, text in zip(examples, texts, strict=True)
    ]
    write_text(path, "\n".join(lines) + "\n")


def read_predictions(path: Path) -> list[str]:
    """The predictions that :func:`write_predictions` wrote, in the order of the rows."""
    # Not splitlines(): a text may hold U+2028, which is a line end to Python and not to JSON.
    return [json.loads(line)["prediction"] for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_variant(folder: StudyFolder, variant: Variant) -> None:
    """Keep what is known of a finished variant. It is written last, so that it says: this one is done."""
    folder.variant(variant.name).parent.mkdir(parents=True, exist_ok=True)
    write_json(folder.variant(variant.name), variant.to_json())


def read_variant(folder: StudyFolder, name: str) -> Variant | None:
    """A finished variant, or None."""
    path = folder.variant(name)
    if not path.is_file() or not folder.predictions(name).is_file():
        return None
    return Variant.from_json(json.loads(path.read_text(encoding="utf-8")))
