"""Each preflight check finds its fault where the fault is real, and is silent on runs that are sound."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from plug_samples import make_base, tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

import hfplug
from hfplug.errors import TrainingError
from hfplug.training.preflight import examine

AUTO = {"llama": AutoModelForCausalLM, "gpt2": AutoModelForCausalLM, "bert": AutoModelForSequenceClassification}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    made = {kind: make_base(kind, folder / kind) for kind in ("t5", "llama", "gpt2", "bert")}
    words = tokenizer()
    ids = {"pad_token_id": 0, **dict.fromkeys(("bos_token_id", "eos_token_id", "decoder_start_token_id"), 1)}
    sizes = {
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))
    }
    config = BartConfig(vocab_size=len(words), d_model=32, max_position_embeddings=64, **sizes, **ids)
    torch.manual_seed(0)
    BartForConditionalGeneration(config).save_pretrained(folder / "bart")
    words.save_pretrained(folder / "bart")
    return {**made, "bart": folder / "bart"}


def row(length, at=0):
    return {"input_ids": [5 + at % 7] * length, "attention_mask": [1] * length, "labels": [5 + at % 7] * length}


def rows(*lengths):
    return Dataset.from_list([row(length, at) for at, length in enumerate(lengths)])


def trainer_for(bases, folder, kind, method=None, *, data=None, collator=None, model=None, **args):
    words = AutoTokenizer.from_pretrained(bases[kind])
    model = AUTO.get(kind, AutoModelForSeq2SeqLM).from_pretrained(bases[kind]) if model is None else model
    data = rows(9, 7, 8, 6, 5, 9) if data is None else data
    if collator is None:
        collator = DataCollatorForSeq2Seq(words, model=model)
    if kind == "bert":
        data = data.remove_columns("labels").add_column("labels", [at % 2 for at in range(len(data))])
        collator = DataCollatorWithPadding(words)
    values = {"use_cpu": True, "report_to": "none", "learning_rate": 1e-2, "per_device_train_batch_size": 2, **args}
    made = Trainer(model, TrainingArguments(str(folder), **values), collator, data, processing_class=words)
    return made if method is None else hfplug.plug(made, method)


def found(trainer):
    return {one.check: one for one in examine(trainer)}


SOUND = [
    *(("t5", method) for method in ("prefix_tuning", "bottleneck", "norms", "top_layers", "embeddings")),
    *(("bart", method) for method in ("lora", "qlora", "prompt_tuning", "prefix_tuning", "ia3")),
    *(("llama", method) for method in ("prefix_tuning", "p_tuning", "embeddings", "dora")),
    *(("gpt2", method) for method in ("bottleneck", "bitfit", "prefix_tuning")),
    *(("bert", method) for method in ("lora", "qlora", "prompt_tuning", "bitfit", "full", "top_layers")),
]


@pytest.mark.parametrize(("kind", "method"), SOUND)
def test_a_sound_run_raises_no_alarm(bases, tmp_path, kind, method):
    findings = found(trainer_for(bases, tmp_path, kind, method))
    loud = {one.check: one.saw for one in findings.values() if one.verdict in ("warning", "error")}
    assert loud == {}
    skipped = {one.check: one.saw for one in findings.values() if one.verdict == "skipped"}
    assert set(skipped) <= ({"survives saving"} if method in ("full", "p_tuning") else set()), skipped


# ------------------------------------------------------------------------------------------------- the rows


def test_padding_after_the_answer_is_found_by_the_mask_whatever_the_padding_token(bases, tmp_path):
    """The padding token is the end token here, as in many chat models."""
    padded = [
        {"input_ids": [5] * length + [1] * (9 - length), "attention_mask": [1] * length + [0] * (9 - length)}
        for length in (5, 9, 7, 6)
    ]
    counted = Dataset.from_list([{**one, "labels": one["input_ids"]} for one in padded])
    one = found(trainer_for(bases, tmp_path, "llama", "lora", data=counted, collator=default_data_collator))
    assert one["unmasked labels"].verdict == "warning"
    masked = [
        {**one, "labels": [token if on else -100 for token, on in zip(*one.values(), strict=True)]} for one in padded
    ]
    sound = trainer_for(
        bases, tmp_path, "llama", "lora", data=Dataset.from_list(masked), collator=default_data_collator
    )
    assert found(sound)["unmasked labels"].verdict == "ok"


def test_padding_before_the_answer_is_found(bases, tmp_path):
    data = Dataset.from_list([{**row(8), "labels": [0, 0, 0, 5, 6, 7, 1]}, {**row(8), "labels": [0, 0, 5, 5, 6, 7, 1]}])
    one = found(trainer_for(bases, tmp_path, "t5", "lora", data=data, collator=default_data_collator))
    assert one["unmasked labels"].verdict == "warning"


def test_rows_whose_answer_was_cut_off_are_counted(bases, tmp_path):
    data = [row(length) for length in (9, 7, 8, 6, 5)] + [{**row(9), "labels": [-100] * 9}] * 2
    one = found(trainer_for(bases, tmp_path, "llama", "lora", data=Dataset.from_list(data)))["truncated inputs"]
    assert one.verdict == "warning" and "2 of 7 rows (29%) have no label left" in one.saw


def test_targets_that_were_cut_are_counted_apart_from_inputs(bases, tmp_path):
    data = [{**row(10 + at), "labels": [5] * min(3 + at, 7)} for at in range(12)]
    one = found(trainer_for(bases, tmp_path, "t5", "lora", data=Dataset.from_list(data)))["truncated inputs"]
    assert (one.verdict, one.saw) == (
        "warning",
        "8 of 12 targets (67%) have exactly 7 tokens: their end was cut.",
    )


@pytest.mark.parametrize("lengths", [[5, 6, 7, 8, 9] * 8, [16] * 20, [9] * 3 + [8] * 4 + [7] * 4, [9, 9, 3, 4]])
def test_lengths_that_nobody_cut_raise_no_alarm(bases, tmp_path, lengths):
    assert found(trainer_for(bases, tmp_path, "llama", "lora", data=rows(*lengths)))["truncated inputs"].verdict == "ok"


# --------------------------------------------------------------------------------- what PEFT by itself does wrong


def by_hand(bases, kind, config):
    model = AUTO.get(kind, AutoModelForSeq2SeqLM).from_pretrained(bases[kind])
    return get_peft_model(model, config)


def test_the_dead_half_of_a_seq2seq_prompt_of_peft_is_found(bases, tmp_path):
    model = by_hand(bases, "t5", PromptTuningConfig(task_type=TaskType.SEQ_2_SEQ_LM, num_virtual_tokens=4))
    one = found(trainer_for(bases, tmp_path, "t5", model=model))["gradients"]
    assert (
        one.verdict == "warning" and "4 of 8 rows of prompt_encoder.default.embedding.weight get no gradient" in one.saw
    )


def test_logits_that_are_longer_than_the_labels_are_found(bases, tmp_path):
    model = by_hand(bases, "llama", PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4))
    one = found(trainer_for(bases, tmp_path, "llama", model=model))["output lengths"]
    assert one.verdict == "warning" and one.saw == "logits have 13 places and labels 9."


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"modules_to_save": ["embed_tokens"]}, "embed_tokens is in modules_to_save"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens is among the target_modules"),
    ],
)
def test_why_the_whole_embedding_would_be_saved_is_said(bases, tmp_path, settings, why):
    model = by_hand(bases, "llama", LoraConfig(task_type=TaskType.CAUSAL_LM, **settings))
    one = found(trainer_for(bases, tmp_path, "llama", model=model))["saved embedding"]
    assert one.verdict == "warning" and why in one.saw and " MB) is saved with the adapter" in one.saw


def test_a_resized_vocabulary_is_told_by_its_rows(bases, tmp_path):
    wide = AutoModelForCausalLM.from_pretrained(bases["llama"])
    rows_before = wide.config.vocab_size
    wide.resize_token_embeddings(rows_before + 7)
    one = found(trainer_for(bases, tmp_path, "llama", "prompt_tuning", model=wide))["saved embedding"]
    assert one.verdict == "warning" and f"from {rows_before:,} to {rows_before + 7:,} rows" in one.saw
    again = AutoModelForCausalLM.from_pretrained(bases["llama"])
    again.resize_token_embeddings(rows_before + 7)
    assert found(trainer_for(bases, tmp_path, "llama", "lora", model=again))["saved embedding"].verdict == "ok"


def test_a_frozen_tensor_that_the_script_thaws_is_found(bases, tmp_path):
    trainer = trainer_for(bases, tmp_path, "llama", "lora")
    trainer.model.get_base_model().lm_head.weight.requires_grad_(True)
    one = found(trainer)["trains what is saved"]
    assert one.verdict == "error" and "lm_head" in one.saw and "requires_grad_(False)" in one.fix


def test_a_head_that_is_not_saved_is_found(bases, tmp_path):
    trainer = trainer_for(bases, tmp_path, "bert", "lora")
    assert found(trainer)["saved head"].verdict == "ok"
    model = trainer.model
    model.base_model.modules_to_save = model.active_peft_config.modules_to_save = None
    model.get_base_model().classifier = torch.nn.Linear(32, 2).requires_grad_(False)
    one = found(trainer)["saved head"]
    assert one.verdict == "error" and "classifier" in one.saw


def test_an_adapter_that_does_not_come_back_is_found(bases, tmp_path):
    trainer = trainer_for(bases, tmp_path, "llama", "lora")
    assert "the same outputs for a row" in found(trainer)["survives saving"].saw
    kind, name = type(trainer.model), "base_model.model.model.layers.1.self_attn.q_proj.lora_B.default.weight"
    original = kind.load_adapter

    def forgetful(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        with torch.no_grad():
            self.get_parameter(name).add_(1)
        return result

    kind.load_adapter = forgetful
    try:
        one = found(trainer)["survives saving"]
    finally:
        del kind.load_adapter
    assert one.verdict == "error" and "1 trained tensors do not come back" in one.saw and name in one.saw
    hidden = torch.nn.Parameter(torch.ones(()), requires_grad=False)  # changed in training, and in no file

    def hook(module, inputs, output):
        hidden.add_(1)
        return output * hidden

    handle = trainer.model.get_base_model().lm_head.register_forward_hook(hook)
    one = found(trainer)["survives saving"]
    handle.remove()
    assert one.verdict == "error" and "the outputs differ by" in one.saw


# ----------------------------------------------------------------------------------------- precision, sharding, memory


def test_float16_that_accelerate_asks_for_is_seen_on_t5_and_fine_on_llama(bases, tmp_path, monkeypatch):
    for kind, verdict in (("t5", "error"), ("llama", "ok")):
        trainer = trainer_for(bases, tmp_path, kind, "lora")
        monkeypatch.setattr(type(trainer.accelerator), "mixed_precision", property(lambda self: "fp16"))
        assert found(trainer)["half precision"].verdict == verdict
        monkeypatch.undo()


class Plugin:
    """As accelerate's plugins say what they were asked for."""

    def __init__(self, **values):
        self.__dict__.update(values)


def pretend(monkeypatch, trainer, kind, **plugin):
    """A Trainer as it is under FSDP or DeepSpeed, before it wraps its model: only the settings say so."""
    state = Plugin(fsdp_plugin=Plugin(**plugin), deepspeed_plugin=Plugin(**plugin), distributed_type=kind)
    trainer.is_fsdp_enabled, trainer.is_deepspeed_enabled = kind == "FSDP", kind == "DEEPSPEED"
    monkeypatch.setattr(type(trainer.accelerator), "distributed_type", property(lambda self: kind))
    trainer.accelerator.state = state


def sharding(bases, folder, monkeypatch, kind, method="lora", base="llama", **plugin):
    trainer = trainer_for(bases, folder, base, method)
    pretend(monkeypatch, trainer, kind, **plugin)
    findings = found(trainer)
    monkeypatch.undo()
    assert {findings[name].verdict for name in ("gradients", "survives saving")} == {"skipped"}
    return findings["sharding"]


def test_zero_3_that_does_not_gather_is_an_error_and_one_that_does_a_note(bases, tmp_path, monkeypatch):
    deepspeed = {"zero_stage": 3, "zero3_save_16bit_model": False, "deepspeed_config": {}}
    one = sharding(bases, tmp_path, monkeypatch, "DEEPSPEED", **deepspeed)
    assert one.verdict == "error" and "empty" in one.saw and "zero3_save_16bit_model: true" in one.fix
    gathers = {"zero_optimization": {"stage3_gather_16bit_weights_on_model_save": True}}
    one = sharding(bases, tmp_path, monkeypatch, "DEEPSPEED", **{**deepspeed, "deepspeed_config": gathers})
    assert one.verdict == "note"
    one = sharding(bases, tmp_path, monkeypatch, "DEEPSPEED", **{**deepspeed, "zero_stage": 2})
    assert one.verdict == "ok"


def test_fsdp_with_packed_weights_as_bytes_with_checkpoints_in_parts_and_with_soft_prompts(
    bases, tmp_path, monkeypatch
):
    whole = {"fsdp_version": 2, "state_dict_type": "FULL_STATE_DICT"}
    assert sharding(bases, tmp_path, monkeypatch, "FSDP", **whole).verdict == "note"
    one = sharding(bases, tmp_path, monkeypatch, "FSDP", "qlora", **whole)
    assert one.verdict == "error" and "held as uint8" in one.saw and "--qlora_storage_dtype bfloat16" in one.fix
    stored = hfplug.QLora(storage_dtype="bfloat16")
    assert sharding(bases, tmp_path, monkeypatch, "FSDP", stored, **whole).verdict == "note"
    one = sharding(bases, tmp_path, monkeypatch, "FSDP", **{**whole, "state_dict_type": "SHARDED_STATE_DICT"})
    assert one.verdict == "warning" and "FULL_STATE_DICT" in one.fix
    one = sharding(bases, tmp_path, monkeypatch, "FSDP", "prompt_tuning", **whole)
    assert one.verdict == "error" and "cannot be saved under FSDP2" in one.saw


def test_fsdp_that_accelerate_leaves_out_is_said(bases, tmp_path, monkeypatch):
    trainer = trainer_for(bases, tmp_path, "llama", "lora")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    one = found(trainer)["sharding"]
    assert one.verdict == "warning" and "FSDP was asked for and is not on" in one.saw


@pytest.mark.parametrize(("method", "passed"), [("lora", "the batch"), ("full", "short rows")])
def test_a_run_that_does_not_fit_is_said_and_the_prediction_is_what_the_meter_sees(
    bases, tmp_path, monkeypatch, method, passed
):
    from hfplug.models import hardware
    from hfplug.training import preflight_sample

    if passed == "short rows":  # as on a CPU where rows are long: what is seen of short ones is reckoned up
        monkeypatch.setattr(preflight_sample, "TOKENS_ON_CPU", 50)
        monkeypatch.setattr(preflight_sample, "SHORT_ROW", 16)
    data = rows(*[24] * 4, *[60] * 4)
    trainer = trainer_for(bases, tmp_path, "llama", method, data=data, max_steps=4, save_strategy="no")
    small = preflight_sample.take_sample(trainer).small
    assert (None if small is None else small["input_ids"].shape) == (None if passed == "the batch" else (2, 24))
    one = found(trainer)["peak memory"]
    assert one.verdict == "ok" and "MB are free" in one.saw
    predicted = float(one.saw.split(" MB")[0].replace(",", ""))
    monkeypatch.setattr(hardware, "available_memory", lambda: 100_000)
    one = found(trainer)["peak memory"]
    assert one.verdict == "warning" and "per_device_train_batch_size" in one.fix
    monkeypatch.undo()
    trainer.train()
    entry = next(one for one in reversed(trainer.state.log_history) if "train_loss" in one)
    assert entry
    measured = hfplug.AdapterDir.open(tmp_path / "adapter").record.memory_efficiency["peak_training_bytes"] / 1e6
    assert 0.8 * measured <= predicted <= 1.25 * measured + 1


def test_the_predicted_size_of_the_adapter_is_that_of_its_file(bases, tmp_path):
    trainer = trainer_for(bases, tmp_path, "llama", "lora")
    said = float(found(trainer)["adapter size"].saw.split(" MB")[0])
    trainer.model.save_pretrained(tmp_path / "adapter")
    size = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size / 1e6
    assert 0 < size - said < 0.01  # the file has a header as well


def test_what_cannot_work_stops_the_run_and_no_preflight_lets_it_go_on(bases, tmp_path):
    from hfplug.training.plug_trainer import Plan, plug_existing
    from hfplug.training.preflight import Preflight

    wide = AutoModelForCausalLM.from_pretrained(bases["llama"])
    trainer = trainer_for(bases, tmp_path, "llama", model=wide, max_steps=1)
    plug_existing(trainer, Plan(method=hfplug.Lora(), before_training=Preflight()))
    wide.register_parameter("idle", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(
        TrainingError, match=r"preflight, trains what is saved: .*idle.*\(2 more: gradients, survives saving\)"
    ):
        trainer.train()
    del wide._parameters["idle"]
    trainer.train()
    assert trainer.state.global_step == 1


def test_a_script_with_peft_of_its_own_is_examined_and_does_not_train_under_doctor(bases, tmp_path, capsys):
    from hfplug.training.plug_trainer import Plan, plug_existing
    from hfplug.training.preflight import Examined, Preflight

    trainer = trainer_for(bases, tmp_path, "llama", model=by_hand(bases, "llama", LoraConfig(task_type="CAUSAL_LM")))
    plug_existing(trainer, Plan(method=hfplug.Lora(), before_training=Preflight(mode="only")))
    with pytest.raises(Examined):
        trainer.train()
    assert trainer.state.global_step == 0 and "gradients" in capsys.readouterr().out
