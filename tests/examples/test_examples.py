"""Every example runs and does what it says: a whole adapter, a loss that fell, the numbers that it prints."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

import hfplug
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.demo.tasks import TASKS, load_demo_data

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DIALOGSUM = ROOT.parent / "shared" / "data" / "dialogsum.dev.jsonl"
NOTEBOOK = EXAMPLES / "dialogsum_lab.ipynb"
FEW_ROWS = ["--train_split", "train[:96]", "--eval_split", "validation[:8]", "--max_steps", "8"]
# Script -> the flags that make it quick.
QUICK = {
    "seq2seq_trainer.py": FEW_ROWS,
    "causal_chat.py": FEW_ROWS,
    "sequence_classifier.py": ["--max_steps", "16", "--per_device_train_batch_size", "8"],
    "trl_sft.py": FEW_ROWS,
    "per_task_adapters.py": ["--steps", "6"],
    "side_by_side.py": ["--steps", "6"],
}
# These leave several adapters, so their tests are their own.
SEVERAL = ("per_task_adapters.py", "side_by_side.py")
AUTO_CLASSES = {
    "SEQ_2_SEQ_LM": AutoModelForSeq2SeqLM,
    "CAUSAL_LM": AutoModelForCausalLM,
    "SEQ_CLS": AutoModelForSequenceClassification,
}


def run_example(name: str, *arguments: str, cwd: Path) -> str:
    """What a script printed, run by itself in an empty folder and without a network."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def losses(printed: str) -> list[tuple[float, float]]:
    """Pairs of the loss before and after, as the scripts print them."""
    before, after = (re.findall(rf"^{word}: eval_loss ([\d.]+)", printed, re.M) for word in ("before", "after"))
    arrows = re.findall(r"eval_loss ([\d.]+) -> ([\d.]+)", printed)
    return [(float(first), float(last)) for first, last in [*zip(before, after, strict=True), *arrows]]


def check_adapter(folder: Path) -> AdapterDir:
    """The folder is whole, and plain PEFT gives the logits that hfplug gives."""
    adapter = AdapterDir.open(folder)
    assert adapter.record.steps > 0 and adapter.lock is not None and (folder / "README.md").is_file()
    labels = {"num_labels": adapter.num_labels} if adapter.num_labels else {}
    base = AUTO_CLASSES[adapter.config["task_type"]].from_pretrained(adapter.base_name, **labels)
    plain = PeftModel.from_pretrained(base, folder).eval()
    ids = torch.tensor([[*range(40, 60), 1]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if adapter.config["task_type"] == "SEQ_2_SEQ_LM":
        inputs["decoder_input_ids"] = torch.tensor([[0, 41, 42]])
    with torch.no_grad():
        tuned = plain(**inputs).logits
        assert torch.equal(tuned, hfplug.load_adapter(folder)(**inputs).logits)
        with plain.disable_adapter():
            assert not torch.equal(tuned, plain(**inputs).logits)
    return adapter


def test_every_file_in_the_folder_is_run_and_named_in_the_readme():
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert files == {*QUICK, NOTEBOOK.name}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in sorted(files) if f"examples/{name}" not in readme] == []


@pytest.mark.parametrize(
    "name",
    [
        name if name == "seq2seq_trainer.py" else pytest.param(name, marks=pytest.mark.slow)
        for name in QUICK
        if name not in SEVERAL
    ],
)
def test_a_trainer_script_leaves_a_whole_adapter_and_prints_what_it_did(name, tmp_path):
    printed = run_example(name, "--output_dir", "out", *QUICK[name], cwd=tmp_path)
    [(before, after)] = losses(printed)
    assert after < before
    adapter = check_adapter(tmp_path / "out" / "adapter")
    trained = adapter.record.parameter_efficiency["trainable_parameters"]
    assert f"trained: {trained:,} of " in printed
    assert f"adapter: out/adapter ({adapter.weight_bytes:,} bytes" in printed
    assert adapter.record.steps == int(QUICK[name][QUICK[name].index("--max_steps") + 1])
    if adapter.num_labels:  # the classes keep their names
        assert hfplug.load_adapter(adapter.path).config.id2label[0] == adapter.lock.label_names[0] == "bakery"


@pytest.mark.slow
def test_each_task_has_an_adapter_of_its_own_over_one_base(tmp_path):
    printed = run_example("per_task_adapters.py", "--output_dir", "out", *QUICK["per_task_adapters.py"], cwd=tmp_path)
    assert len(losses(printed)) == len(TASKS) and all(after < before for before, after in losses(printed))
    adapters = {name: check_adapter(tmp_path / "out" / name / "adapter") for name in TASKS}
    assert {name: adapter.task for name, adapter in adapters.items()} == dict(TASKS)
    total = sum(adapter.weight_bytes for adapter in adapters.values())
    assert f"{len(TASKS)} adapters: {total:,} bytes" in printed
    # Each adapter says something else than the base did to the same question, and than the other adapters.
    said = dict(re.findall(r"^(\w+, (?:base|adapter)): (.*)$", printed, re.M))
    assert len(said) == 2 * len(TASKS)
    assert all(said[f"{name}, adapter"] != said[f"{name}, base"] for name in TASKS)


@pytest.mark.slow
def test_the_base_and_its_variants_answer_side_by_side(tmp_path):
    printed = run_example("side_by_side.py", "--output_dir", "out", *QUICK["side_by_side.py"], cwd=tmp_path)
    answers = re.findall(r"^(\w+) \((?:as it was loaded|[\d,]+ trained, [\d,]+ bytes)\): ['\"]", printed, re.M)
    assert sorted(answers) == ["base", "ia3", "lora"]
    assert "The base is what was loaded" in printed
    model = hfplug.load_adapter(check_adapter(tmp_path / "out" / "lora" / "adapter").path)
    assert f"lora ({sum(p.numel() for n, p in model.named_parameters() if 'lora_' in n):,} trained" in printed


def test_the_two_lines_are_marked_in_every_trainer_script():
    for name in QUICK.keys() - set(SEVERAL):
        lines = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
        first, second = ([line for line in lines if f"# hfplug: {word} line" in line] for word in ("first", "second"))
        assert len(first) == 1 and re.search(r"= hfplug\.(apply_method|build_model)\(", first[0])
        assert len(second) == 1 and "callbacks=hfplug.adapter_callbacks(" in second[0]


def executed(tmp_path: Path, parameters: str, data: str | None = None) -> tuple[str, nbformat.NotebookNode]:
    """Run the lab with other parameters, and on other data; gives all that it printed, and the notebook."""
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    if data is not None:
        [cell] = [cell for cell in notebook.cells if cell.source.startswith("from hfplug.demo.base import base_path")]
        cell.source, changed = re.subn(r'^DATA = "built-in"', f"DATA = {data!r}", cell.source, flags=re.M)
        assert changed == 1
    place = next(n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(parameters))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    return printed_by(notebook), notebook


def printed_by(notebook: nbformat.NotebookNode) -> str:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def pictures_of(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
def test_the_lab_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    printed, notebook = executed(tmp_path, "EPOCHS, TRAIN_ROWS, TEST_ROWS = 1, 32, 8")
    assert "same weights: True" in printed and "same answers: True" in printed
    assert "-100" in printed  # the labels that are padding
    assert re.search(r"^full - base +[+-]\d", printed, re.M) and re.search(r"^lora - base +[+-]\d", printed, re.M)
    assert pictures_of(notebook) == 1
    lora = check_adapter(tmp_path / "hfplug-examples" / "lab" / "lora" / "adapter")
    assert lora.config["r"] == 32 and sorted(lora.config["target_modules"]) == ["q", "v"]
    assert AdapterDir.open(tmp_path / "hfplug-examples" / "lab" / "full" / "adapter").kind == "full"
    curve = lora.record.loss_curve
    assert curve[-1][1] < curve[0][1]


def test_the_lab_is_stored_with_the_outputs_of_a_whole_run():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data"}
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    assert pictures_of(notebook) == 1
    printed = printed_by(notebook)
    assert "same weights: True" in printed and "same answers: True" in printed
    points = {name: float(value) for name, value in re.findall(r"^(\w+) - base +\+([\d.]+)", printed, re.M)}
    assert points.keys() == {"full", "lora"} and min(points.values()) > 20
    # A path that begins at the root is one of the machine that it ran on.
    assert re.findall(r"(?:^|[\s'\"(=])(/[\w.-]+/[\w./-]+)", printed, re.M) == []


@pytest.mark.slow
def test_the_lab_runs_on_data_in_the_shape_of_dialogsum(tmp_path, monkeypatch):
    """Its test split repeats each dialogue once for each of its three summaries; there is no second column of them."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "data").mkdir()
    for split, rows in load_demo_data(train=32, validation=8, test=6).items():
        lines = [
            json.dumps({"id": f"{row['id']}_{n}", "dialogue": row["dialogue"], "summary": row["summary"], "topic": "x"})
            for row in rows
            for n in range(3 if split == "test" else 1)
        ]
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(lines))
    printed, _ = executed(tmp_path, "EPOCHS = 1", data=str(tmp_path / "data"))
    assert "32 dialogues to train on, 8 to watch, 6 to score" in printed
    assert printed.partition("base: ")[0].count("\nhuman: ") == 3
    assert "same weights: True" in printed and "same answers: True" in printed


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_script_without_flags_does_its_whole_work(name, tmp_path):
    printed = run_example(name, cwd=tmp_path)
    assert losses(printed) and all(after < 0.8 * before for before, after in losses(printed))
    adapters = list((tmp_path / "hfplug-examples").rglob("adapter"))
    assert len(adapters) == (len(TASKS) if name == "per_task_adapters.py" else 1)


@pytest.mark.slow
@pytest.mark.skipif(not DIALOGSUM.is_file(), reason=f"there is no {DIALOGSUM.name} in ../shared/data")
@pytest.mark.parametrize("name", ["seq2seq_trainer.py", "causal_chat.py", "trl_sft.py"])
def test_a_script_trains_on_real_dialogues_from_a_file(name, tmp_path):
    rows = ["--train_split", "train[:32]", "--eval_split", "train[400:408]", "--max_steps", "4"]
    printed = run_example(name, "--data", str(DIALOGSUM), *rows, cwd=tmp_path)
    [(before, after)] = losses(printed)
    assert after < before
