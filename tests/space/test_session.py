"""What a tab remembers, and blind rounds."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest

from hfplug.errors import ServingError
from hfplug.space.columns import Column
from hfplug.space.results import run_csv, run_json, run_json_text, run_markdown
from hfplug.space.session import RUNS_KEPT, BlindRounds, Run, Session, Sessions, shuffled

COLUMNS = (
    Column(name="base", kind="base", state="done", text="=1+1", tokens=3, disk_bytes=10),
    Column(name="lora", kind="adapter", method="lora", state="done", text="A | *b*\nc", rouge={"rouge1": 0.25}),
)


def run(**more):
    return Run(dialogue="Ann: Hi.", columns=COLUMNS, decoding={"seed": 7}, **more)


def test_a_session_keeps_the_last_runs_and_no_open_blind_round():
    session = Session()
    for number in range(RUNS_KEPT + 3):
        session = session.with_run(Run(dialogue=str(number)))
    assert [one.dialogue for one in session.runs] == [str(number) for number in range(3, RUNS_KEPT + 3)]
    blind = run(blind="open")
    session = session.with_run(blind)
    assert session.shown is blind and blind not in session.runs
    assert session.with_run(blind.revealed("lora")).runs[-1].choice == "lora"


def test_tabs_have_sessions_of_their_own_and_old_ones_are_forgotten():
    sessions = Sessions(most=2)
    sessions.change("a", lambda session: session.with_run(run()))
    assert len(sessions.of("a").runs) == 1 and sessions.of("b").runs == ()
    sessions.of("a")
    sessions.of("c")  # b was used longest ago
    assert len(sessions.of("a").runs) == 1
    sessions = Sessions(seconds=0.0)
    sessions.change("a", lambda session: session.with_run(run()))
    sessions.of("b")
    assert sessions.of("a").runs == ()


def test_a_vote_names_the_variant_behind_a_label():
    blind = run(blind="open")
    assert [blind.variant_behind(choice) for choice in ("Answer A", "Answer B", "tie", "neither")] == [
        "base", "lora", "tie", "neither",
    ]  # fmt: skip
    with pytest.raises(ServingError, match="is not an answer of this round"):
        blind.variant_behind("lora")


def test_a_blind_round_is_taken_once_and_the_oldest_are_forgotten():
    rounds, runs = BlindRounds(most=2), [run(blind="open") for _ in range(3)]
    for one in runs:
        rounds.put(one)
    with pytest.raises(ServingError, match="no open blind round"):
        rounds.look(runs[0].id)
    assert rounds.look(runs[2].id) is rounds.take(runs[2].id)
    with pytest.raises(ServingError, match="no open blind round"):
        rounds.take(runs[2].id)


def test_shuffling_keeps_every_name_and_uses_every_order():
    orders = {tuple(shuffled("abc")) for _ in range(500)}
    assert len(orders) == 6 and all(sorted(order) == ["a", "b", "c"] for order in orders)


def test_an_open_blind_round_has_no_name_in_any_file():
    blind = dataclasses.replace(run(blind="open"), columns=(*COLUMNS, dataclasses.replace(COLUMNS[1], problem="lora!")))
    for text in (run_json_text(blind), run_csv(blind), run_markdown(blind)):
        assert "lora" not in text and '"base"' not in text
    shown = run_json(blind.revealed("lora"))
    assert [column["variant"] for column in shown["columns"]] == ["base", "lora", "lora"]
    assert shown["columns"][1]["label"] == "Answer B" and shown["choice"] == "lora"


def test_json_csv_and_markdown_hold_the_answers_and_figures():
    assert json.loads(run_json_text(run()))["columns"][1]["rouge"] == {"rouge1": 0.25}
    rows = list(csv.DictReader(io.StringIO(run_csv(run()))))
    assert [row["variant"] for row in rows] == ["base", "lora"]
    assert rows[0]["text"] == "'=1+1"  # not a formula in a spreadsheet
    assert (rows[1]["rouge1"], rows[1]["rougeL"], rows[1]["tokens_per_second"]) == ("0.25", "", "")
    table = run_markdown(run())
    assert "**lora**: A \\| \\*b\\* c" in table and "seed 7" in table
