"""Heads beside the three tasks that bring every backbone: labels of tokens, answers, masked words, multiple choice."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import BertConfig
from transformers.models.mra import modeling_mra

import hfplug
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.card_front import auto_class
from hfplug.errors import MethodError
from hfplug.methods.method import modules_to_save
from hfplug.models.anatomy import new_modules, read_anatomy
from hfplug.models.base import read_task_type
from hfplug.models.soft_outputs import answer_loss
from hfplug.testing.architectures import batch_of, check_method, save_base
from hfplug.testing.tiny_models import FURTHER_TASKS, TASKS, text_pairs, tiny_model
from hfplug.training.exporter import lock_of, save_to

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architectures.md"


@pytest.fixture(scope="module")
def script():
    """The benchmark as a module."""
    made = importlib.util.spec_from_file_location("further_benchmark", ROOT / "benchmarks" / "architectures.py")
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    return module


@pytest.fixture
def base(tmp_path):
    def make(task, model_type="bert"):
        save_base(model_type, task, tmp_path / "base")
        return tmp_path / "base"

    return make


@pytest.mark.slow
@pytest.mark.parametrize("task", FURTHER_TASKS)
def test_lora_and_a_new_head_train_and_are_the_same_after_loading(base, task, tmp_path):
    found = check_method(base(task), task, "lora", tmp_path / "scratch")
    assert found.wrong == [] and found.figures["adapted"] > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("task", ["token_classification", "question_answering"])
@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_a_soft_prompt_gives_logits_of_the_text_alone(base, task, method, tmp_path):
    assert check_method(base(task), task, method, tmp_path / "scratch").wrong == []


def test_the_places_of_answers_are_those_of_the_text_also_behind_a_prompt(base):
    model = hfplug.build_model(base("question_answering"), "prompt_tuning", task_type="question_answering").eval()
    batch = batch_of(model.get_base_model(), "question_answering")
    output = model(**batch)
    start, end = batch["start_positions"], batch["end_positions"]
    assert output.start_logits.shape == batch["input_ids"].shape
    assert torch.allclose(output.loss, answer_loss(output.start_logits, output.end_logits, start, end))
    beyond = torch.tensor([1000, 0, 0, 0]) + start  # cut off by the tokenizer: it counts for nothing
    loss = model(**{**batch, "start_positions": beyond}).loss
    assert torch.allclose(loss, answer_loss(output.start_logits, output.end_logits, beyond, end))


def test_a_head_that_holds_what_peft_wraps_itself_is_named_by_its_other_parts():
    with torch.device("meta"):
        model = tiny_model("big_bird", "question_answering")
    named = modules_to_save(read_anatomy(model, "QUESTION_ANS"))
    assert "qa_classifier.intermediate" in named and not any(name.endswith("qa_outputs") for name in named)
    assert "qa_classifier" not in named


def test_a_head_beside_a_body_without_a_name_of_its_own_is_found():
    with torch.device("meta"):
        model = tiny_model("t5", "question_answering")
    assert new_modules(model, "QUESTION_ANS") == ("qa_outputs",)


@pytest.mark.slow
@pytest.mark.skipif(modeling_mra.mra_cuda_kernel is not None, reason="its kernel is there, so it attends")
def test_a_prompt_that_nothing_reads_is_refused_though_a_new_head_learns(base):
    with pytest.raises(MethodError, match="the prompt gets no gradient"):
        hfplug.build_model(base("token_classification", "mra"), "prompt_tuning", task_type="token_classification")


@pytest.mark.parametrize("task", ["masked_lm", "multiple_choice"])
def test_a_soft_prompt_is_refused_where_peft_has_no_name_for_the_task(base, task):
    with pytest.raises(MethodError, match="PEFT does not do on .* models. Use lora"):
        hfplug.build_model(base(task), "prompt_tuning", task_type=task)


@pytest.mark.parametrize("task", ["masked_lm", "multiple_choice"])
def test_an_adapter_knows_what_its_base_is_loaded_for_though_peft_has_no_name_for_it(base, task, tmp_path):
    model = hfplug.build_model(base(task), "lora", task_type=task).eval()
    lock = lock_of(model, None, task=None)
    save_to(model, tmp_path / "saved")
    adapter = AdapterDir.write(tmp_path / "adapter", source=tmp_path / "saved", lock=lock)
    loaded = hfplug.load_adapter(adapter.path)
    batch = batch_of(model.get_base_model(), task)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert auto_class(adapter) == FURTHER_TASKS[task][0]


@pytest.mark.parametrize(
    ("architecture", "task_type"),
    [
        ("BertForTokenClassification", "TOKEN_CLS"),
        ("BertForQuestionAnswering", "QUESTION_ANS"),
        ("BertForMultipleChoice", "MULTIPLE_CHOICE"),
    ],
)
def test_a_configuration_says_what_its_model_is_for(architecture, task_type):
    assert read_task_type(BertConfig(architectures=[architecture])) == task_type


def test_what_every_encoder_was_pretrained_as_says_nothing_of_what_it_is_wanted_for():
    with pytest.raises(hfplug.BaseModelError, match="masked_lm"):
        read_task_type(BertConfig(architectures=["BertForMaskedLM"]))


def test_the_page_has_a_section_of_the_further_heads_that_is_counted_apart(script):
    figures = {"figures": {"adapted": 1.0, "four_bit": 0.0}}
    works = {"model_type": "bert", "method": "lora", "end": "works", "said": "", **figures}
    masked = {"pair": "bert-masked_lm", "task": "masked_lm"}
    lines = [
        {**works, "pair": "bert-classification", "task": "classification"},
        {**works, **masked},
        {**works, **masked, "method": "norms", "end": "refused", "said": "this bert model has none"},
    ]
    first, further = script.markdown(lines).split("## Further heads")
    assert "| `lora` | 1 | 1 | 0 | 0 | 0 | 0 | 100% | 0% |" in first and "masked" not in first
    assert "| masked lm | `norms` | 1 | 0 | 1 | 0 | 0 | 0 | 0% | 0% |" in further
    assert "| masked lm | `norms` | refused | this … model has none | bert |" in further
    assert "## Further heads" not in script.markdown(lines[:1])


def told_of(page: str) -> dict[tuple[str, str], str]:
    """How each further pair and method that was asked ends, as the page says."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    asked = {(row[0].replace(" ", "_"), row[1].strip("`")): "works" for row in rows if len(row) == 10}
    ends = {f"{one.model_type}-{one.task}": one for one in text_pairs(FURTHER_TASKS)}
    found = {(name, method): "works" for name, pair in ends.items() for task, method in asked if task == pair.task}
    for row in rows:
        if len(row) == 5 and row[1].startswith("`"):
            task, method = row[0].replace(" ", "_"), row[1].strip("`")
            found |= {(f"{one}-{task}", method): row[2] for one in row[4].split(", ")}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("pair", text_pairs(FURTHER_TASKS), ids=lambda pair: pair.name)
def test_each_further_pair_ends_as_the_page_says(script, pair):
    told = {method: end for (name, method), end in told_of(PAGE.read_text()).items() if name == pair.name}
    if not told:
        pytest.skip("the page has no section of further heads yet")
    assert {line["method"]: line["end"] for line in script.in_a_child(pair, list(told))} == told


def test_further_tasks_are_none_of_the_first():
    assert not FURTHER_TASKS.keys() & TASKS.keys()
    assert not {one.name for one in text_pairs(FURTHER_TASKS)} & {one.name for one in text_pairs()}
