"""Rows come in from anywhere a user keeps them, and a mistake is told with its cure."""

from __future__ import annotations

import json
import os
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, DatasetDict

from hfplug.adapters.task import Task
from hfplug.errors import DataError
from hfplug.training.dataset import (
    Example,
    check_columns,
    data_sha256,
    default_splits,
    examples_from,
    group_references,
    load_data,
    pick_split,
)

TASK = Task(name="summary", prompt="Summarize.\n\n{dialogue}\n\nSummary:")
ROWS = [{"dialogue": f"#Person1#: Hello {n}.", "summary": f"Greeting {n}."} for n in range(10)]
REAL = Path(__file__).parents[3] / "shared" / "data" / "dialogsum.dev.jsonl"


def _jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _file(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


# -- what can be read -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "list.json", "rows.csv", "rows.tsv", "rows.parquet"])
def test_the_same_rows_come_out_of_every_kind_of_file(tmp_path, name):
    path = tmp_path / name
    if name == "list.json":
        path.write_text(json.dumps(ROWS, indent=1))
    elif path.suffix in (".json", ".jsonl"):
        path.write_text(_jsonl(ROWS))
    elif path.suffix == ".parquet":
        Dataset.from_list(ROWS).to_parquet(str(path))
    else:
        Dataset.from_list(ROWS).to_csv(str(path), sep="\t" if path.suffix == ".tsv" else ",")
    data = load_data(str(path))
    assert list(data) == ["train"]
    assert data["train"].to_list() == ROWS


def test_a_folder_gives_a_split_for_each_file_by_its_name(tmp_path):
    _file(tmp_path, "dialogsum.train.jsonl", _jsonl(ROWS[:6]))
    _file(tmp_path, "dialogsum.dev.csv", "dialogue,summary\na,b\n")
    _file(tmp_path, "dialogsum.test.jsonl", _jsonl(ROWS[6:]))
    _file(tmp_path, "README.md", "about the data")
    data = load_data(str(tmp_path))
    assert {name: rows.num_rows for name, rows in data.items()} == {"train": 6, "validation": 1, "test": 4}


def test_the_shards_of_a_split_are_put_together_in_order(tmp_path):
    _file(tmp_path, "train-00001-of-00002.jsonl", _jsonl(ROWS[5:]))
    _file(tmp_path, "train-00000-of-00002.jsonl", _jsonl(ROWS[:5]))
    assert load_data(str(tmp_path))["train"].to_list() == ROWS


@pytest.mark.parametrize("saved", [Dataset.from_list(ROWS), DatasetDict({"train": Dataset.from_list(ROWS)})])
def test_a_folder_of_save_to_disk_is_read_back(tmp_path, saved):
    saved.save_to_disk(str(tmp_path / "saved"))
    assert load_data(str(tmp_path / "saved"))["train"].to_list() == ROWS


def test_texts_arrive_as_they_were_written(tmp_path):
    rows = [
        {"dialogue": "2024-01-01 10:00:00", "summary": "None"},
        {"dialogue": 'a, "b"\nc\u2028d', "summary": "NA"},
        {"dialogue": "[x]", "summary": "2024"},
    ]
    jsonl = _file(tmp_path, "r.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    Dataset.from_list(rows).to_csv(str(tmp_path / "r.csv"))
    assert load_data(jsonl)["train"].to_list() == rows
    assert load_data(str(tmp_path / "r.csv"))["train"].to_list() == rows


def test_a_column_may_hold_one_reference_here_and_several_there(tmp_path):
    rows = [{"dialogue": "a", "summary": "x"}, {"dialogue": "b", "summary": ["y", "z"]}, {"dialogue": "c"}]
    data = load_data(_file(tmp_path, "r.jsonl", _jsonl(rows)))
    assert data["train"]["summary"] == [["x"], ["y", "z"], None]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    for name, text in (("a.csv", "dialogue,summary\na,b\n"), ("a.jsonl", _jsonl([{"dialogue": "a"}]))):
        assert load_data(_file(tmp_path, name, b"\xef\xbb\xbf" + text.encode()))["train"][0]["dialogue"] == "a"


def test_a_field_longer_than_the_csv_module_allows_is_read_and_the_limit_put_back(tmp_path):
    import csv

    before = csv.field_size_limit()
    data = load_data(_file(tmp_path, "long.csv", "dialogue,summary\n" + "a" * 200_000 + ",b\n"))
    assert len(data["train"][0]["dialogue"]) == 200_000
    assert csv.field_size_limit() == before


def test_reading_touches_nothing_of_the_users(tmp_path, monkeypatch, capfd):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(home / "cache"))
    source = _file(tmp_path, "data/train.jsonl", _jsonl(ROWS))
    were_off = datasets.utils.are_progress_bars_disabled()
    load_data(source)
    load_data(str(tmp_path / "data"))
    assert datasets.utils.are_progress_bars_disabled() is were_off
    assert list(home.iterdir()) == []
    assert os.listdir(tmp_path / "data") == ["train.jsonl"]
    assert capfd.readouterr() == ("", "")


# -- what cannot be read ----------------------------------------------------------------------------

GOOD = '{"dialogue": "a", "summary": "b"}\n'


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", GOOD + '{"dialogue": oops}\n' + GOOD, "line 2: no valid JSON"),
        ("a.jsonl", GOOD + "\n[1, 2]\n", "line 3: a JSON object is needed; got a list"),
        ("a.json", '[{"dialogue": "a"},\n {"dialogue": }]', "line 2: no valid JSON"),
        ("a.json", GOOD + "{oops\n", "line 2: no valid JSON"),
        ("a.json", '["a", "b"]', "entry 1 of the list: an object is needed; got a text"),
        (
            "a.json",
            '{"version": 1, "data": [{"dialogue": "a"}]}',
            "entries under 'data' into a file of their own",
        ),
        ("a.json", "3", "got a number"),
        ("a.json", "[]", "has no rows"),
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", "\n\n", "has no rows"),
        ("a.json", "\n\n", "has no rows"),
        ("a.csv", "dialogue,summary\n", "has no rows"),
        ("a.csv", "dialogue,summary\na,b\nc,d,e\n", "line 3: 3 fields, but the header has 2"),
        ("a.csv", 'dialogue,summary\n"a,b\n', "line 2: unexpected end of data"),
        ("a.csv", "dialogue,dialogue\na,b\n", "named twice"),
        ("a.csv", "dialogue,summary\ncafé,x\n".encode("latin-1"), "is not UTF-8"),
        ("a.jsonl", '{"dialogue": "café"}\n'.encode("latin-1"), "is not UTF-8"),
        (
            "a.jsonl",
            '{"dialogue": "a"}\n{"dialogue": {"b": 1}}\n',
            "holds a text (line 1) and an object (line 2)",
        ),
        ("a.parquet", "PAR0", "cannot be read as Parquet"),
        ("a.xml", "<a/>", "Pass a file that ends in .json, .jsonl, .csv, .tsv, .parquet"),
        ("README", "a", "no extension"),
    ],
)
def test_a_broken_file_is_named_with_the_place_and_the_cure(tmp_path, name, content, said):
    with pytest.raises(DataError) as caught:
        load_data(_file(tmp_path, name, content))
    assert said in str(caught.value)
    assert name in str(caught.value)
    assert caught.value.fix
    assert "\n" not in str(caught.value)


def test_a_path_that_does_not_exist_is_no_hub_id(tmp_path):
    path = _file(tmp_path, "rows.jsonl", GOOD)
    with pytest.raises(DataError, match=r"Did you mean 'rows.jsonl'\?"):
        load_data(path.replace("rows", "row"))
    for source in ("./nothing", "no/such/file.csv", str(tmp_path / "gone" / "x"), "two words"):
        with pytest.raises(DataError, match="There is no file or folder"):
            load_data(source)


def test_a_hub_id_that_cannot_be_reached_says_so(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="the Hub cannot be reached") as caught:
        load_data("nobody-at-all/no-such-rows")
    assert "pass a local file or folder" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ValueError("Config name is missing.\nPlease pick one among the available configs: ['1.0.0', '3.0.0']"),
            "['1.0.0', '3.0.0']. Pass one after a colon, e.g. owner/rows:NAME",
        ),
        (datasets.exceptions.DatasetNotFoundError("Dataset doesn't exist"), "hf auth login"),
        (ConnectionError("Couldn't reach 'owner/rows' on the Hub"), "the Hub cannot be reached"),
        (RuntimeError("something else\nover two lines"), "RuntimeError: something else. Check the name"),
    ],
)
def test_what_the_hub_refuses_is_told_on_one_line(monkeypatch, error, said):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError) as caught:
        load_data("owner/rows", revision="v2")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_configuration_is_named_after_a_colon(monkeypatch):
    asked = []
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *args, **kwargs: asked.append((args, kwargs)) or DatasetDict({"train": Dataset.from_list(ROWS)}),
    )
    assert load_data("owner/rows:3.0.0", revision="v2")["train"].num_rows == 10
    assert asked == [(("owner/rows", "3.0.0"), {"revision": "v2"})]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds no data file; it holds nothing"),
        ({"notes.txt": "a"}, "notes.txt"),
        ({"a.jsonl": GOOD, "b.jsonl": GOOD}, "do not say which split"),
        ({"train.jsonl": GOOD, "train.csv": "a,b\n1,2\n"}, "there more than once"),
        ({"train-0.jsonl": GOOD, "train-1.jsonl": '{"dialogue": {"a": 1}}\n'}, "different columns"),
        ({"dataset_dict.json": "{}"}, "save_to_disk"),
    ],
)
def test_a_folder_that_is_not_clear_is_not_guessed_at(tmp_path, files, said):
    for name, content in files.items():
        _file(tmp_path, name, content)
    with pytest.raises(DataError) as caught:
        load_data(str(tmp_path))
    assert said in str(caught.value)


def test_a_revision_of_a_local_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="Leave the revision out"):
        load_data(_file(tmp_path, "a.jsonl", GOOD), revision="main")


# -- splits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "first", "count"),
    [
        ("train", 0, 10),
        ("train[:4]", 0, 4),
        ("train[4:6]", 4, 2),
        ("train[:80%]", 0, 8),
        ("train[80%:]", 8, 2),
        ("train[-3:]", 7, 3),
        ("train[2:4]+train[:1]", 2, 3),
    ],
)
def test_a_split_is_cut_as_datasets_writes_it(split, first, count):
    rows = pick_split({"train": Dataset.from_list(ROWS)}, split)
    assert rows.num_rows == count
    assert rows[0] == ROWS[first]


def test_a_split_of_another_name_lists_those_that_there_are():
    data = DatasetDict({"train": Dataset.from_list(ROWS), "validation": Dataset.from_list(ROWS[:2])})
    with pytest.raises(DataError) as caught:
        pick_split(data, "trian[:3]")
    assert "'train' (10 rows), 'validation' (2 rows). Did you mean 'train'?" in str(caught.value)
    assert pick_split(data, "dev").num_rows == 2


@pytest.mark.parametrize("split", ["train[4:4]", "train[5:2]", "train[20:]"])
def test_a_cut_that_leaves_no_row_is_refused(split):
    with pytest.raises(DataError, match="has no rows"):
        pick_split({"train": Dataset.from_list(ROWS)}, split)


@pytest.mark.parametrize("split", ["train[", "train[a:b]", "train[:4]x", "train[:150%]"])
def test_a_cut_that_cannot_be_understood_shows_how_to_write_one(split):
    with pytest.raises(DataError, match=r"Write 'train'.*'train\[:80%\]'"):
        pick_split({"train": Dataset.from_list(ROWS)}, split)


def test_the_default_is_to_score_on_test_then_on_validation():
    rows = Dataset.from_list(ROWS)
    assert default_splits({"train": rows, "validation": rows, "test": rows}) == ("train", "test")
    assert default_splits({"train": rows, "validation": rows}) == ("train", "validation")


def test_with_one_split_the_error_shows_how_to_cut_it():
    with pytest.raises(DataError, match="one split only") as caught:
        default_splits({"train": Dataset.from_list(ROWS)})
    assert "--train-split 'train[:80%]' --eval-split 'train[80%:]'" in str(caught.value)


def test_without_a_split_to_score_on_the_error_lists_the_splits():
    with pytest.raises(DataError, match=r"no split 'test'; there are 'train' \(10 rows\), 'extra' \(10 rows\)"):
        default_splits({"train": Dataset.from_list(ROWS), "extra": Dataset.from_list(ROWS)})


# -- columns and rows -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "flags"),
    [
        (["dialog", "summary"], "--input-column dialog --target-column summary"),
        (["article", "highlights", "id"], "--input-column article --target-column highlights"),
        (["Dialogue", "Summary"], "--input-column Dialogue --target-column Summary"),
        (["text", "summary_1"], "--input-column text --target-column summary_1"),
        (["foo", "bar"], "--input-column NAME --target-column NAME"),
    ],
)
def test_a_missing_column_is_told_with_the_flags_to_pass(columns, flags):
    dataset = Dataset.from_dict({column: ["a"] for column in columns})
    with pytest.raises(DataError) as caught:
        check_columns(dataset, TASK)
    assert str(columns) in str(caught.value)
    assert flags in str(caught.value)


def test_missing_reference_columns_are_told_as_one_list():
    task = Task(name="s", prompt="{dialogue}", reference_columns=("summary2", "summary3"))
    dataset = Dataset.from_dict({name: ["a"] for name in ("dialogue", "summary", "summary_2", "summary_3")})
    with pytest.raises(DataError, match="no column 'summary2' and no column 'summary3'") as caught:
        check_columns(dataset, task)
    assert str(caught.value).endswith(
        "--input-column dialogue --target-column summary --reference-columns summary_2,summary_3"
    )


def test_columns_that_are_there_pass_in_silence():
    check_columns(Dataset.from_list(ROWS), TASK)


def test_a_row_becomes_an_example_with_all_its_references():
    task = Task(name="s", prompt="{dialogue}", target_column="summary1", reference_columns=("summary2",))
    rows = Dataset.from_list([{"dialogue": "a", "summary1": "x", "summary2": "y", "topic": "t"}])
    assert examples_from(rows, task) == [Example(0, "a", ("x", "y"))]


def test_empty_rows_are_counted_and_can_be_skipped():
    rows = [*ROWS[:2], {"dialogue": " ", "summary": "x"}, {"dialogue": "a", "summary": None}, ROWS[2]]
    with pytest.raises(DataError, match=r"2 of 5 rows .* \(rows 2, 3, counted from 0\)") as caught:
        examples_from(Dataset.from_list(rows), TASK)
    assert "--empty-rows skip" in str(caught.value)
    kept = examples_from(Dataset.from_list(rows), TASK, empty_rows="skip")
    assert [example.id for example in kept] == [0, 1, 4]


def test_rows_that_are_all_empty_are_refused_even_when_skipped():
    with pytest.raises(DataError, match="None of the 1 rows"):
        examples_from(Dataset.from_list([{"dialogue": "", "summary": "x"}]), TASK, empty_rows="skip")


def test_a_column_that_holds_no_text_is_refused():
    with pytest.raises(DataError, match="Row 0: column 'dialogue' must hold text; got int"):
        examples_from(Dataset.from_list([{"dialogue": 3, "summary": "x"}]), TASK)


def test_rows_of_one_dialogue_are_one_example_with_all_references():
    rows = [Example(0, "a", ("x",)), Example(1, "b", ("y",)), Example(2, "a", ("z", "x"))]
    assert group_references(rows) == [Example(0, "a", ("x", "z", "x")), Example(1, "b", ("y",))]


def test_the_hash_of_the_data_follows_texts_and_order_only():
    rows = [Example(0, "a", ("x",)), Example(1, "b", ("y",))]
    moved = [Example(5, "a", ("x",)), Example(9, "b", ("y",))]
    assert data_sha256(rows) == data_sha256(moved)
    others = [rows[::-1], rows[:1], [Example(0, "a", ("x", "y")), rows[1]], [Example(0, "ax", ()), rows[1]]]
    assert len({data_sha256(other) for other in (rows, *others)}) == 5


@pytest.mark.skipif(not REAL.exists(), reason=f"the DialogSum rows are not at {REAL}")
def test_the_rows_of_dialogsum_become_examples():
    data = load_data(str(REAL))
    train = examples_from(pick_split(data, "train[:400]"), TASK)
    assert len(train) == 400
    assert train[1].text.startswith("#Person1#: Hey Jimmy.")
    assert len(examples_from(pick_split(data, "train[400:]"), TASK)) == 100
