"""What is loaded answers as it did where it was trained, and whatever would not is refused with what to do."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
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
    PromptEncoderConfig,
    TrainableTokensConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import hfplug
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.load import load_adapter
from hfplug.adapters.lock import make_lock
from hfplug.adapters.probe import make_probe
from hfplug.adapters.task import Task
from hfplug.errors import AdapterError, MismatchError
from hfplug.models.factory import applied_to

MakeModel = Callable[..., PreTrainedModel]
AUTO = {"t5": AutoModelForSeq2SeqLM, "llama": AutoModelForCausalLM, "bert": AutoModelForSequenceClassification}
TASK = Task(name="summary", prompt="Summarize. {dialogue}")
WORDS = ["<pad>", "</s>", "<unk>", "Anna", "Ben", ":", "report", "Summarize", "."]


def tokenizer(*more: str) -> PreTrainedTokenizerFast:
    words = [*WORDS, *more]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def logits(model: Any, kind: str = "llama") -> torch.Tensor:
    ids = torch.arange(3, 12)[None]
    more = {"decoder_input_ids": ids[:, :3]} if kind == "t5" else {}
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits


def shake(model: Any) -> Any:
    """Stands in for training: every trainable weight moves."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def base(tmp_path: Path, make_model: MakeModel) -> Callable[..., Path]:
    """``base(kind, seed)``: a folder with a tiny base and its tokenizer."""

    def make(kind: str = "llama", seed: int = 0) -> Path:
        folder = tmp_path / f"{kind}-{seed}"
        if not folder.exists():
            make_model(kind, seed=seed).save_pretrained(folder)
            tokenizer().save_pretrained(folder)
        return folder

    return make


def export(model: Any, folder: Path, base: Path, *, lock: str = "yes", **kwargs: Any) -> Path:
    """What the exporter leaves, with or without a lock."""
    model.save_pretrained(folder.with_name(folder.name + "-checkpoint"))
    parts: dict[str, Any] = {"tokenizer_files": []}
    if lock == "yes":
        plain = kwargs.pop("plain", model)
        tokens = kwargs.get("tokenizer") or tokenizer()
        made = make_lock(plain, tokens, base_name=str(base), task=TASK, quantization=kwargs.get("quantization"))
        parts = {**parts, "lock": dataclasses.replace(made, probe=make_probe(model, tokens, task=TASK)), "task": TASK}
    AdapterDir.write(folder, source=folder.with_name(folder.name + "-checkpoint"), **parts)
    return folder


def lora(base: Path, kind: str = "llama", **kwargs: Any) -> Any:
    task_type = {"t5": "SEQ_2_SEQ_LM", "llama": "CAUSAL_LM", "bert": "SEQ_CLS"}[kind]
    targets = {"t5": ["q", "v"], "llama": ["q_proj", "v_proj"], "bert": ["query", "value"]}[kind]
    config = LoraConfig(task_type=task_type, target_modules=targets, r=2, **kwargs)
    return shake(get_peft_model(AUTO[kind].from_pretrained(base), config))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def change_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def unlock(folder: Path) -> None:
    (folder / "hfplug_lock.json").unlink()


# --------------------------------------------------------------------------------------------- what is right


@pytest.mark.parametrize("kind", AUTO)
def test_it_answers_as_it_did_and_the_probe_says_so(tmp_path: Path, base: Any, kind: str) -> None:
    model = lora(base(kind), kind)
    loaded = load_adapter(export(model, tmp_path / "adapter", base(kind)), verify="probe")
    assert torch.equal(logits(loaded, kind), logits(model, kind))


FOREIGN = {
    "ia3": IA3Config(task_type="CAUSAL_LM"),
    "vera": VeraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=4),
    "ln_tuning": LNTuningConfig(task_type="CAUSAL_LM", target_modules=["norm"]),
    "prefix_tuning": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "p_tuning": PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
    "trainable_tokens": TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=[3, 4]),
}


@pytest.mark.parametrize("lock", ["yes", "no"])
@pytest.mark.parametrize("name", FOREIGN)
def test_any_adapter_of_peft_loads_and_switches_off(
    tmp_path: Path, base: Any, name: str, lock: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    plain = logits(AUTO["llama"].from_pretrained(base()))
    before = AUTO["llama"].from_pretrained(base())
    model = shake(get_peft_model(AUTO["llama"].from_pretrained(base()), FOREIGN[name]))
    loaded = load_adapter(export(model, tmp_path / "adapter", base(), lock=lock, plain=before))
    tuned = logits(model)
    assert torch.equal(logits(loaded), tuned) and not torch.equal(tuned, plain)
    method = applied_to(loaded).method
    assert method.name == name
    with method.switched_off(loaded) as off:
        assert torch.equal(logits(off), plain)
    assert torch.equal(logits(loaded), tuned)
    assert ("could not be checked" in caplog.text) == (lock == "no")
    if name not in hfplug.method_names():
        assert f"no method for adapters of PEFT type {name.upper()}" in caplog.text


def test_a_type_that_the_installed_peft_does_not_know_says_what_to_type(tmp_path: Path, base: Any) -> None:
    folder = export(lora(base()), tmp_path / "adapter", base(), lock="no")
    change_json(folder / "adapter_config.json", peft_type="TOMORROW")
    with pytest.raises(AdapterError, match="pip install --upgrade peft"):
        load_adapter(folder)
    change_json(folder / "adapter_config.json", peft_type="XLORA")
    with pytest.raises(AdapterError, match="does not stand alone"):
        load_adapter(folder)


@pytest.mark.parametrize("task_type", ["TOKEN_CLS", None], ids=["named", "by its class"])
def test_a_token_classifier_of_plain_peft_loads_with_its_number_of_labels(
    tmp_path: Path, task_type: str | None
) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    plain = BertForTokenClassification(BertConfig(**sizes, num_attention_heads=2))
    plain.bert.save_pretrained(tmp_path / "base")
    base = BertForTokenClassification.from_pretrained(tmp_path / "base", num_labels=5)
    config = LoraConfig(task_type=task_type, target_modules=["query"], modules_to_save=["classifier"])
    model = shake(get_peft_model(base, config))
    loaded = load_adapter(export(model, tmp_path / "adapter", tmp_path / "base", lock="no"))
    assert torch.equal(logits(loaded), logits(model)) and logits(loaded).shape[-1] == 5


def test_a_classifier_of_plain_peft_loads_with_its_number_of_labels(tmp_path: Path, base: Any) -> None:
    plain = AUTO["bert"].from_pretrained(base("bert"), num_labels=7, ignore_mismatched_sizes=True)
    model = shake(get_peft_model(plain, LoraConfig(task_type="SEQ_CLS", target_modules=["query"])))
    loaded = load_adapter(export(model, tmp_path / "adapter", base("bert"), lock="no"))
    assert torch.equal(logits(loaded), logits(model)) and logits(loaded).shape[-1] == 7


def test_an_adapter_over_four_bits_gets_four_bits_whatever_its_method_is_called(tmp_path: Path, base: Any) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_compute_dtype=torch.float32)
    wide = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(wide).save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    plain = AUTO["llama"].from_pretrained(tmp_path / "base", quantization_config=settings, dtype=torch.float32)
    model = shake(get_peft_model(plain, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])))
    loaded = load_adapter(export(model, tmp_path / "adapter", tmp_path / "base"), verify="probe")
    found = loaded.get_base_model().config.quantization_config
    assert (found.load_in_4bit, found.bnb_4bit_quant_type, found.bnb_4bit_use_double_quant) == (True, "fp4", False)


def test_it_goes_to_the_device_that_is_asked_for(tmp_path: Path, base: Any) -> None:
    folder = export(lora(base()), tmp_path / "adapter", base())
    loaded = load_adapter(folder, device="cpu")
    assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu"}
    with pytest.raises(AdapterError, match="Pass one of them"):
        load_adapter(folder, device="cpu", device_map="auto")
    with pytest.raises(AdapterError, match="off, lock, probe"):
        load_adapter(folder, verify="on")


# ------------------------------------------------------------------------------------------------ vocabulary


def resized(base: Path, rows: int, kind: str = "llama") -> Any:
    plain = AUTO[kind].from_pretrained(base)
    plain.resize_token_embeddings(rows)
    return plain


GREW = {
    "saved by PEFT itself": {},
    "saved modules": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "new tokens": {
        "trainable_token_indices": {"embed_tokens": list(range(64, 70)), "lm_head": list(range(64, 70))},
    },
}


@pytest.mark.parametrize("lock", ["yes", "no"])
@pytest.mark.parametrize("name", GREW)
def test_a_resized_vocabulary_is_resized_again(tmp_path: Path, base: Any, name: str, lock: str) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], **GREW[name])
    model = shake(get_peft_model(resized(base(), 70), config))
    folder = export(model, tmp_path / "adapter", base(), lock=lock)
    loaded = load_adapter(folder, verify="probe" if lock == "yes" else "lock")
    assert loaded.get_input_embeddings().weight.shape[0] == 70
    assert torch.equal(logits(loaded), logits(model))


def test_new_rows_that_nothing_fills_are_refused_unless_no_token_uses_them(tmp_path: Path, base: Any) -> None:
    model = shake(get_peft_model(resized(base(), 70), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])))
    model.save_pretrained(tmp_path / "checkpoint", save_embedding_layers=False)
    lock = make_lock(model, base_name=str(base()))
    AdapterDir.write(tmp_path / "adapter", source=tmp_path / "checkpoint", lock=lock)
    with pytest.raises(MismatchError, match="trained with 70 rows.*the base has 64.*they would be random"):
        load_adapter(tmp_path / "adapter")
    loaded = load_adapter(tmp_path / "adapter", tokenizer=tokenizer())  # nine words: the new rows are padding
    assert torch.equal(logits(loaded)[..., :64], logits(model)[..., :64])


def test_another_base_is_caught_behind_a_resized_vocabulary(tmp_path: Path, base: Any) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], **GREW["new tokens"])
    folder = export(shake(get_peft_model(resized(base(), 70), config)), tmp_path / "adapter", base())
    lock = json.loads((folder / "hfplug_lock.json").read_text())
    embedding = {name: entry for name, entry in lock["tensors"].items() if "embed" in name}
    change_json(folder / "hfplug_lock.json", tensors=embedding)  # all that can be compared over four bits
    load_adapter(folder)
    with pytest.raises(MismatchError, match="weights are not those"):
        load_adapter(folder, base=base(seed=1))


# --------------------------------------------------------------------------------------------- what is wrong


def test_another_base_of_the_same_shape(tmp_path: Path, base: Any) -> None:
    folder = export(lora(base()), tmp_path / "adapter", base())
    with pytest.raises(MismatchError, match=r"weights are not those of the adapter's base.*Load '.*llama-0'"):
        load_adapter(folder, base=base(seed=1))
    assert load_adapter(folder, base=base(seed=1), verify="off") is not None
    shutil.copytree(base(), tmp_path / "moved")
    assert load_adapter(folder, base=tmp_path / "moved", verify="probe") is not None


def test_a_base_that_differs_where_nothing_is_sampled_fails_the_probe(tmp_path: Path, base: Any) -> None:
    folder = export(lora(base()), tmp_path / "adapter", base())
    near = AUTO["llama"].from_pretrained(base())
    with torch.no_grad():
        near.model.norm.weight.mul_(1.02)  # a vector, of which fingerprints take none
    near.save_pretrained(tmp_path / "near")
    load_adapter(folder, base=tmp_path / "near")
    with pytest.raises(MismatchError, match=r"does not answer as it did.*largest difference.*0\.0\d+.*torch "):
        load_adapter(folder, base=tmp_path / "near", verify="probe")


def test_an_adapter_without_a_probe_cannot_be_verified_by_it(tmp_path: Path, base: Any) -> None:
    folder = export(lora(base()), tmp_path / "adapter", base(), lock="no")
    with pytest.raises(AdapterError, match="has no probe"):
        load_adapter(folder, verify="probe")


@pytest.mark.parametrize("own", ["in the adapter's folder", "beside the base", "given"])
def test_a_changed_tokenizer(tmp_path: Path, base: Any, own: str) -> None:
    folder = export(lora(base()), tmp_path / "adapter", base())
    given = None
    if own == "given":
        given = tokenizer("new")
    else:
        tokenizer("new").save_pretrained(folder if own == "in the adapter's folder" else base())
    with pytest.raises(MismatchError, match="The tokenizer is not the one that the adapter was trained with"):
        load_adapter(folder, tokenizer=given)


def test_a_tokenizer_or_configuration_that_another_version_wrote_is_a_warning(
    tmp_path: Path, base: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = export(lora(base()), tmp_path / "adapter", base())
    other = {"transformers": "4.1.0", "tokenizers": "0.1.0"}
    change_json(folder / "hfplug_lock.json", tokenizer_sha256="0" * 64, config_sha256="0" * 64)
    with pytest.raises(MismatchError, match="configuration.*tokenizer"):
        load_adapter(folder)
    change_json(folder / "hfplug_lock.json", versions=other)
    load_adapter(folder, verify="probe")
    assert "The libraries have other versions too" in caplog.text and "configuration is not that" in caplog.text


def test_a_changed_prompt(tmp_path: Path, base: Any) -> None:
    folder = export(lora(base()), tmp_path / "adapter", base())
    change_json(folder / "hfplug_task.json", prompt="Be funny. {dialogue}")
    with pytest.raises(MismatchError, match="The prompt of task 'summary' is not the one"):
        load_adapter(folder)


def test_a_changed_tensor(tmp_path: Path, base: Any) -> None:
    folder = export(lora(base()), tmp_path / "adapter", base())
    change_weights(folder, lambda tensors: next(iter(tensors.values())).mul_(1.0001))
    with pytest.raises(AdapterError, match=r"adapter_model.safetensors is not the file that was exported.*Pull"):
        load_adapter(folder)
    assert load_adapter(folder, verify="off") is not None


def test_changed_settings(tmp_path: Path, base: Any) -> None:
    folder = export(lora(base()), tmp_path / "adapter", base())
    change_json(folder / "adapter_config.json", base_model_name_or_path="elsewhere", peft_version="9")
    load_adapter(folder)
    change_json(folder / "adapter_config.json", lora_alpha=64)
    with pytest.raises(AdapterError, match="does not hold the settings"):
        load_adapter(folder)


@pytest.mark.parametrize("lock", ["yes", "no"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity(tmp_path: Path, base: Any, lock: str, value: float) -> None:
    folder = export(lora(base()), tmp_path / "adapter", base(), lock=lock)
    if lock == "yes":
        AdapterDir.write(tmp_path / "sealed", source=folder, weights={k: v * value for k, v in tensors(folder).items()})
        folder = tmp_path / "sealed"
    else:
        change_weights(folder, lambda tensors: next(iter(tensors.values()))[0].fill_(value))
    with pytest.raises(AdapterError, match=r"numbers of '.*lora_A.weight' in .* are NaN or infinite"):
        load_adapter(folder)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_missing_and_unexpected_tensors(tmp_path: Path, base: Any) -> None:
    folder = export(lora(base()), tmp_path / "adapter", base(), lock="no")
    first = sorted(tensors(folder))[0]
    whole = tensors(folder)
    change_weights(folder, lambda found: found.pop(first))
    with pytest.raises(MismatchError, match=rf"1 tensors .* are missing, e.g. {first}"):
        load_adapter(folder)
    save_file(whole | {"base_model.model.model.norm.weight": torch.ones(16)}, folder / "adapter_model.safetensors")
    with pytest.raises(MismatchError, match="1 tensors .* have no place in this model, e.g. base_model.*norm"):
        load_adapter(folder)
    save_file(whole | {"base_model.model.stowaway": torch.ones(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(MismatchError, match="have no place in this model.*stowaway"):
        load_adapter(folder)


def test_a_base_of_another_shape_names_the_tensor(tmp_path: Path, base: Any, make_model: MakeModel) -> None:
    folder = export(lora(base()), tmp_path / "adapter", base(), lock="no")
    change_weights(folder, lambda found: found.update({k: torch.ones(3, 3) for k in list(found)[:1]}))
    with pytest.raises(MismatchError, match="size mismatch for"):
        load_adapter(folder)


@pytest.mark.parametrize("lock", ["yes", "no"])
def test_a_head_that_neither_base_nor_adapter_holds(tmp_path: Path, base: Any, lock: str) -> None:
    plain = AUTO["bert"].from_pretrained(base("bert"))
    plain.bert.save_pretrained(tmp_path / "headless")
    tokenizer().save_pretrained(tmp_path / "headless")
    model = AUTO["bert"].from_pretrained(tmp_path / "headless")
    config = LoraConfig(target_modules=["query"])  # without a task type PEFT saves no head
    folder = export(shake(get_peft_model(model, config)), tmp_path / "adapter", tmp_path / "headless", lock=lock)
    with pytest.raises(MismatchError, match=r"classifier would stay random.*modules_to_save=\['classifier'\]"):
        load_adapter(folder, task_type="classification")
    assert load_adapter(folder, task_type="classification", verify="off") is not None


def test_a_head_that_was_lost_from_the_file(tmp_path: Path, base: Any) -> None:
    folder = export(lora(base("bert"), "bert"), tmp_path / "adapter", base("bert"), lock="no")
    change_weights(folder, lambda found: [found.pop(name) for name in list(found) if "classifier" in name])
    with pytest.raises(MismatchError, match="lacks the tensor .*classifier"):
        load_adapter(folder)


@pytest.mark.parametrize("name", ["hf://alice/summary", "alice/summary"])
def test_an_address_on_a_hub_is_pulled_by_another_function(name: str) -> None:
    with pytest.raises(AdapterError, match=f"hfplug.load_from_hub\\('{name}'\\)"):
        load_adapter(name)


def test_a_full_model_is_checked_too(tmp_path: Path, base: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = shake(AUTO["llama"].from_pretrained(base()))
    with caplog.at_level(logging.INFO):
        folder = export(model, tmp_path / "full", base(), plain=AUTO["llama"].from_pretrained(base()))
    tokenizer().save_pretrained(folder)
    assert torch.equal(logits(load_adapter(folder, verify="probe")), logits(model))
    whole = load_file(folder / "model.safetensors")
    save_file(whole | {"lm_head.weight": whole["lm_head.weight"] * 1.001}, folder / "model.safetensors")
    with pytest.raises(AdapterError, match="model.safetensors is not the file that was exported"):
        load_adapter(folder)
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer("new").save_pretrained(folder)
    with pytest.raises(MismatchError, match="The tokenizer is not the one"):
        load_adapter(folder)
