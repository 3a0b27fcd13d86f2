"""The dialogues to pick: those of the settings, else some that no adapter of the demo was trained on."""

from __future__ import annotations

import json

import pytest

from hfplug.demo.tasks import load_demo_data
from hfplug.errors import SpaceError
from hfplug.space.config import SpaceConfig
from hfplug.space.examples import Example, load_examples
from hfplug.space.permalinks import EXAMPLE_ID


def examples(tmp_path, rows, name="examples.jsonl"):
    text = rows if isinstance(rows, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / name).write_text(text, encoding="utf-8")
    return load_examples(SpaceConfig(folder=tmp_path, examples=name))


def test_without_settings_they_are_held_out_dialogues_with_two_references():
    found = load_examples(SpaceConfig())
    seen = {row["dialogue"] for row in load_demo_data()["train"]}
    assert len(found) == 8 and not {example.dialogue for example in found} & seen
    assert all(EXAMPLE_ID.fullmatch(example.id) and len(example.references) == 2 for example in found)
    assert found == load_examples(SpaceConfig())


def test_a_file_of_lines_and_one_of_a_list_say_the_same(tmp_path):
    rows = [
        {"dialogue": "A: one\u2028two", "summary": "s", "title": "First", "id": "first"},
        {"text": "B: " + "long " * 40, "references": ["r1", "r2"]},
    ]
    lines, whole = examples(tmp_path, rows), examples(tmp_path, json.dumps(rows), "examples.json")
    assert lines == whole
    assert lines[0] == Example(id="first", title="First", dialogue="A: one\u2028two", references=("s",))
    assert lines[1].references == ("r1", "r2") and lines[1].title.endswith("…") and len(lines[1].title) == 60
    assert EXAMPLE_ID.fullmatch(lines[1].id) and lines[1].id == examples(tmp_path, rows[1:])[0].id


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("{", "cannot be read"),
        ('"x"\n', "must be an object"),
        ([{"summary": "s"}], "has no 'dialogue'"),
        ([{"dialogue": "  "}], "has no 'dialogue'"),
        ([{"dialogue": "a", "id": "../x"}], "The id of"),
        ([{"dialogue": "a", "title": 3}], "The title of"),
        ([{"dialogue": "a", "references": [1]}], "The references of"),
        ([{"dialogue": "a"}, {"dialogue": "a"}], "are the same"),
        ([{"dialogue": str(n)} for n in range(51)], "at most 50"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, rows, said):
    with pytest.raises(SpaceError, match=said):
        examples(tmp_path, rows)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(SpaceError, match="'absent.jsonl' cannot be read"):
        load_examples(SpaceConfig(folder=tmp_path, examples="absent.jsonl"))
