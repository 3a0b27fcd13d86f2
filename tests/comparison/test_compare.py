"""Adapters that exist beside their base: checked, asked, scored as in a study, and left as they are."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest
from compare_parts import COST, TASK, change_json, export, plain_loha, tree

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.load import load_adapter
from hfplug.comparison.compare import compare_adapters
from hfplug.comparison.compare_settings import CompareSettings, VariantSource
from hfplug.comparison.report import read_report
from hfplug.comparison.study_folder import read_predictions
from hfplug.demo.base import base_path
from hfplug.errors import HfplugError, StudyError
from hfplug.models.applicable import methods_for


@pytest.fixture(scope="module")
def small_base() -> Path:
    """The built-in base: a random one would answer nothing but padding."""
    return base_path()


@pytest.fixture(scope="module")
def adapters(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of several methods, all on the small base; only ``loha`` was not made with hfplug."""
    folder = tmp_path_factory.mktemp("adapters")
    made = {name: export(folder / name, small_base, name) for name in ("full", "lora", "prompt_tuning")}
    return {**made, "loha": plain_loha(folder / "loha", small_base)}


def settings_for(adapters: dict[str, Path], data: Path, out: Path, **changes) -> CompareSettings:
    variants = tuple(VariantSource(name=name, source=str(folder)) for name, folder in adapters.items())
    return CompareSettings(**{"variants": variants, "data": str(data), "out": out, **changes})


@pytest.fixture(scope="module")
def compared(adapters, dialogues, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("compared") / "out"
    before = {name: tree(folder) for name, folder in adapters.items()}
    compare_adapters(settings_for(adapters, dialogues, out))
    assert {name: tree(folder) for name, folder in adapters.items()} == before, "the adapters are the user's"
    return out


@pytest.fixture
def without_plots(monkeypatch):
    """As where matplotlib is not installed: drawing is most of the time of a comparison of eight rows."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def copied(adapters: dict[str, Path], name: str, to: Path) -> dict[str, Path]:
    """One of the adapters, at a place where it may be changed."""
    shutil.copytree(adapters[name], to)
    return {name: to}


def test_every_adapter_stands_beside_the_base_the_copied_turns_and_the_human(compared):
    variants = read_report(compared).variants
    assert [(variant.name, variant.kind, variant.method) for variant in variants] == [
        ("base", "base", None),
        ("full", "full", "full"),
        ("lora", "adapter", "lora"),
        ("prompt_tuning", "adapter", "prompt_tuning"),
        ("loha", "adapter", "loha"),
        ("first_turns", "baseline", None),
        ("human", "human", None),
    ]


def test_all_the_files_of_a_study_are_there_and_no_training(compared):
    names = {path.name for path in compared.iterdir()}
    assert names == {
        "comparison.json", "predictions", "variants", "dialogues.html",
        "report.json", "report.csv", "report.md", "report.html", "inside",
    }  # fmt: skip


def test_scores_intervals_and_paired_tests_are_those_of_a_study(compared):
    report = read_report(compared)
    for name in ("full", "lora", "prompt_tuning", "loha"):
        variant = report.variant(name)
        assert set(variant.metrics) == {"rouge1", "rouge2", "rougeL", "rougeLsum"}
        assert all(metric.low <= metric.value <= metric.high for metric in variant.metrics.values())
        assert set(variant.tests) == ({"base"} if name == "full" else {"base", "full"})


def test_the_answers_are_those_of_the_adapter_loaded_by_itself(compared, adapters, small_base):
    from transformers import AutoTokenizer

    from hfplug.serving.generate import generate_texts
    from hfplug.training.preprocess import Preprocessor

    model, tokenizer = load_adapter(adapters["lora"]), AutoTokenizer.from_pretrained(small_base)
    preprocessor = Preprocessor(TASK, tokenizer, encoder_decoder=True)
    rows = [line["dialogue"] for line in _test_rows(compared)]
    prompts = [preprocessor.prompt(text).input_ids for text in rows]
    alone = generate_texts(model, tokenizer, prompts, decoding=TASK.decoding, batch_size=16)
    assert read_predictions(compared / "predictions" / "lora.jsonl") == alone.texts
    assert alone.texts != read_predictions(compared / "predictions" / "base.jsonl")


def _test_rows(compared: Path) -> list[dict]:
    from hfplug.demo.world import generate

    return generate("test", 8)


def test_the_base_is_proved_untouched_and_switched_off_adapters_answer_as_it_does(compared):
    report = read_report(compared)
    assert report.base_untouched is True
    off = {variant.name: variant.switched_off_equals_base for variant in report.variants}
    assert (off["lora"], off["prompt_tuning"], off["loha"], off["full"]) == (True, True, True, None)


def test_what_training_cost_comes_from_the_record_and_is_unknown_without_one(compared, adapters):
    lora, loha = read_report(compared).variant("lora"), read_report(compared).variant("loha")
    assert lora.trainable_parameters == COST["parameter_efficiency"]["trainable_parameters"]
    assert dataclasses.asdict(lora.training_memory) == {
        name: COST["memory_efficiency"][name] for name in ("weights", "gradients", "optimizer_states", "rest")
    }
    assert (lora.seconds_per_step, lora.steps, lora.loss_curve) == (0.5, 7, ((1, 5.0), (7, 3.0)))
    unknown = ("trainable_parameters", "peak_training_bytes", "seconds_per_step", "steps", "learning_rate")
    assert {getattr(loha, field) for field in unknown} == {None}
    assert loha.adapter_bytes == AdapterDir.open(adapters["loha"]).weight_bytes
    assert loha.generated_tokens_per_second > 0


def test_each_variant_says_what_could_be_checked(compared):
    report = read_report(compared)
    notes = {variant.name: " ".join(variant.notes) for variant in report.variants}
    for name in ("full", "lora", "prompt_tuning"):
        assert "answers as it did for its author" in notes[name] and "its own record" in notes[name]
    for text in ("no lock", "no probe", "no record", "does not say what it was taught"):
        assert text in notes["loha"]


def test_each_adapter_has_a_page_of_what_is_inside_and_the_report_leads_there(compared):
    page = (compared / "report.html").read_text(encoding="utf-8")
    for name in ("full", "lora", "prompt_tuning", "loha"):
        assert f'<a href="inside/{name}.html">{name}</a>' in page
        inside = (compared / "inside" / f"{name}.html").read_text(encoding="utf-8")
        assert f"<h1>{name}: a look inside</h1>" in inside and 'href="../report.html"' in inside
    assert "How far each layer moved" in (compared / "inside" / "lora.html").read_text(encoding="utf-8")


def test_nothing_of_this_machine_is_in_the_report(compared, adapters, small_base):
    inside = [f"inside/{name}.html" for name in ("full", "lora", "prompt_tuning", "loha")]
    for file in ("report.json", "report.md", "report.html", "dialogues.html", *inside):
        text = (compared / file).read_text(encoding="utf-8")
        assert str(small_base) not in text and str(adapters["lora"].parent) not in text


def test_a_finished_comparison_is_not_asked_again_and_may_be_added_to(adapters, dialogues, tmp_path, without_plots):
    first = {name: adapters[name] for name in ("lora",)}
    compare_adapters(settings_for(first, dialogues, tmp_path / "out"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "predictions").glob("[bl]*")}
    report = compare_adapters(settings_for({**first, "again": adapters["lora"]}, dialogues, tmp_path / "out"))
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(before) == 2
    assert [variant.name for variant in report.variants][:3] == ["base", "lora", "again"]
    assert report.variant("again").metrics == report.variant("lora").metrics


def test_an_adapter_that_changed_is_not_mixed_into_an_old_comparison(
    adapters, small_base, dialogues, tmp_path, without_plots
):
    mine = copied(adapters, "lora", tmp_path / "lora")
    compare_adapters(settings_for(mine, dialogues, tmp_path / "out"))
    shutil.rmtree(tmp_path / "lora")
    export(tmp_path / "lora", small_base, "lora", seed=2)
    with pytest.raises(StudyError, match=r"was made with variants=.*another --out"):
        compare_adapters(settings_for(mine, dialogues, tmp_path / "out"))


def test_a_folder_with_a_study_is_not_written_into(adapters, dialogues, tmp_path, without_plots):
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(StudyError, match="not empty and holds no comparison"):
        compare_adapters(settings_for(adapters, dialogues, tmp_path))


def test_several_adapters_of_one_method_have_columns_of_their_own(
    adapters, small_base, dialogues, tmp_path, without_plots
):
    made = {"one": adapters["lora"], "two": export(tmp_path / "two", small_base, "lora", seed=2)}
    report = compare_adapters(settings_for(made, dialogues, tmp_path / "out"))
    assert [report.variant(name).method for name in made] == ["lora", "lora"]
    answers = [read_predictions(tmp_path / "out" / "predictions" / f"{name}.jsonl") for name in made]
    assert answers[0] != answers[1]


@pytest.mark.slow
def test_adapters_of_every_method_that_the_base_takes_can_be_compared(small_base, dialogues, tmp_path, without_plots):
    """Also over four bits, where what is switched off is another base than the one that is shown."""
    names = [name for name, why_not in methods_for(small_base).items() if why_not is None]
    assert len(names) >= 8
    made = {f"v_{name}": export(tmp_path / name, small_base, name) for name in names}
    changes = {"max_new_tokens": 4}
    report = compare_adapters(settings_for(made, dialogues, tmp_path / "out", max_eval_rows=2, task_changes=changes))
    assert {name: report.variant(f"v_{name}").method for name in names} == dict(zip(names, names, strict=True))
    assert report.base_untouched is True
    off = {name: report.variant(f"v_{name}").switched_off_equals_base for name in names}
    assert {name for name in names if off[name] is False} == set()
    assert off["qlora"] is None and off["lora"] is True


# ------------------------------------------------------------------------------------------------ what is off


@pytest.fixture(scope="module")
def other_base(small_base, tmp_path_factory) -> Path:
    """A base of the same shape with other weights."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("other") / "base"
    torch.manual_seed(9)
    T5ForConditionalGeneration(AutoConfig.from_pretrained(small_base)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(small_base).save_pretrained(folder)
    return folder


def test_an_adapter_of_another_base_is_refused_by_name_with_what_to_type(
    adapters, other_base, dialogues, tmp_path, without_plots
):
    only = {"lora": adapters["lora"]}
    with pytest.raises(
        StudyError, match=r"Variant 'lora' cannot be compared.*--base.*--on-mismatch note.*leave 'lora'"
    ):
        compare_adapters(settings_for(only, dialogues, tmp_path / "out", base=str(other_base)))


def test_an_adapter_of_another_base_is_scored_with_a_note_if_asked_to(
    adapters, other_base, dialogues, tmp_path, without_plots
):
    only = {"lora": adapters["lora"]}
    out, base = tmp_path / "out", str(other_base)
    with pytest.raises(StudyError):
        compare_adapters(settings_for(only, dialogues, out, base=base))
    # The same folder: what was done before the refusal is not lost.
    report = compare_adapters(settings_for(only, dialogues, out, base=base, on_mismatch="note"))
    notes = " ".join(report.variant("lora").notes)
    assert "Scored although it does not fit" in notes and "does NOT answer as it did" in notes


def test_a_probe_that_finds_other_answers_is_said(adapters, dialogues, tmp_path, without_plots):
    mine = copied(adapters, "lora", tmp_path / "lora")

    def spoil(lock):
        lock["probe"]["inputs"][0]["values"][0][0] += 5.0

    change_json(mine["lora"] / "hfplug_lock.json", spoil)
    with pytest.raises(StudyError, match="does not answer as it did for its author"):
        compare_adapters(settings_for(mine, dialogues, tmp_path / "out"))
    report = compare_adapters(settings_for(mine, dialogues, tmp_path / "out", on_mismatch="note"))
    assert "does NOT answer as it did" in " ".join(report.variant("lora").notes)


def test_damaged_weights_are_refused_whatever_is_asked_for(adapters, dialogues, tmp_path, without_plots):
    mine = copied(adapters, "lora", tmp_path / "lora")
    file = mine["lora"] / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(StudyError, match=r"Variant 'lora' cannot be compared.*SHA-256"):
        compare_adapters(settings_for(mine, dialogues, tmp_path / "out", on_mismatch="note"))


def test_a_fully_tuned_model_of_another_size_is_refused(adapters, small_base, dialogues, tmp_path, without_plots):
    from transformers import AutoConfig, AutoTokenizer, T5Config, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(adapters["full"])
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    wide = AutoConfig.from_pretrained(small_base).d_model
    T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    mixed = {"lora": adapters["lora"], "tiny": tmp_path / "tiny"}
    with pytest.raises(StudyError, match=f"Variant 'tiny'.*hidden_size is 16, the base's {wide}"):
        compare_adapters(settings_for(mixed, dialogues, tmp_path / "out"))


def test_rows_that_an_adapter_was_trained_on_are_refused_or_noted(small_base, dialogues, tmp_path, without_plots):
    data = {"source": dialogues.name, "train_split": "train[:10]", "train_rows": 10}
    made = {"lora": export(tmp_path / "lora", small_base, "lora", data=data)}
    with pytest.raises(StudyError, match=r"'lora': 4 of the 8 rows .* trained on.*--eval-split"):
        compare_adapters(settings_for(made, dialogues, tmp_path / "out", eval_split="train[6:14]"))
    assert not (tmp_path / "out").exists()
    settings = settings_for(made, dialogues, tmp_path / "out", eval_split="train[6:14]", on_mismatch="note")
    assert "4 of the 8 rows" in " ".join(compare_adapters(settings).variant("lora").notes)


def test_adapters_that_were_taught_different_tasks_are_refused_with_the_difference(
    small_base, dialogues, tmp_path, without_plots
):
    other = dataclasses.replace(TASK, name="title", prompt="Give a title.\n\n{dialogue}")
    made = {
        "a": export(tmp_path / "a", small_base, "lora"),
        "b": export(tmp_path / "b", small_base, "lora", task=other),
    }
    with pytest.raises(StudyError, match=r"different tasks: prompt of 'a' is 'Summarize.*of 'b' 'Give a title.*--task"):
        compare_adapters(settings_for(made, dialogues, tmp_path / "out"))
    report = compare_adapters(settings_for(made, dialogues, tmp_path / "out", task=TASK))
    assert "taught with another prompt" in " ".join(report.variant("b").notes)
    assert "taught with another prompt" not in " ".join(report.variant("a").notes)


def test_values_of_the_adapters_task_may_be_changed(adapters, dialogues, tmp_path, without_plots):
    changes = {"max_new_tokens": 3, "reference_columns": []}
    only = {"lora": adapters["lora"]}
    report = compare_adapters(settings_for(only, dialogues, tmp_path / "out", task_changes=changes))
    assert (report.task["decoding"]["max_new_tokens"], report.task["prompt"]) == (3, TASK.prompt)
    assert report.data.references_per_row == (1, 1)
    assert report.variant("lora").mean_generated_tokens <= 3


def test_adapters_that_say_nothing_need_a_task_and_a_base(adapters, small_base, dialogues, tmp_path, without_plots):
    only = {"loha": adapters["loha"]}
    with pytest.raises(StudyError, match="None of the adapters says what it was taught.*--task"):
        compare_adapters(settings_for(only, dialogues, tmp_path / "out"))
    mine = copied(adapters, "loha", tmp_path / "loha")
    change_json(mine["loha"] / "adapter_config.json", lambda config: config.update(base_model_name_or_path=None))
    with pytest.raises(StudyError, match="which base it is for.*--base"):
        compare_adapters(settings_for(mine, dialogues, tmp_path / "out", task=TASK))
    report = compare_adapters(settings_for(mine, dialogues, tmp_path / "out", task=TASK, base=str(small_base)))
    assert report.variant("loha").metrics


def test_adapters_that_name_different_bases_are_refused(
    adapters, small_base, other_base, dialogues, tmp_path, without_plots
):
    made = {"a": adapters["lora"], "b": export(tmp_path / "b", small_base, "lora", base_name=str(other_base))}
    with pytest.raises(StudyError, match=r"name different bases \(a: .*; b: .*\).*--base"):
        compare_adapters(settings_for(made, dialogues, tmp_path / "out"))


def test_a_base_in_a_folder_of_another_machine_is_asked_for(small_base, dialogues, tmp_path, without_plots):
    made = {"a": export(tmp_path / "a", small_base, "lora", base_name="/somewhere/else/base")}
    with pytest.raises(StudyError, match="'/somewhere/else/base', a folder of another machine.*--base"):
        compare_adapters(settings_for(made, dialogues, tmp_path / "out"))


# ----------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "name", "source"),
    [
        ("x=alice/lora", "x", "hf://alice/lora"),
        ("alice/lora@v1", "lora", "hf://alice/lora@v1"),
        ("hf://alice/lora@v1", "lora", "hf://alice/lora@v1"),
        ("folder", "folder", "folder"),
        ("./folder/", "folder", "folder"),
        ("a=folder", "a", "folder"),
        ("r=8", "r=8", "r=8"),
    ],
)
def test_a_variant_is_a_name_and_a_source_or_a_source_alone(text, name, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "r=8"):
        (tmp_path / folder).mkdir()
    assert VariantSource.parse(text) == VariantSource(name=name, source=source)


@pytest.mark.parametrize("text", ["lorra", "x=no/such/folder", "x=", "=", "file.txt"])
def test_a_source_that_is_neither_a_folder_nor_a_repo_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lora").mkdir()
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(StudyError) as raised:
        VariantSource.parse(text)
    assert raised.value.fix
    if text == "lorra":
        assert "Did you mean 'lora'?" in str(raised.value)


@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", "A"), ("base",), ("Human",), ("../up",), ("a b",), ("",), ("<b>",)]
)
def test_names_that_clash_or_are_no_names_are_refused_with_what_to_type(names, tmp_path):
    variants = tuple(VariantSource(name=name, source="x") for name in names)
    with pytest.raises(StudyError, match="--variant"):
        CompareSettings(variants=variants, data="d", out=tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"variants": ()}, {"on_mismatch": "ignore"}, {"max_eval_rows": 0}, {"eval_batch_size": 0}]
)
def test_settings_out_of_range_are_refused(wrong, tmp_path):
    values = {"variants": (VariantSource(name="a", source="x"),), "data": "d", "out": tmp_path}
    with pytest.raises(HfplugError):
        CompareSettings(**{**values, **wrong})
