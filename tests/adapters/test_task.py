"""A task renders its prompt, collects references, refuses what cannot work, and survives JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hfplug.adapters.task import Task
from hfplug.errors import DataError

PROMPT = "Summarize the following conversation.\n\n{dialogue}\n\nSummary:"


def test_render_puts_the_text_between_prefix_and_suffix() -> None:
    task = Task(name="summary", prompt=PROMPT)
    assert (task.prefix, task.suffix) == ("Summarize the following conversation.\n\n", "\n\nSummary:")
    assert task.render("A: hi") == "Summarize the following conversation.\n\nA: hi\n\nSummary:"


def test_the_instruction_is_the_prompt_without_the_text_on_one_line() -> None:
    assert Task(name="s", prompt=PROMPT).instruction == "Summarize the following conversation. Summary:"


def test_braces_in_the_text_and_in_the_template_stay_as_they_are() -> None:
    task = Task(name="s", prompt='{"json": {dialogue}} {0} {}')
    assert task.render("{dialogue} {x} {") == '{"json": {dialogue} {x} {} {0} {}'


def test_references_are_the_target_then_the_other_columns_without_blanks() -> None:
    task = Task(name="s", prompt=PROMPT, reference_columns=("second", "third"))
    row = {"summary": ["a", " ", "b"], "second": "c", "third": None}
    assert task.references(row) == ["a", "b", "c"]


def test_references_name_the_columns_that_there_are() -> None:
    with pytest.raises(DataError, match=r"no column 'summary'.*\['dialogue', 'sumary'\].*'sumary'"):
        Task(name="s", prompt=PROMPT).references({"dialogue": "x", "sumary": "y"})


@pytest.mark.parametrize("value", [3, {"a": 1}, [1]])
def test_references_must_be_text(value: object) -> None:
    with pytest.raises(DataError, match="must hold a text"):
        Task(name="s", prompt=PROMPT).references({"summary": value})


def test_json_gives_an_equal_task_back() -> None:
    task = Task(
        name="title",
        prompt="{text}\nTitle:",
        input_column="text",
        target_column="title",
        reference_columns=("title2",),
        metric="rouge",
        max_input_tokens=99,
        max_target_tokens=9,
        decoding={"max_new_tokens": 9, "num_beams": 4, "stop": ["\n"]},
    )
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_a_task_shares_nothing_with_what_it_was_given() -> None:
    decoding = {"max_new_tokens": 9}
    task = Task(name="s", prompt=PROMPT, decoding=decoding)
    decoding["max_new_tokens"] = 1
    task.to_json()["decoding"]["max_new_tokens"] = 2
    assert task.decoding == {"max_new_tokens": 9}


def test_an_unknown_key_names_the_one_that_was_meant() -> None:
    with pytest.raises(DataError, match=r"no key 'promt'. Did you mean 'prompt'\?"):
        Task.from_json({"name": "s", "promt": PROMPT})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(DataError, match="needs the key 'prompt'"):
        Task.from_json({"name": "s"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": "no placeholder"}, "holds it 0 times"),
        ({"prompt": "{dialogue} {dialogue}"}, "holds it 2 times"),
        ({"prompt": "{dialog}"}, "exactly once"),
        ({"name": " "}, "name must be text"),
        ({"name": "a\nb"}, "one line"),
        ({"prompt": 3}, "prompt must be text"),
        ({"reference_columns": "second"}, r"Pass reference_columns=\['second'\]"),
        ({"target_column": "dialogue"}, "as input and as target"),
        ({"max_input_tokens": 0}, "max_input_tokens"),
        ({"max_target_tokens": True}, "max_target_tokens"),
        ({"max_target_tokens": 1.5}, "max_target_tokens"),
        ({"decoding": [1]}, "must map names to values"),
        ({"decoding": {"stop": object()}}, "JSON values only"),
    ],
)
def test_what_cannot_work_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Task(**({"name": "s", "prompt": PROMPT} | values))  # type: ignore[arg-type]


@pytest.mark.parametrize("module", ["task", "adapter_dir", "record", "lock", "atomic", "card"])
def test_importing_the_modules_of_adapters_loads_nothing_heavy(module: str) -> None:
    heavy = ("torch", "transformers", "peft", "datasets", "matplotlib")
    script = f"import hfplug.adapters.{module}, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
