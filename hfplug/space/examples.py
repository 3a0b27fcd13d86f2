"""The dialogues that a visitor can pick: those of the settings, or a few that come with hfplug."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfplug.errors import SpaceError
from hfplug.space.config import SpaceConfig
from hfplug.space.permalinks import EXAMPLE_ID

MOST = 50
_LARGEST_FILE = 4 << 20
_BUILT_IN = 8
_LONGEST_TITLE = 60
_DIALOGUE, _REFERENCE = ("dialogue", "text", "input"), ("references", "reference", "summary")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A dialogue to pick.

    Attributes:
        id: Its name in addresses; it stays the same as long as the dialogue does.
        title: A few words for the list.
        dialogue: The text.
        references: Texts that a person wrote for it; empty if there are none.
    """

    id: str
    title: str
    dialogue: str
    references: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """The first reference, or an empty text."""
        return self.references[0] if self.references else ""


def load_examples(config: SpaceConfig) -> tuple[Example, ...]:
    """The examples of a Space.

    Args:
        config: ``examples`` names a JSON file with a list of objects, or a JSON lines file. Each object has
            ``dialogue``, and may have ``id``, ``title``, and ``summary`` or ``references``.

    Raises:
        SpaceError: The file is not there, or not as above.
    """
    if config.examples is None:
        return _of_the_demo()
    path = config.path(config.examples)
    rows = _read(path, config.examples)
    found = [_example(row, f"example {number} of {config.examples}") for number, row in enumerate(rows, start=1)]
    ids = [example.id for example in found]
    twice = [id for id in ids if ids.count(id) > 1]
    if twice:
        raise SpaceError(f"Two examples of {config.examples} are the same, or have the id {twice[0]!r}.")
    return tuple(found)


def _of_the_demo() -> tuple[Example, ...]:
    """Dialogues that no adapter of the demo was trained on."""
    from hfplug.demo.world import generate

    rows = generate("test", _BUILT_IN)
    return tuple(
        Example(
            id=row["id"],
            title=row["title"],
            dialogue=row["dialogue"],
            references=(row["summary"], row["reference_2"]),
        )
        for row in rows
    )


def _read(path: Path, name: str) -> Sequence[Any]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise SpaceError(f"{name!r} has more than {_LARGEST_FILE >> 20} MB.", fix=f"Keep at most {MOST} examples.")
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            rows = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise SpaceError(f"The examples {name!r} cannot be read: {error}.", fix="Pass a JSON or JSONL file.") from None
    if not isinstance(rows, list) or len(rows) > MOST:
        raise SpaceError(f"{name!r} must hold a list of at most {MOST} examples.")
    return rows


def _example(row: Any, where: str) -> Example:
    if not isinstance(row, Mapping):
        raise SpaceError(f"{where} must be an object with 'dialogue'.")
    dialogue = next((row[key] for key in _DIALOGUE if isinstance(row.get(key), str) and row[key].strip()), None)
    if dialogue is None:
        raise SpaceError(f"{where} has no 'dialogue'.")
    references = next((row[key] for key in _REFERENCE if row.get(key)), ())
    references = (references,) if isinstance(references, str) else references
    if not isinstance(references, (list, tuple)) or not all(isinstance(text, str) for text in references):
        raise SpaceError(f"The references of {where} must be texts.")
    id = row.get("id", _id_of(dialogue))
    if not isinstance(id, str) or not EXAMPLE_ID.fullmatch(id):
        raise SpaceError(f"The id of {where} must be up to 64 letters, digits, '-' and '_'.")
    title = row.get("title") or _title_of(dialogue)
    if not isinstance(title, str):
        raise SpaceError(f"The title of {where} must be a text.")
    title = " ".join(title.split())
    title = title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 1]}…"
    return Example(id=id, title=title, dialogue=dialogue, references=tuple(references))


def _id_of(dialogue: str) -> str:
    return hashlib.sha256(dialogue.encode("utf-8", errors="backslashreplace")).hexdigest()[:12]


def _title_of(dialogue: str) -> str:
    return " ".join(dialogue.split())
