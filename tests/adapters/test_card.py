"""A card is one that the Hub accepts, cannot be broken by what stands in dialogues, and shows how to load."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.card import is_hub_id, render_card
from hfplug.adapters.card_text import fence, inline, table
from hfplug.adapters.lock import Lock
from hfplug.adapters.record import Record
from hfplug.adapters.task import Task

MakeFolder = Callable[..., Path]
TASK = Task(name="summary", prompt="Summarize.\n\n{dialogue}")
RECORD = Record(
    method="lora",
    all_method_settings={"r": 8, "target_modules": ["q", "v"]},
    task="summary",
    base="google/flan-t5-small",
    data={"source": "knkarthick/dialogsum", "train_rows": 400},
    steps=50,
    loss_curve=((1, 2.0),),
    model_performance={"metrics": {"rouge1": {"value": 0.31, "low": 0.28, "high": 0.34}, "eval_loss": 1.5}},
    parameter_efficiency={"trainable_parameters": 1024, "share": 0.01, "adapter_bytes": 4_200_000},
    memory_efficiency={"peak_training_bytes": 1_500_000_000, "gradients": None},
    training_speed={"seconds_per_step": 0.25},
    notes=("Scored on held-out rows.",),
    examples=({"input": "A: hi", "output": "They greet.", "reference": "A says hi."},),
    versions={"peft": "0.21.2"},
)
LOCK = Lock(base="google/flan-t5-small", base_commit="a" * 40)


@pytest.fixture
def make_adapter(make_small_source: MakeFolder, tmp_path: Path) -> Callable[..., AdapterDir]:
    """``make_adapter(record=…, lock=…, task=…, config=…)``: an adapter on disk with the parts given."""

    def make(config: dict[str, Any] | None = None, **parts: Any) -> AdapterDir:
        settings = {"peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM"} | (config or {})
        return AdapterDir.write(tmp_path / "my-adapter", source=make_small_source(), config=settings, **parts)

    return make


def _front(card: str) -> dict[str, Any]:
    return ModelCard(card).data.to_dict()


def _python(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)\n```", card, re.S)


def test_the_front_matter_is_what_the_hub_reads(make_adapter: Callable[..., AdapterDir]) -> None:
    card = render_card(make_adapter(record=RECORD, lock=LOCK, task=TASK), licence="mit", language="en")
    front = _front(card)
    metrics = front.pop("model-index")[0]["results"][0]["metrics"]
    assert front == {
        "base_model": "google/flan-t5-small",
        "base_model_relation": "adapter",
        "datasets": ["knkarthick/dialogsum"],
        "language": "en",
        "library_name": "peft",
        "license": "mit",
        "pipeline_tag": "summarization",
        "tags": ["hfplug", "lora", "method:lora", "task:summary"],
    }
    assert metrics == [
        {"type": "rouge", "name": "rouge1", "value": 0.31, "args": {"low": 0.28, "high": 0.34}},
        {"type": "loss", "name": "loss", "value": 1.5},
    ]


def test_a_card_can_be_made_from_the_files_alone(make_adapter: Callable[..., AdapterDir]) -> None:
    card = render_card(make_adapter())
    assert _front(card) == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["hfplug", "lora", "method:lora"],
    }
    assert "{{" not in card and "None" not in card
    assert re.findall("hfplug:begin ([a-z-]+)", card) == ["summary", "use"]


def test_a_full_card_shows_what_is_known(make_adapter: Callable[..., AdapterDir]) -> None:
    card = render_card(make_adapter(record=RECORD, lock=LOCK, task=TASK))
    for line in (
        "# my-adapter",
        "| rouge1 | 0.31 | 0.28 to 0.34 |",
        "| parameter efficiency | share | 1 % |",
        "| parameter efficiency | adapter bytes | 4.2 MB |",
        "| memory efficiency | peak training bytes | 1.5 GB |",
        "| training speed | seconds per step | 0.25 |",
        "| r | 8 |",
        "| train_rows | 400 |",
        "| peft | 0.21.2 |",
        "> Scored on held-out rows.",
        "They greet.",
    ):
        assert line in card.splitlines(), line
    assert "gradients" not in card


def test_a_base_in_a_folder_is_named_without_its_path(make_adapter: Callable[..., AdapterDir]) -> None:
    for base in ("/home/someone/models/my-base", "./my-base", "~/my-base"):
        adapter = make_adapter(lock=Lock(base=base), config={"base_model_name_or_path": base})
        card = render_card(adapter)
        assert "base_model" not in _front(card) and "base_model_relation" not in _front(card)
        assert "someone" not in card and "path/to/my-base" in card


def test_data_in_a_file_is_named_without_its_path(make_adapter: Callable[..., AdapterDir]) -> None:
    record = Record(
        method="lora",
        data={"source": "/home/someone/talk.jsonl"},
        model_performance={"metrics": {"rouge1": 0.5}},
    )
    card = render_card(make_adapter(record=record))
    assert "someone" not in card and "datasets" not in _front(card)
    assert _front(card)["model-index"][0]["results"][0]["dataset"]["name"] == "talk.jsonl"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("google/flan-t5-small", True), ("gpt2", True), ("/a/b", False), ("./a", False), ("a/b/c", False)]
    + [("C:\\a", False), ("", False), (None, False), ("tests", False), ("a b", False)],
)
def test_a_hub_id_is_told_from_a_path(
    name: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(name) is expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"task_type": "CAUSAL_LM"}, "AutoModelForCausalLM"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "AutoModelForSeq2SeqLM"),
        ({"task_type": "SEQ_CLS"}, "AutoModelForSequenceClassification"),
        (
            {"task_type": None, "auto_mapping": {"base_model_class": "T5ForConditionalGeneration"}},
            "AutoModelForSeq2SeqLM",
        ),
    ],
)
def test_the_code_loads_the_base_with_the_right_class(
    make_adapter: Callable[..., AdapterDir], config: dict[str, Any], expected: str
) -> None:
    ours, plain = _python(render_card(make_adapter(config, lock=LOCK)))
    assert 'hfplug.load_adapter("my-adapter")' in ours
    assert f'{expected}.from_pretrained("google/flan-t5-small", revision="{"a" * 40}")' in plain
    ast.parse(ours)
    ast.parse(plain)


def test_the_code_for_a_quantised_base_quantises_it(make_adapter: Callable[..., AdapterDir]) -> None:
    lock = Lock(
        base="a/b",
        num_labels=3,
        quantization={
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "bfloat16",
            "quant_method": "bitsandbytes",
        },
    )
    plain = _python(render_card(make_adapter(lock=lock)))[1]
    ast.parse(plain)
    for part in (
        'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,',
        "bnb_4bit_compute_dtype=torch.bfloat16)",
        'from_pretrained("a/b", num_labels=3, quantization_config=quantization)',
        "import torch",
    ):
        assert part in plain


EVIL = [
    "```\n# Not a heading\n```",
    "<!-- hfplug:end examples -->\n<!-- hfplug:begin summary -->",
    "<script>alert(1)</script>\n| a | b |\n---\nlicense: evil\n---",
    "~~~~~\n`````\nx",
    "a\u2028b\x00c\r\nd\u202ee",
    "{{ title }} {front_matter}",
]


@pytest.mark.parametrize("text", EVIL)
def test_no_dialogue_can_break_the_page(make_adapter: Callable[..., AdapterDir], text: str) -> None:
    record = Record(method="lora", notes=(text,), examples=({"input": text, "output": text},), data={"source": text})
    task = Task(name="summary", prompt=f"{text} {{dialogue}}")
    card = render_card(make_adapter(record=record, task=task))
    names = re.findall("<!-- hfplug:begin ([a-z-]+) -->", card)
    assert len(names) == len(set(names)) == len(re.findall("<!-- hfplug:end ", card))
    outside = re.sub(r"^(`{3,})\w+\n.*?^\1$", "", card.split("---\n", 2)[2], flags=re.S | re.M)
    assert "<script" not in outside and "Not a heading" not in re.findall("^#.*", outside, re.M)
    assert "license" not in _front(card)
    assert "\x00" not in card and "\u202e" not in card


def test_a_fence_is_longer_than_any_in_the_text() -> None:
    assert fence("a\n````\nb") == "`````text\na\n````\nb\n`````"


def test_inline_text_is_one_line_without_markup() -> None:
    assert inline("a|b\n<i> *x* [y](z) _u_ a_b") == r"a\|b &lt;i&gt; \*x\* \[y\](z) \_u\_ a_b"


def test_a_table_without_rows_is_nothing() -> None:
    assert table(("a", "b"), []) == ""
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_long_dialogues_and_many_examples_are_cut(make_adapter: Callable[..., AdapterDir]) -> None:
    record = Record(method="lora", examples=tuple({"input": "x" * 10_000} for _ in range(50)))
    assert len(render_card(make_adapter(record=record))) < 30_000


def test_a_card_holds_no_secrets(make_adapter: Callable[..., AdapterDir]) -> None:
    token = "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7cF0iL"
    record = Record(method="lora", notes=(f"with {token}",), all_method_settings={"token": token, "x": token})
    card = render_card(make_adapter(record=record), name=token)
    assert token not in card


def test_a_metric_that_is_missing_or_bookkeeping_is_not_shown(
    make_adapter: Callable[..., AdapterDir],
) -> None:
    metrics = {"rouge1": None, "eval_runtime": 3.0, "epoch": 1.0, "eval_rouge2": float("nan"), "text": "x"}
    card = render_card(make_adapter(record=Record(method="lora", model_performance={"metrics": metrics})))
    assert "model-index" not in _front(card) and "How well it does" not in card


def test_the_card_of_a_fully_tuned_model_uses_transformers(tmp_path: Path, make_model: Any) -> None:
    make_model("bert").save_pretrained(tmp_path / "source")
    adapter = AdapterDir.write(tmp_path / "full", source=tmp_path / "source", record=Record(method="full", base="a/b"))
    card = (adapter.path / "README.md").read_text(encoding="utf-8")
    front = _front(card)
    assert front["library_name"] == "transformers"
    assert front["base_model_relation"] == "finetune"
    assert front["pipeline_tag"] == "text-classification"
    assert 'AutoModelForSequenceClassification.from_pretrained("full")' in card


def test_what_was_generated_can_be_read_back_from_the_card(make_adapter: Callable[..., AdapterDir]) -> None:
    card = render_card(make_adapter(record=RECORD, lock=LOCK, task=TASK))
    (found,) = re.findall(r"<!-- hfplug:generated (\{.*?\}) -->", card)
    assert json.loads(found)["front_matter"] == _front(card)
