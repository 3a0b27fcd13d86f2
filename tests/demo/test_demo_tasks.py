"""The three tasks over one dialogue."""

from __future__ import annotations

import pytest

from hfplug.demo.tasks import TASKS, load_demo_data


def test_three_tasks_ask_about_the_same_dialogue():
    row = load_demo_data(train=1, validation=1, test=1)["test"][0]
    prompts = {name: task.render(row["dialogue"]) for name, task in TASKS.items()}
    assert list(TASKS) == ["summary", "title", "action_items"]
    assert all(row["dialogue"] in prompt for prompt in prompts.values())
    assert len(set(prompts.values())) == len({task.instruction for task in TASKS.values()}) == 3


def test_a_summary_has_two_references_and_the_others_one():
    row = load_demo_data(train=1, validation=1, test=1)["train"][0]
    assert TASKS["summary"].references(row) == [row["summary"], row["reference_2"]]
    assert TASKS["title"].references(row) == [row["title"]]
    assert TASKS["action_items"].references(row) == [row["action_items"]]


@pytest.mark.parametrize("name", list(TASKS))
def test_a_task_survives_json(name):
    task = TASKS[name]
    assert type(task).from_json(task.to_json()) == task


def test_the_rows_of_the_demo_are_the_same_every_time_and_as_many_as_asked_for():
    sizes = {"train": 7, "validation": 3, "test": 5}
    data = load_demo_data(**sizes)
    assert data == load_demo_data(**sizes)
    assert {split: len(rows) for split, rows in data.items()} == sizes
