"""A model object that becomes the tuned one: every reference is, and its outputs have the base's shapes."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from plug_samples import make_base, tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertForMaskedLM,
    GenerationConfig,
    PreTrainedModel,
    T5ForConditionalGeneration,
)

import hfplug
from hfplug.errors import MethodError, MismatchError, TrainingError
from hfplug.methods import get_method, method_names
from hfplug.training.load_notes import note_of
from hfplug.training.plug_soft import position_limit

LOADERS = {
    ("t5", "seq2seq"): AutoModelForSeq2SeqLM,
    ("llama", "causal"): AutoModelForCausalLM,
    ("gpt2", "causal"): AutoModelForCausalLM,
    ("bert", "classification"): AutoModelForSequenceClassification,
    ("llama", "classification"): AutoModelForSequenceClassification,
    ("bert", "tokens"): AutoModelForTokenClassification,
    ("bert", "questions"): AutoModelForQuestionAnswering,
}
QUICK = ("lora", "prompt_tuning")
# The others run with the slow tests.
ADAPTERS = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name in method_names()
    if get_method(name).category != "all weights"
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Name of a model type to a folder with a random model of it."""
    folder = tmp_path_factory.mktemp("bases")
    return {kind: make_base(kind, folder / kind) for kind in ("t5", "llama", "gpt2", "bert")}


def skip_without_bias(method, kind):
    if method == "bitfit" and kind in ("t5", "llama"):
        pytest.skip("it has no bias, and bitfit says so")


def load(bases, kind, task, **kwargs):
    torch.manual_seed(1)
    return LOADERS[kind, task].from_pretrained(bases[kind], **kwargs).eval()


def batch(task, seed=0):
    """Two rows of 9 and 6 tokens, padded on the right, with what the task's loss needs."""
    ids = torch.randint(3, 200, (2, 9), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    ids[1, 6:] = 0
    extra = {
        "seq2seq": {"labels": ids[:, :5].contiguous()},
        "causal": {"labels": ids.masked_fill(mask == 0, -100)},
        "classification": {"labels": torch.tensor([0, 1])},
        "tokens": {"labels": (ids % 2).masked_fill(mask == 0, -100)},
        "questions": {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])},
    }[task]
    return {"input_ids": ids, "attention_mask": mask, **extra}


def train(model, inputs, steps=3, rate=0.1):
    """A few steps of AdamW on one batch."""
    model.train()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=rate)
    for _ in range(steps):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def shapes(outputs):
    """Name of each tensor of an output to its shape."""
    return {
        name: [tuple(one.shape) for one in value] if isinstance(value, tuple) else tuple(value.shape)
        for name, value in outputs.items()
        if name != "past_key_values"
    }


@pytest.mark.parametrize(("kind", "task"), LOADERS)
@pytest.mark.parametrize("method", ADAPTERS)
def test_outputs_have_the_bases_shapes_and_an_untrained_adapter_gives_the_bases_numbers(bases, kind, task, method):
    skip_without_bias(method, kind)
    model = load(bases, kind, task, attn_implementation="eager")
    if method == "qlora":
        hfplug.plug(reference := load(bases, kind, task, attn_implementation="eager"), "qlora")
        model, base = reference, copy.deepcopy(reference).unload()
    else:
        base = copy.deepcopy(model)
        hfplug.plug(model, method)
    inputs = batch(task)
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        before, after = base(**inputs, **asked), model(**inputs, **asked)
    assert shapes(after) == shapes(before)
    assert torch.equal(after.loss, before.loss)
    logits = [name for name in before if "logits" in name]
    assert logits and all(torch.equal(after[name], before[name]) for name in logits)
    train(model, inputs, steps=8, rate=0.01)
    with torch.no_grad():
        trained = model(**inputs, **asked)
    assert shapes(trained) == shapes(before)
    assert trained.loss != before.loss


@pytest.mark.parametrize(("kind", "task"), LOADERS)
def test_under_a_soft_prompt_a_row_gets_the_same_logits_whatever_padding_stands_behind_it(bases, kind, task):
    model = load(bases, kind, task)
    hfplug.plug(model, "prompt_tuning", num_virtual_tokens=4)
    inputs = batch(task)
    train(model, inputs)
    short = {
        name: value[1:, :6] if value.dim() > 1 and name != "labels" else value[1:] for name, value in inputs.items()
    }
    short = {name: value for name, value in short.items() if "label" not in name and "positions" not in name}
    if task == "seq2seq":
        short["decoder_input_ids"] = inputs["decoder_input_ids"] = torch.tensor([[0, 5], [0, 5]])
        short["decoder_input_ids"] = short["decoder_input_ids"][1:]
        inputs.pop("labels")
    with torch.no_grad():
        together, alone = model(**inputs), model(**short)
    for name in [name for name in alone if "logits" in name]:
        wide = together[name][1:]
        wide = wide if task in ("classification", "seq2seq") else wide[:, :6]
        assert torch.allclose(wide, alone[name], atol=1e-5), name


def test_under_a_soft_prompt_logits_are_those_of_peft_without_the_virtual_places(bases):
    for kind, task in (("llama", "causal"), ("bert", "tokens"), ("bert", "classification")):
        model = load(bases, kind, task)
        plain = load(bases, kind, task)
        hfplug.plug(model, "prompt_tuning", num_virtual_tokens=4)
        by_hand = get_peft_model(plain, copy.deepcopy(model.active_peft_config)).eval()
        train(model, batch(task))
        by_hand.load_state_dict(model.state_dict())
        inputs = {name: value[:1] for name, value in batch(task).items()}
        if task == "tokens":
            inputs.pop("labels")  # with labels PEFT itself fails
        with torch.no_grad():
            ours, theirs = model(**inputs), by_hand(**inputs)
        skip = 0 if task == "classification" else 4
        assert torch.allclose(ours.logits, theirs.logits[:, skip:], atol=1e-6)
        assert task == "tokens" or torch.allclose(ours.loss, theirs.loss, atol=1e-6)


def test_the_loss_of_a_question_answerer_is_computed_from_the_tokens_that_the_script_means(bases):
    model = load(bases, "bert", "questions")
    hfplug.plug(model, "prompt_tuning", num_virtual_tokens=4)
    inputs = batch("questions")
    train(model, inputs, steps=60, rate=0.3)
    with torch.no_grad():
        outputs = model(**inputs)
        again = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], return_dict=False)
    assert outputs.start_logits.argmax(1).tolist() == [1, 2] and outputs.end_logits.argmax(1).tolist() == [3, 4]
    assert torch.equal(again[0], outputs.start_logits)


def test_the_object_is_what_it_was_and_a_peft_model(bases):
    model = load(bases, "t5", "seq2seq")
    holder = {"model": model}
    assert hfplug.plug(model, "lora", r=4) is model
    assert isinstance(holder["model"], PeftModel)
    assert isinstance(model, PreTrainedModel) and isinstance(model, T5ForConditionalGeneration)
    assert model.config.model_type == "t5" and model.get_input_embeddings().weight.shape[1] == 32
    copied = copy.deepcopy(model)
    inputs = batch("seq2seq")
    train(model, inputs)
    with torch.no_grad():
        assert not torch.equal(copied(**inputs).loss, model(**inputs).loss)


@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_generate_takes_what_it_took_and_a_new_generation_config_counts(bases, method):
    model = load(bases, "t5", "seq2seq")
    ids = batch("seq2seq")["input_ids"]
    before = model.generate(ids, max_new_tokens=5)
    hfplug.plug(model, method)
    assert torch.equal(model.generate(ids, max_new_tokens=5), before)
    train(model, batch("seq2seq"), rate=0.5, steps=20)
    assert torch.equal(model.generate(ids, max_new_tokens=5), model.generate(input_ids=ids, max_new_tokens=5))
    assert not torch.equal(model.generate(ids, max_new_tokens=5), before)
    model.generation_config = GenerationConfig(max_new_tokens=3, decoder_start_token_id=0, pad_token_id=0)
    assert model.generate(ids).shape[1] <= 4


def test_a_soft_prompted_row_generates_the_same_alone_and_beside_a_longer_one(bases):
    model = load(bases, "gpt2", "causal")
    hfplug.plug(model, "prompt_tuning", num_virtual_tokens=4)
    train(model, batch("causal"), rate=0.5, steps=10)
    ids = torch.randint(3, 200, (1, 5), generator=torch.Generator().manual_seed(3))
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), ids], dim=1)
    both = torch.cat([padded, torch.randint(3, 200, (1, 9), generator=torch.Generator().manual_seed(4))])
    mask = torch.ones_like(both)
    mask[0, :4] = 0
    alone = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6)
    beside = model.generate(both, attention_mask=mask, max_new_tokens=6)
    assert torch.equal(beside[:, :9], both)
    assert beside[0, 9:].tolist() == alone[0, 5:].tolist()
    assert torch.equal(model.generate(both, attention_mask=mask, max_length=15), beside)


@pytest.mark.parametrize(("kind", "task"), [("t5", "seq2seq"), ("llama", "causal"), ("bert", "classification")])
@pytest.mark.parametrize("method", ADAPTERS)
def test_what_the_model_saves_reloads_in_plain_peft_and_in_hfplug_to_the_same_loss(bases, tmp_path, kind, task, method):
    skip_without_bias(method, kind)
    model = load(bases, kind, task)
    hfplug.plug(model, method)
    inputs = {name: value[:1] for name, value in batch(task).items()}
    train(model, inputs)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        loss = model(**inputs).loss
        fresh = hfplug.plug(load(bases, kind, task), method)
        fresh.load_adapter(str(tmp_path), "default")
        assert torch.allclose(fresh(**inputs).loss, loss, atol=1e-5)
    if method != "qlora":  # which without a lock beside it does not say that its base was in 4 bits
        with torch.no_grad():
            ours = hfplug.load_adapter(tmp_path, base=bases[kind])(**inputs).loss
            assert torch.allclose(ours, loss, atol=1e-5)
            theirs = PeftModel.from_pretrained(load(bases, kind, task), tmp_path)(**inputs).loss
        assert torch.allclose(theirs, loss, atol=1e-5)


def test_layers_that_the_checkpoint_did_not_hold_are_trained_and_saved(bases, tmp_path):
    model = load(bases, "bert", "classification")
    assert "bert.pooler.dense.weight" in note_of(model).missing
    hfplug.plug(model, "lora")
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert any("pooler" in name for name in trained) and any("classifier" in name for name in trained)
    train(model, batch("classification"))
    model.save_pretrained(tmp_path)
    torch.manual_seed(99)  # whatever else the head and the pooler start as
    again = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(bases["bert"]), tmp_path)
    with torch.no_grad():
        assert torch.equal(again.eval()(**batch("classification")).logits, model(**batch("classification")).logits)


@pytest.mark.parametrize(("kind", "task"), [("t5", "seq2seq"), ("llama", "causal"), ("gpt2", "causal")])
@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "ia3"])
def test_a_resized_vocabulary_keeps_its_new_rows(bases, tmp_path, kind, task, method):
    model = load(bases, kind, task)
    rows = len(tokenizer())
    model.resize_token_embeddings(rows + 3)
    hfplug.plug(model, method)
    inputs = batch(task)
    inputs["input_ids"][0, 0] = rows + 1
    train(model, inputs)
    model.save_pretrained(tmp_path)
    if method == "lora":
        whole = (rows + 3) * 32 * 4
        assert sum(file.stat().st_size for file in tmp_path.glob("*.safetensors")) < whole
    plain = load(bases, kind, task)
    plain.resize_token_embeddings(rows + 3)
    again = PeftModel.from_pretrained(plain, tmp_path).eval()
    with torch.no_grad():
        row = {name: value[:1] for name, value in inputs.items()}
        assert torch.allclose(again(**row).loss, model(**row).loss, atol=1e-6)


def test_qlora_brings_a_loaded_model_into_the_four_bits_that_loading_would_have_given(bases):
    model = load(bases, "llama", "causal")
    hfplug.plug(model, "qlora")
    loaded = hfplug.build_model(bases["llama"], "qlora").eval()
    assert {type(one).__name__ for one in model.modules()} >= {"Linear4bit"}
    assert type(model.get_output_embeddings()).__name__ == "Linear"
    inputs = batch("causal")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)


def test_qlora_leaves_a_random_head_in_full_precision(bases):
    model = load(bases, "bert", "classification")
    hfplug.plug(model, "qlora")
    kept = {name for name, one in model.named_modules() if type(one) is torch.nn.Linear and "lora" not in name}
    assert any(name.endswith("pooler.dense.modules_to_save.default") for name in kept) or any(
        "pooler" in n for n in kept
    )
    assert any("classifier" in name for name in kept)


def test_a_model_with_peft_of_its_own_is_left_alone_and_it_is_said(bases, caplog):
    from peft import LoraConfig

    own = get_peft_model(load(bases, "llama", "causal"), LoraConfig(task_type="CAUSAL_LM", r=2))
    names = [name for name, _ in own.named_parameters()]
    hfplug.plug(own, "lora", r=8)
    assert [name for name, _ in own.named_parameters()] == names
    assert "it is kept, and lora is not put on it" in caplog.text


def test_a_model_that_is_plugged_is_kept_and_another_method_on_it_is_refused(bases):
    model = load(bases, "llama", "causal")
    hfplug.plug(model, "lora", r=4)
    train(model, batch("causal"))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    hfplug.plug(model, "lora", r=4)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(MethodError, match="has lora on it already"):
        hfplug.plug(model, "prompt_tuning")


def test_a_module_of_ones_own_around_a_model_is_refused_and_not_skipped(bases):
    class Around(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

    with pytest.raises(MethodError, match="Around of the script's own around a LlamaForCausalLM"):
        hfplug.plug(Around(load(bases, "llama", "causal")), "lora")


def test_a_masked_language_model_takes_lora_and_refuses_a_soft_prompt(bases):
    inputs = {**batch("tokens"), "labels": batch("tokens")["input_ids"]}
    model = BertForMaskedLM.from_pretrained(bases["bert"])
    with pytest.raises(MethodError, match="PEFT does not do on a BertForMaskedLM"):
        hfplug.plug(model, "prompt_tuning")
    before = model(**inputs).loss
    torch.manual_seed(0)
    hfplug.plug(model, "lora")
    train(model, inputs, rate=0.01)
    assert model(**inputs).loss < before


def test_an_encoder_decoder_classifier_learns_a_soft_prompt(bases):
    model = AutoModelForSequenceClassification.from_pretrained(bases["t5"])
    hfplug.plug(model, "prompt_tuning")
    ids = batch("classification")["input_ids"].clone()
    ids[:, -1] = model.config.eos_token_id
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(len(ids)) % 2}
    before = model(**inputs).loss
    train(model, inputs)
    assert model(**inputs).loss < before


def test_an_encoder_decoder_classifier_refuses_a_prefix_in_one_line(bases):
    model = AutoModelForSequenceClassification.from_pretrained(bases["t5"])
    with pytest.raises(MethodError, match="classifier takes none"):
        hfplug.plug(model, "prefix_tuning")


def test_a_refused_model_is_as_it_was(bases):
    model = AutoModelForSequenceClassification.from_pretrained(bases["t5"])
    names = [name for name, _ in model.named_parameters()]
    with pytest.raises(MethodError):
        hfplug.plug(model, "prefix_tuning")
    assert [name for name, _ in model.named_parameters()] == names and not isinstance(model, PeftModel)


@pytest.mark.parametrize(("kind", "limit"), [("gpt2", 64), ("bert", 80), ("llama", None), ("t5", None)])
def test_positions_that_would_overflow_are_named_with_the_number_to_use(bases, kind, limit):
    task = {"gpt2": "causal", "bert": "tokens", "llama": "causal", "t5": "seq2seq"}[kind]
    model = load(bases, kind, task)
    assert position_limit(model) == limit
    hfplug.plug(model, "prompt_tuning", num_virtual_tokens=20)
    train(model, batch(task), steps=1)
    ids = torch.full((1, 62), 5)
    if limit is None:
        return
    with pytest.raises(TrainingError, match=f"cut its inputs at {limit - 20} tokens"):
        model(input_ids=ids)


def test_an_adapter_with_other_settings_is_refused_with_the_difference(bases, tmp_path):
    made = load(bases, "llama", "causal")
    hfplug.plug(made, "lora", r=4)
    made.save_pretrained(tmp_path)
    other = load(bases, "llama", "causal")
    hfplug.plug(other, "lora", r=4, lora_alpha=8)
    with pytest.raises(MismatchError, match="lora_alpha is 32 there and 8 here"):
        other.load_adapter(str(tmp_path), "default", is_trainable=True)
    soft = load(bases, "llama", "causal")
    hfplug.plug(soft, "prompt_tuning")
    with pytest.raises(MismatchError, match="it is of type LORA, and this run is PROMPT_TUNING"):
        soft.load_adapter(str(tmp_path), "default")
    with pytest.raises(MismatchError, match="look like a fully tuned model"):
        soft.load_state_dict(load(bases, "llama", "causal").state_dict(), strict=False)
