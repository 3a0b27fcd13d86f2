"""Scripts of the shapes that people write, unmodified, under every method that makes sense for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from plug_samples import (
    SCRIPTS,
    dialogues,
    labelled,
    make_base,
    metrics_of,
    questions,
    run_here,
    tagged,
    training_flags,
)
from transformers import AutoModelForCausalLM

import hfplug
from hfplug.errors import MethodError, MismatchError, TrainingError
from hfplug.methods import get_method, method_names

QUICK = ("lora", "prompt_tuning")
# The others run with the slow tests: they take the same ways through the same code.
METHODS = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in method_names()]
ADAPTERS = [one for one in METHODS if get_method(one.values[0]).category != "all weights"]


def skip_without_bias(method, kind):
    if method == "bitfit" and kind in ("t5", "llama"):
        pytest.skip("it has no bias, and bitfit says so")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Name of a model type to a folder with a random model of it."""
    folder = tmp_path_factory.mktemp("bases")
    return {kind: make_base(kind, folder / kind) for kind in ("t5", "llama", "gpt2", "bert")}


def summarize_flags(base: Path, folder: Path, output: Path, **more) -> list[str]:
    train, evaluation = dialogues(folder)
    names = {
        "model_name_or_path": base,
        "train_file": train,
        "validation_file": evaluation,
        "generation_max_length": 12,
    }
    task = [word for name, value in names.items() for word in (f"--{name}", str(value))]
    steps = ["--do_train", "--do_eval", "--do_predict", "--predict_with_generate"]
    return [*task, *steps, *training_flags(output, **more)]


@pytest.mark.parametrize("method", METHODS)
def test_a_summariser_trains_evaluates_predicts_and_saves(monkeypatch, bases, tmp_path, method):
    skip_without_bias(method, "t5")
    output = tmp_path / "out"
    smooth = {"label_smoothing_factor": 0.1, "train_sampling_strategy": "group_by_length"}
    flags = summarize_flags(bases["t5"], tmp_path, output, **smooth)
    assert run_here(monkeypatch, SCRIPTS / "summarize.py", flags, method)[0] == 0
    assert metrics_of(output)["eval_gen_len"] >= 0 and metrics_of(output, "predict")["predict_loss"] > 0
    assert len((output / "generated_predictions.txt").read_text().splitlines()) >= 1
    adapter = hfplug.AdapterDir.open(output / "adapter")
    assert adapter.record.method == method
    assert torch.isfinite(torch.tensor(metrics_of(output)["eval_loss"]))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("method", METHODS)
def test_a_language_model_scripts_metrics_see_the_bases_logits(monkeypatch, bases, tmp_path, method, kind):
    skip_without_bias(method, kind)
    train, evaluation = dialogues(tmp_path)
    output = tmp_path / "out"
    flags = ["--model_name_or_path", bases[kind], "--train_file", train, "--validation_file", evaluation]
    flags += training_flags(output, label_smoothing_factor=0.1, neftune_noise_alpha=5)
    assert run_here(monkeypatch, SCRIPTS / "language_model.py", flags, method)[0] == 0
    before, after = json.loads((output / "before_and_after.json").read_text())
    assert 0 <= after["eval_accuracy"] <= 1
    base = metrics_without_hfplug(monkeypatch, bases[kind], tmp_path, flags)
    if method != "qlora":  # whose base is in 4 bits
        assert before["eval_loss"] == base["eval_loss"] and before["eval_accuracy"] == base["eval_accuracy"]


def metrics_without_hfplug(monkeypatch, base, folder, flags):
    """What the plain base evaluates to in the same script, before it trains."""
    import runpy
    import sys

    output = folder / "plain"
    words = [str(output) if str(word) == str(folder / "out") else str(word) for word in flags]
    monkeypatch.setattr(sys, "argv", ["language_model.py", *words])
    runpy.run_path(str(SCRIPTS / "language_model.py"), run_name="__main__")
    return json.loads((output / "before_and_after.json").read_text())[0]


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("method", METHODS)
def test_a_classifier_with_a_trainer_of_its_own(monkeypatch, bases, tmp_path, method, kind):
    skip_without_bias(method, kind)
    train, evaluation = labelled(tmp_path)
    output = tmp_path / "out"
    flags = ["--model_name_or_path", bases[kind], "--train_file", train, "--validation_file", evaluation]
    flags += training_flags(output, eval_strategy="steps", eval_steps=2, load_best_model_at_end=True)
    assert run_here(monkeypatch, SCRIPTS / "classify.py", flags, method)[0] == 0
    adapter = hfplug.AdapterDir.open(output / "adapter")
    assert adapter.num_labels == 3
    assert len((output / "predict_results.txt").read_text().split()) == 6
    assert hfplug.verify_adapter(output / "adapter", base=bases[kind]).verdict == "same"


def test_a_classifier_that_looks_for_its_marks_among_the_token_ids_takes_a_soft_prompt(monkeypatch, bases, tmp_path):
    train, evaluation = labelled(tmp_path)
    flags = ["--model_name_or_path", bases["t5"], "--train_file", train, "--validation_file", evaluation]
    assert (
        run_here(monkeypatch, SCRIPTS / "classify.py", [*flags, *training_flags(tmp_path / "out")], "prompt_tuning")[0]
        == 0
    )
    assert hfplug.verify_adapter(tmp_path / "out" / "adapter", base=bases["t5"]).verdict == "same"


@pytest.mark.parametrize("method", METHODS)
def test_a_token_classifiers_predictions_and_labels_have_one_shape(monkeypatch, bases, tmp_path, method):
    output = tmp_path / "out"
    flags = ["--model_name_or_path", bases["bert"], "--train_file", tagged(tmp_path), *training_flags(output)]
    assert run_here(monkeypatch, SCRIPTS / "tag_tokens.py", flags, method)[0] == 0
    assert 0 <= metrics_of(output)["eval_accuracy"] <= 1


@pytest.mark.parametrize("method", METHODS)
def test_a_question_answerer_with_an_evaluation_of_its_own(monkeypatch, bases, tmp_path, method):
    output = tmp_path / "out"
    flags = ["--model_name_or_path", bases["bert"], "--train_file", questions(tmp_path), *training_flags(output)]
    assert run_here(monkeypatch, SCRIPTS / "answer_questions.py", flags, method)[0] == 0
    assert 0 <= metrics_of(output)["eval_exact"] <= 1


def test_what_does_not_make_sense_is_refused_before_any_work(monkeypatch, bases, tmp_path):
    train, evaluation = labelled(tmp_path)
    flags = ["--model_name_or_path", bases["t5"], "--train_file", train, "--validation_file", evaluation]
    flags += training_flags(tmp_path / "out")
    with pytest.raises(MethodError, match="bitfit trains biases, and this t5 model has no bias") as caught:
        run_here(monkeypatch, SCRIPTS / "classify.py", flags, "bitfit")
    assert "\n" not in str(caught.value) and not list((tmp_path / "out").glob("checkpoint*"))


@pytest.mark.parametrize("method", ADAPTERS)
def test_a_notebook_keeps_its_variables_its_teacher_and_what_its_first_trainer_trained(
    monkeypatch, bases, tmp_path, method
):
    skip_without_bias(method, "llama")
    status, names = run_here(monkeypatch, SCRIPTS / "notebook.py", [bases["llama"], tmp_path / "out"], method)
    assert status == 0
    assert isinstance(names["model"], PeftModel) and names["alias"][0] is names["model"] is names["trainer"].model
    assert not isinstance(names["teacher"], PeftModel)
    assert {type(one).__name__ for one in names["teacher"].modules()}.isdisjoint({"Linear4bit"})
    plain = AutoModelForCausalLM.from_pretrained(bases["llama"]).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in names["teacher"].state_dict().items())
    assert names["first_after"] != names["first_before"]
    assert names["second_before"] == pytest.approx(names["first_after"], abs=1e-6)
    assert names["second_after"] != names["second_before"]
    held = {id(one) for group in names["trainer"].optimizer.param_groups for one in group["params"]}
    assert held >= {id(one) for one in names["model"].parameters() if one.requires_grad}
    again = hfplug.plug(AutoModelForCausalLM.from_pretrained(bases["llama"]), method)
    again.load_adapter(f"{tmp_path}/out/saved", "default")
    answer = again.eval().generate(names["prompt"], max_new_tokens=6, do_sample=False)
    assert torch.equal(answer, names["answer_after"])


@pytest.mark.parametrize("style", ["lambda", "trial", "partial"])
@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_a_model_that_trainer_makes_itself_gets_the_method_each_time(monkeypatch, bases, tmp_path, style, method):
    (tmp_path / "out").mkdir()
    status, names = run_here(monkeypatch, SCRIPTS / "search.py", [bases["llama"], tmp_path / "out", style], method)
    before, after, made = json.loads((tmp_path / "out" / "losses.json").read_text())
    assert status == 0 and made == 2 and after != before
    assert all(isinstance(model, PeftModel) for model in names["made"])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(monkeypatch, bases, tmp_path, method):
    skip_without_bias(method, "t5")
    once, twice = tmp_path / "once", tmp_path / "twice"
    run_here(monkeypatch, SCRIPTS / "summarize.py", summarize_flags(bases["t5"], tmp_path, once), method)
    flags = summarize_flags(bases["t5"], tmp_path, twice, lr_scheduler_type="linear")
    run_here(monkeypatch, SCRIPTS / "summarize.py", flags, method)
    for file in (twice / "checkpoint-4").iterdir():  # as if it had been killed after step 2
        file.unlink()
    (twice / "checkpoint-4").rmdir()
    run_here(monkeypatch, SCRIPTS / "summarize.py", flags, method)
    for name in ("adapter_model.safetensors", "model.safetensors"):
        if (once / name).exists():
            assert (once / name).read_bytes() == (twice / name).read_bytes()
    assert metrics_of(once)["eval_loss"] == metrics_of(twice)["eval_loss"]


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ("lora", hfplug.Lora(r=4), "r is 16 there and 4 here"),
        pytest.param("lora", hfplug.Lora(target_modules=("all-linear",)), "target_modules is", marks=pytest.mark.slow),
        ("lora", "prompt_tuning", "it is of type LORA, and this run is PROMPT_TUNING"),
        ("full", "lora", "holds a fully tuned model, and this run is lora"),
        pytest.param("lora", "full", "holds an adapter (LORA), and this run is full", marks=pytest.mark.slow),
    ],
)
def test_resuming_with_other_settings_is_refused_with_the_difference(
    monkeypatch, bases, tmp_path, first, second, difference
):
    output = tmp_path / "out"
    flags = summarize_flags(bases["t5"], tmp_path, output, save_only_model=True)
    run_here(monkeypatch, SCRIPTS / "summarize.py", flags, first)
    with pytest.raises(MismatchError) as caught:
        run_here(monkeypatch, SCRIPTS / "summarize.py", flags, second)
    assert difference in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_a_script_starts_again_on_its_own_output_folder(monkeypatch, bases, tmp_path, method):
    skip_without_bias(method, "t5")
    output, again = tmp_path / "out", tmp_path / "again"
    run_here(monkeypatch, SCRIPTS / "summarize.py", summarize_flags(bases["t5"], tmp_path, output), method)
    flags = [word for word in summarize_flags(output, tmp_path, again) if word != "--do_train"]
    run_here(monkeypatch, SCRIPTS / "summarize.py", flags, method)
    assert metrics_of(again)["eval_loss"] == pytest.approx(metrics_of(output)["eval_loss"], abs=1e-6)
    run_here(monkeypatch, SCRIPTS / "summarize.py", summarize_flags(output, tmp_path, again), method)
    assert metrics_of(again)["eval_loss"] != metrics_of(output)["eval_loss"]


def test_a_classifier_starts_again_on_its_own_output_folder_with_its_labels(monkeypatch, bases, tmp_path):
    train, evaluation = labelled(tmp_path)
    data = ["--train_file", train, "--validation_file", evaluation]
    run_here(
        monkeypatch,
        SCRIPTS / "classify.py",
        ["--model_name_or_path", bases["bert"], *data, *training_flags(tmp_path / "out")],
        "lora",
    )
    flags = ["--model_name_or_path", tmp_path / "out", *data, *training_flags(tmp_path / "again", learning_rate=0.0)]
    run_here(monkeypatch, SCRIPTS / "classify.py", flags, "lora")
    assert metrics_of(tmp_path / "again")["eval_loss"] == metrics_of(tmp_path / "out")["eval_loss"]


@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_a_script_that_adds_tokens_saves_their_rows(monkeypatch, bases, tmp_path, method):
    output = tmp_path / "out"
    flags = summarize_flags(bases["t5"], tmp_path, output) + ["--add_tokens", "5"]
    assert run_here(monkeypatch, SCRIPTS / "summarize.py", flags, method)[0] == 0
    assert hfplug.verify_adapter(output / "adapter", base=bases["t5"]).verdict == "same"


def test_positions_that_would_overflow_stop_the_script_before_its_first_step(monkeypatch, bases, tmp_path):
    train, evaluation = dialogues(tmp_path)
    flags = ["--model_name_or_path", bases["gpt2"], "--train_file", train, "--validation_file", evaluation]
    flags += [*training_flags(tmp_path / "out"), "--block_size", "60"]
    with pytest.raises(TrainingError, match="cut its inputs at 44 tokens"):
        run_here(monkeypatch, SCRIPTS / "language_model.py", flags, "prompt_tuning")
