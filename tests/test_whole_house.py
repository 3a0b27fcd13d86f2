"""Every registered method, on a seq2seq, a causal and a classification model: what must hold for all of them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, Trainer, TrainingArguments

import hfplug
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.methods import method_names
from hfplug.testing import MethodTests
from hfplug.testing.workbench import KINDS, inputs_for, logits, shared_workbench, train, training_rows


@pytest.fixture(scope="session")
def bases() -> dict[str, Path]:
    """A very small random model of each kind, as a ``from_pretrained`` folder."""
    return {kind: shared_workbench().base(kind) for kind in KINDS}


@pytest.fixture(scope="session")
def trained():
    """``trained(method, kind)``: the model and its adapter's folder; trained once a session."""

    def get(method: str, kind: str) -> tuple[Any, Path]:
        trial = shared_workbench().trial(method, kind)
        return trial.model, trial.folder

    return get


# The kit that other packages test their methods with, over every method of ours.
for _name in method_names():
    _class = f"Test{_name.title().replace('_', '')}"
    globals()[_class] = type(_class, (MethodTests,), {"method": _name, "__module__": __name__})


def test_the_flags_have_a_help_text():
    from transformers import HfArgumentParser

    assert "--prompt_num_virtual_tokens" in HfArgumentParser((hfplug.MethodArguments,)).format_help()


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_four_bit_layers_still_pass_gradients_down_after_an_evaluation(bases, kind):
    """bitsandbytes repacks weights on some CPUs in eval mode; from then on nothing below would learn."""
    torch.manual_seed(0)
    model = hfplug.build_model(bases[kind], "qlora")
    batch = inputs_for(kind)
    model.eval()
    with torch.no_grad():
        first = model(**batch).logits
        model(**batch)
    model.train()
    model(**batch).logits.sum().backward()
    lowest = [p.grad for name, p in model.named_parameters() if "lora_B" in name and (".0." in name)]
    assert lowest and all(grad is not None and bool(grad.abs().sum() > 0) for grad in lowest)
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, first)


def test_a_seq2seq_prompt_has_one_row_a_token_and_none_is_dead(bases):
    model = hfplug.build_model(bases["seq2seq"], "prompt_tuning", num_virtual_tokens=7)
    prompt = model.prompt_encoder["default"].embedding.weight
    assert prompt.shape == (7, 64)
    model(**inputs_for("seq2seq")).logits.square().sum().backward()
    assert bool((prompt.grad.abs().sum(dim=1) > 0).all())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("seq2seq", {"q", "k", "v", "o"}),
        ("causal", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("classification", {"query", "key", "value", "attention.output.dense"}),
    ],
)
def test_lora_goes_on_the_attention_layers(bases, kind, expected):
    model = hfplug.build_model(bases[kind], "lora")
    assert model.peft_config["default"].target_modules == expected


def test_a_classifiers_head_is_trained_and_not_quantised(bases):
    model = hfplug.build_model(bases["classification"], "qlora", num_labels=5)
    head = model.base_model.model.classifier.modules_to_save["default"]
    assert head.weight.dtype == torch.float32 and head.weight.shape == (5, 64) and head.weight.requires_grad


def test_t5_keeps_its_wo_in_float32_over_four_bits(bases):
    model = hfplug.build_model(bases["seq2seq"], "qlora")
    kept = {name: module.weight.dtype for name, module in model.named_modules() if name.endswith(".wo")}
    assert kept and set(kept.values()) == {torch.float32}


@pytest.mark.parametrize(
    ("units", "accelerator", "model_type", "expected"),
    [
        ("bfloat16", "none", "llama", torch.bfloat16),
        ("no bfloat16", "none", "llama", torch.float32),
        ("bfloat16", "gpu", "llama", torch.bfloat16),
        ("no bfloat16", "gpu", "llama", torch.float16),
        ("no bfloat16", "gpu", "t5", torch.float32),
    ],
)
def test_the_computing_dtype_suits_the_hardware(monkeypatch, units, accelerator, model_type, expected):
    from hfplug.methods import QLora
    from hfplug.models import hardware
    from hfplug.models.quantize import bitsandbytes_config

    monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda: units == "bfloat16")
    monkeypatch.setattr(hardware, "has_accelerator", lambda: accelerator == "gpu")
    config = bitsandbytes_config(QLora().quantization(), model_type=model_type, skip_modules=None)
    assert config.bnb_4bit_compute_dtype == expected
    assert config.bnb_4bit_quant_type == "nf4" and config.bnb_4bit_use_double_quant


def test_a_sharded_run_stores_four_bits_in_the_computing_dtype(monkeypatch):
    from hfplug.methods import QLora
    from hfplug.models.quantize import bitsandbytes_config

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    config = bitsandbytes_config(QLora(compute_dtype="bfloat16").quantization(), model_type="llama", skip_modules=None)
    assert config.bnb_4bit_quant_storage == torch.bfloat16


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda b: hfplug.build_model(b["causal"], "lorra"), "Did you mean 'lora'"),
        (lambda b: hfplug.build_model(b["causal"], "lora", rank=4), "Did you mean 'r'"),
        (lambda b: hfplug.build_model(b["causal"], "lora", num_virtual_tokens=4), "is a setting of .*prompt_tuning"),
        (lambda b: hfplug.build_model(b["causal"], "lora", target_modules="q_prj"), "Did you mean 'q_proj'"),
        (lambda b: hfplug.build_model("./nowhere", "lora"), "there is no such folder"),
        (lambda b: hfplug.build_model(b["causal"], task_type="poetry"), "task_type must be"),
        (
            lambda b: hfplug.apply_method(hfplug.build_model(b["causal"], "lora"), "lora"),
            "has an adapter already",
        ),
        (lambda b: hfplug.apply_method(torch.nn.Linear(2, 2), "lora"), "needs a transformers model"),
        (
            lambda b: hfplug.apply_method(LlamaForCausalLM.from_pretrained(b["causal"]), "qlora"),
            "hfplug.build_model",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_fix(bases, call, words):
    with pytest.raises(hfplug.HfplugError, match=words):
        call(bases)


class TestGuard:
    """What must not start, does not."""

    def test_a_frozen_model(self, bases, tmp_path):
        model = LlamaForCausalLM.from_pretrained(bases["causal"]).requires_grad_(False)
        with pytest.raises(hfplug.TrainingError, match="Nothing would train"):
            train(model, "causal", tmp_path)

    def test_a_weight_of_the_base_that_would_not_be_saved(self, bases, tmp_path):
        model = hfplug.build_model(bases["causal"], "lora")
        model.base_model.model.model.norm.weight.requires_grad_(True)
        with pytest.raises(hfplug.TrainingError, match="would not be saved.*norm.weight"):
            train(model, "causal", tmp_path)

    def test_a_tensor_without_a_gradient(self, bases, tmp_path):
        model = hfplug.build_model(bases["causal"], "lora")
        layer = model.base_model.model.model.layers[1].self_attn.o_proj
        layer.forward = layer.base_layer.forward  # the adapter of one layer is left out of the pass
        with pytest.raises(hfplug.TrainingError, match="2 trainable tensors got no gradient.*o_proj"):
            train(model, "causal", tmp_path)

    def test_an_optimizer_that_was_built_too_early(self, bases, tmp_path):
        model = LlamaForCausalLM.from_pretrained(bases["causal"])
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        trainer = Trainer(
            model=hfplug.apply_method(model, "lora"),
            args=TrainingArguments(output_dir=str(tmp_path), max_steps=1, report_to="none", disable_tqdm=True),
            train_dataset=training_rows("causal"),
            callbacks=hfplug.adapter_callbacks(),
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
        )
        with pytest.raises(hfplug.TrainingError, match="The optimizer does not hold"):
            trainer.train()

    def test_a_learning_rate_for_full_tuning_on_a_prompt(self, bases, tmp_path, caplog):
        train(hfplug.build_model(bases["causal"], "prompt_tuning"), "causal", tmp_path, learning_rate=5e-5)
        assert "use learning_rate=0.3" in caplog.text


class TestExporter:
    """The right weights land on disk."""

    def test_the_best_checkpoint_of_a_named_adapter(self, bases, tmp_path):
        """Trainer leaves a named adapter at its last weights; what is exported, and the model, are the best."""
        from peft import LoraConfig, get_peft_model
        from safetensors.torch import load_file

        base = LlamaForCausalLM.from_pretrained(bases["causal"])
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]), adapter_name="mine")
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(tmp_path),
                max_steps=6,
                eval_strategy="steps",
                eval_steps=2,
                save_steps=2,
                load_best_model_at_end=True,
                greater_is_better=True,  # the highest loss: so that the first checkpoint is the best
                metric_for_best_model="eval_loss",
                learning_rate=1e-2,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=training_rows("causal"),
            eval_dataset=training_rows("causal"),
            callbacks=hfplug.adapter_callbacks(),
        )
        trainer.train()
        best = load_file(tmp_path / "checkpoint-2" / "mine" / "adapter_model.safetensors")
        last = load_file(tmp_path / "checkpoint-6" / "mine" / "adapter_model.safetensors")
        exported = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
        assert all(torch.equal(best[name], exported[name]) for name in best)
        assert not all(torch.equal(last[name], exported[name]) for name in last)
        in_memory = dict(model.named_parameters())
        assert all(torch.equal(in_memory[name.replace(".weight", ".mine.weight")], best[name]) for name in best)
        assert AdapterDir.open(tmp_path / "adapter").record.best_checkpoint == "checkpoint-2"

    def test_without_checkpoints_it_warns_before_the_first_step_and_exports(self, bases, tmp_path, caplog):
        model = hfplug.build_model(bases["causal"], "lora")
        train(model, "causal", tmp_path, save_strategy="no")
        assert "nothing is on disk before training ends" in caplog.text
        assert torch.equal(logits(hfplug.load_adapter(tmp_path / "adapter"), "causal"), logits(model, "causal"))

    def test_a_folder_of_the_users_is_not_written_over(self, bases, tmp_path):
        (tmp_path / "adapter").mkdir()
        (tmp_path / "adapter" / "notes.txt").write_text("mine")
        with pytest.raises(hfplug.AdapterError, match="neither empty nor an adapter"):
            train(hfplug.build_model(bases["causal"], "lora"), "causal", tmp_path)
        assert (tmp_path / "adapter" / "notes.txt").read_text() == "mine"

    def test_the_record_and_the_lock_say_what_was_done(self, trained, bases):
        _, folder = trained("lora", "causal")
        adapter = AdapterDir.open(folder)
        assert adapter.record.steps == 3 and adapter.record.learning_rate == 1e-2
        assert adapter.record.parameter_efficiency["trainable_parameters"] == 16_384
        assert adapter.lock.base == str(bases["causal"])
        assert "hfplug" in (folder / "README.md").read_text()

    def test_another_base_of_the_same_shape_is_noticed(self, trained, bases, tmp_path):
        _, folder = trained("lora", "causal")
        torch.manual_seed(99)
        LlamaForCausalLM(LlamaForCausalLM.from_pretrained(bases["causal"]).config).save_pretrained(tmp_path)
        with pytest.raises(hfplug.MismatchError):
            hfplug.load_adapter(folder, base=tmp_path)


class TestMeter:
    """The figures are exact, and they reach Trainer's log and its reporters."""

    @pytest.mark.parametrize("method", ["full", "lora"])
    def test_the_peak_is_what_the_profiler_sees(self, bases, method):
        from hfplug.models.tensor_memory import TensorMemory

        model = hfplug.build_model(bases["causal"], method).train()
        batch = {**inputs_for("causal"), "labels": inputs_for("causal")["input_ids"]}
        model(**batch).loss.backward()  # warms up what is made once
        model.zero_grad()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            model(**batch).loss.backward()
        model.zero_grad()
        live = peak = 0
        events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        for event in sorted(events, key=lambda event: event.start_ns()):
            live += event.nbytes()
            peak = max(peak, live)
        with TensorMemory(model.parameters()) as memory:
            model(**batch).loss.backward()
        assert memory.peak == pytest.approx(peak, rel=0.01)

    def test_optimizer_states_are_eight_bytes_a_trained_weight(self, bases, tmp_path):
        figures = hfplug.RunFigures()
        model = hfplug.build_model(bases["causal"], "lora")
        Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(tmp_path), max_steps=5, logging_steps=1, report_to="none", disable_tqdm=True
            ),
            train_dataset=training_rows("causal"),
            callbacks=hfplug.adapter_callbacks(figures=figures),
        ).train()
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        tensors = sum(1 for parameter in model.parameters() if parameter.requires_grad)
        assert figures.optimizer_states - 4 * tensors == 8 * trainable  # two moments, and a step count a tensor
        assert figures.gradients == 4 * trainable
        assert sum(figures.training_memory.values()) == figures.peak_training_bytes
        assert figures.steps == 5 and len(figures.step_seconds) == 2

    def test_tokens_and_padding_are_counted_apart(self):
        from hfplug.training.collate import token_counts

        mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
        assert tuple(map(int, token_counts({"input_ids": mask, "attention_mask": mask}))) == (5, 3)
        labels = torch.tensor([[5, -100], [5, 5]])
        batch = {"input_ids": mask, "attention_mask": mask, "labels": labels}
        assert tuple(map(int, token_counts(batch))) == (8, 4)
        same_shape = {"input_ids": mask + 4, "attention_mask": mask, "labels": mask * 9 - 100 * (mask == 0).long()}
        assert token_counts(same_shape) == (10, 6)  # an encoder-decoder batch whose targets are as long as its inputs

    def test_figures_reach_the_log_and_the_reporters_that_stand_before(self, bases, tmp_path):
        from transformers import TrainerCallback

        class Reporter(TrainerCallback):
            seen: list[dict] = []

            def on_log(self, args, state, control, logs=None, **kwargs):
                self.seen.append(dict(logs))

        reporter = Reporter()
        trainer = Trainer(
            model=hfplug.build_model(bases["causal"], "lora"),
            args=TrainingArguments(
                output_dir=str(tmp_path), max_steps=6, logging_steps=3, report_to="none", disable_tqdm=True
            ),
            train_dataset=training_rows("causal"),
            callbacks=[reporter, *hfplug.adapter_callbacks()],
        )
        trainer.train()
        logged = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
        assert logged["seconds_per_step"] > 0 and logged["peak_training_bytes"] > 0
        assert any("real_tokens_per_second" in entry for entry in reporter.seen)


def test_a_half_written_checkpoint_is_passed_over(trained, tmp_path):
    import shutil

    _, folder = trained("lora", "causal")
    whole = folder.parent / "checkpoint-3"
    shutil.copytree(whole, tmp_path / "checkpoint-3")
    shutil.copytree(whole, tmp_path / "checkpoint-6")
    weights = tmp_path / "checkpoint-6" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    shutil.copytree(whole, tmp_path / "checkpoint-9")
    (tmp_path / "checkpoint-9" / "trainer_state.json").unlink()
    assert hfplug.last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    with contextlib.suppress(FileNotFoundError):
        assert hfplug.last_whole_checkpoint(tmp_path / "absent") is None
