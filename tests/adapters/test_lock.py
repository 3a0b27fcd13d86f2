"""A lock knows its base again however it is loaded or wrapped, and tells another one apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    TrainableTokensConfig,
    get_peft_model,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hfplug.adapters.fingerprint import base_parameters, config_sha256, tokenizer_sha256
from hfplug.adapters.lock import LOCK_VERSION, Lock, check, make_lock, verify
from hfplug.adapters.task import Task
from hfplug.errors import AdapterError, MismatchError

MakeModel = Callable[..., PreTrainedModel]
AUTO = {
    "t5": AutoModelForSeq2SeqLM,
    "llama": AutoModelForCausalLM,
    "bert": AutoModelForSequenceClassification,
}
T5_CONFIGS = {
    "lora": LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q", "v"]),
    "dora": LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules="all-linear", use_dora=True),
    "lora on the embedding": LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q", "shared"]),
    "saved modules": LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q"], modules_to_save=["shared", "lm_head"]),
    "lora and new tokens": LoraConfig(
        task_type="SEQ_2_SEQ_LM", target_modules=["q"], trainable_token_indices={"shared": [1, 2]}
    ),
    "without a task": LoraConfig(target_modules=["q"]),
    "ia3": IA3Config(task_type="SEQ_2_SEQ_LM"),
    "norms": LNTuningConfig(task_type="SEQ_2_SEQ_LM", target_modules=["layer_norm"]),
    "tokens": TrainableTokensConfig(task_type="SEQ_2_SEQ_LM", target_modules=["shared"], token_indices=[1, 2]),
    "prompt": PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4),
    "prefix": PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4),
}


def _tokenizer(**changes: Any) -> PreTrainedTokenizerFast:
    words = ["<pad>", "</s>", "<unk>", "hello", "world", "again"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **(special | changes))


def test_json_gives_an_equal_lock_back(make_model: MakeModel) -> None:
    task = Task(name="summary", prompt="{dialogue}")
    lock = make_lock(make_model(), _tokenizer(), base_name="a/b", base_commit="c" * 40, task=task)
    assert Lock.from_json(json.loads(json.dumps(lock.to_json(), allow_nan=False))) == lock
    assert "probe" not in lock.to_json()
    probed = Lock.from_json(lock.to_json() | {"probe": {"logits": [1.0]}, "future": 1})
    assert probed.probe == {"logits": [1.0]} and Lock.from_json(probed.to_json()) == probed


@pytest.mark.parametrize("values", [None, {}, {"lock_version": 0}, {"lock_version": 1, "tensors": 3}])
def test_what_is_no_lock_is_refused(values: Any) -> None:
    with pytest.raises(AdapterError):
        Lock.from_json(values)


def test_a_later_version_is_refused_with_what_to_type() -> None:
    with pytest.raises(AdapterError, match="pip install --upgrade hfplug"):
        Lock.from_json({"lock_version": LOCK_VERSION + 1})


@pytest.mark.parametrize("kind", ["t5", "llama", "bert"])
def test_a_reloaded_base_has_the_same_lock(tmp_path: Path, make_model: MakeModel, kind: str) -> None:
    model = make_model(kind)
    lock = make_lock(model, base_name="a/b")
    model.save_pretrained(tmp_path)
    again = AUTO[kind].from_pretrained(tmp_path)
    assert make_lock(again, base_name="a/b") == lock
    assert verify(lock, again) == []
    assert len(lock.tensors) > 4 and lock.weights_fingerprint


@pytest.mark.parametrize("name", T5_CONFIGS)
def test_wrapping_by_peft_does_not_change_the_lock(make_model: MakeModel, name: str) -> None:
    plain = make_lock(make_model(), base_name="a/b")
    wrapped = get_peft_model(make_model(), T5_CONFIGS[name])
    assert make_lock(wrapped, base_name="a/b") == plain
    assert verify(plain, wrapped) == []
    assert verify(make_lock(wrapped, base_name="a/b"), make_model()) == []


@pytest.mark.parametrize("name", ["lora", "saved modules", "norms", "prompt"])
def test_training_the_adapter_does_not_change_the_lock(make_model: MakeModel, name: str) -> None:
    lock = make_lock(make_model(), base_name="a/b")
    wrapped = get_peft_model(make_model(), T5_CONFIGS[name])
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    assert verify(lock, wrapped) == []


@pytest.mark.parametrize("kind", ["t5", "llama", "bert"])
def test_another_base_of_the_same_shape_is_told_apart(make_model: MakeModel, kind: str) -> None:
    lock = make_lock(make_model(kind, seed=0), base_name="a/b", base_commit="c" * 40)
    (difference,) = verify(lock, make_model(kind, seed=1))
    assert "weights are not those" in difference
    assert f"Load 'a/b' with revision='{'c' * 40}'." in difference
    with pytest.raises(MismatchError, match="does not fit"):
        check(lock, make_model(kind, seed=1))


def test_a_new_head_and_pooler_do_not_count_for_they_are_random_after_every_load(
    make_model: MakeModel,
) -> None:
    model, other = make_model("bert"), make_model("bert")
    with torch.no_grad():
        for module in (other.classifier, other.bert.pooler.dense):
            module.weight.add_(1.0)
    assert verify(make_lock(model, base_name="a/b"), other) == []


def test_a_parameter_named_as_new_does_not_count(make_model: MakeModel) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    assert name in make_lock(make_model("llama"), base_name="a/b").tensors
    assert name not in make_lock(make_model("llama"), base_name="a/b", skip=[name]).tensors


@pytest.mark.parametrize(("saved", "loaded"), [("float32", "bfloat16"), ("float32", "float16")])
def test_the_same_base_in_another_number_format_is_a_smaller_difference(
    make_model: MakeModel, saved: str, loaded: str
) -> None:
    lock = make_lock(make_model().to(getattr(torch, saved)), base_name="a/b")
    model = make_model().to(getattr(torch, loaded))
    (difference,) = verify(lock, model)
    assert f"in {saved}; this model is in {loaded}" in difference
    check(lock, model)
    with pytest.raises(MismatchError):
        check(lock, model, want="same_numbers")
    other = make_model(seed=1).to(getattr(torch, loaded))
    assert any("weights are not those" in text for text in verify(lock, other))


def test_another_configuration_with_the_same_weights_is_told_apart(make_model: MakeModel) -> None:
    lock = make_lock(make_model("llama"), base_name="a/b")
    model = make_model("llama")
    model.config.rms_norm_eps = 0.1
    (difference,) = verify(lock, model)
    assert "configuration" in difference


def test_what_trainer_and_loading_write_into_a_configuration_does_not_count(make_model: MakeModel) -> None:
    model = make_model("bert")
    before = config_sha256(model.config)
    model.config.use_cache = False
    model.config.pad_token_id = 3
    model.config.problem_type = "regression"
    model.config._name_or_path = "elsewhere"
    model.config.id2label = {0: "a", 1: "b", 2: "c"}
    assert config_sha256(model.config) == before
    model.config.id2label = {0: "a", 1: "b"}
    assert config_sha256(model.config) != before


def test_a_resized_vocabulary_says_what_to_call(make_model: MakeModel) -> None:
    lock = make_lock(make_model(), base_name="a/b")
    model = make_model()
    model.resize_token_embeddings(70)
    found = verify(lock, model)
    assert "64 rows in its embedding; this model has 70" in found[0]
    assert "resize_token_embeddings(64)" in found[0]


def test_another_number_of_labels_says_what_to_pass(make_model: MakeModel) -> None:
    lock = make_lock(make_model("bert"), base_name="a/b")
    assert lock.num_labels == 3
    assert make_lock(make_model("t5"), base_name="a/b").num_labels is None
    model = make_model("bert")
    model.config.id2label = {0: "a", 1: "b"}
    assert "Load the base with num_labels=3." in verify(lock, model)[0]


def test_a_merged_adapter_is_not_mistaken_for_another_base(make_model: MakeModel) -> None:
    lock = make_lock(make_model(), base_name="a/b")
    wrapped = get_peft_model(make_model(), LoraConfig(task_type="SEQ_2_SEQ_LM", init_lora_weights=False))
    wrapped.merge_adapter()
    assert verify(lock, wrapped) == []
    assert make_lock(wrapped, base_name="a/b").weights_fingerprint is None


def test_a_tensor_that_is_quantised_is_left_out_and_the_rest_still_compared(make_model: MakeModel) -> None:
    plain = make_lock(make_model("llama"), base_name="a/b")

    def quantise(seed: int) -> PreTrainedModel:
        model = make_model("llama", seed=seed)
        for name, module in model.model.layers.named_modules():
            if name.endswith("_proj"):
                module.weight = torch.nn.Parameter(module.weight.to(torch.int8), requires_grad=False)
        return model

    lock = make_lock(quantise(0), base_name="a/b", quantization={"load_in_4bit": True})
    assert list(lock.tensors) == ["model.embed_tokens.weight"]
    (difference,) = verify(lock, make_model("llama"))
    assert "trained over a quantised base" in difference
    assert verify(plain, quantise(0)) == []
    assert "weights are not those" in verify(plain, quantise(1))[0]


def test_nothing_but_the_base_is_read(make_model: MakeModel) -> None:
    plain = [name for name, _ in make_model().named_parameters()]
    for config in T5_CONFIGS.values():
        wrapped = get_peft_model(make_model(), config)
        names = [name for name, _ in base_parameters(wrapped)]
        assert names == plain, config


def test_the_model_is_only_read(make_model: MakeModel) -> None:
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    config = model.config.to_dict()
    verify(make_lock(model, base_name="a/b"), model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert model.config.to_dict() == config


def test_a_tokenizer_is_the_same_after_use_and_after_reloading(tmp_path: Path) -> None:
    tokenizer = _tokenizer()
    before = tokenizer_sha256(tokenizer)
    tokenizer(["hello", "hello world"], padding=True, truncation=True, max_length=2)
    assert tokenizer_sha256(tokenizer) == before
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_sha256(AutoTokenizer.from_pretrained(tmp_path)) == before


def test_a_changed_tokenizer_is_told_apart(make_model: MakeModel) -> None:
    lock = make_lock(make_model(), _tokenizer(), base_name="a/b")
    assert verify(lock, make_model(), _tokenizer()) == []
    changed = _tokenizer()
    changed.add_tokens(["new"])
    (difference,) = verify(lock, make_model(), changed)
    assert "tokenizer is not the one" in difference
    with pytest.raises(MismatchError, match="tokenizer"):
        check(lock, make_model(), changed)


def test_another_chat_template_is_told_apart(make_model: MakeModel) -> None:
    lock = make_lock(make_model(), _tokenizer(chat_template="{{ messages }}"), base_name="a/b")
    (difference,) = verify(lock, make_model(), _tokenizer(chat_template="{{ messages[0] }}"))
    assert "chat template" in difference


def test_quantisation_settings_are_stored_without_secrets(make_model: MakeModel) -> None:
    settings = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.bfloat16, "token": "letmein"}
    lock = make_lock(make_model(), base_name="a/b", quantization=settings)
    assert lock.quantization == {"load_in_4bit": True, "bnb_4bit_compute_dtype": "torch.bfloat16"}


def test_a_base_in_four_bits_is_known_again(tmp_path: Path, make_model: MakeModel) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    make_model("llama").save_pretrained(tmp_path)
    plain = make_lock(AutoModelForCausalLM.from_pretrained(tmp_path), base_name="a/b")
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=settings, dtype=torch.float32)
    lock = make_lock(model, base_name="a/b")
    assert lock.quantization is not None and lock.quantization["load_in_4bit"] is True
    assert lock.dtype == "float32"
    assert lock.config_sha256 == plain.config_sha256
    assert verify(lock, model) == []
    (difference,) = verify(plain, model)
    assert "not quantised; this model is" in difference


def test_another_commit_whose_sampled_tensors_are_equal_is_noted(make_model: MakeModel) -> None:
    lock = make_lock(make_model(), base_name="a/b", base_commit="c" * 40)
    (note,) = verify(lock, make_model(), base_commit="d" * 40)
    assert note.kind == "numerics" and "d" * 40 in note and "revision='" + "c" * 40 in note
    check(lock, make_model(), base_commit="d" * 40)
    assert verify(lock, make_model(), base_commit="c" * 40) == []


def test_a_module_that_is_random_at_every_load_is_no_part_of_the_base(tmp_path: Path) -> None:
    from hfplug.models.factory import build_model
    from hfplug.testing.architectures import save_base

    save_base("xlnet", "classification", tmp_path)
    lock = make_lock(build_model(tmp_path, "lora", task_type="classification"), None, base_name=None)
    assert lock.tensors and not any(name.startswith("sequence_summary") for name in lock.tensors)
