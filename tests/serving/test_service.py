"""Questions to a service, and what plain transformers and PEFT answer."""

from __future__ import annotations

import dataclasses
import json

import pytest
from service_parts import DIALOGUES, TASK, plain_answer, write_adapter

from hfplug.adapters.task import Task
from hfplug.demo.chat_base import CHAT_TEMPLATE
from hfplug.errors import DataError, ServingError
from hfplug.serving.decoding import Decoding
from hfplug.serving.info import Limits
from hfplug.serving.service import Service

KINDS = ("t5", "llama", "gpt2")
TEXT = DIALOGUES[0]


@pytest.fixture(scope="module", params=KINDS)
def shop(request, make_shop):
    return make_shop(request.param)


@pytest.fixture(scope="module")
def service(shop):
    with Service(shop.base, task=TASK, batching="mixed") as service:
        for name, folder in shop.adapters.items():
            service.load(name, folder)
        yield service


@pytest.fixture(scope="module")
def t5(make_shop):
    shop = make_shop("t5")
    with Service(shop.base, task=TASK, batching="one_by_one", limits=Limits(max_input_characters=5000)) as service:
        service.load("lora", shop.adapters["lora"])
        yield service


def test_greedy_answers_are_those_of_plain_generate_on_a_fresh_model(service, shop):
    names = ["base", *shop.adapters]
    asked = {text: service.ask_all(names, text) for text in DIALOGUES[:3]}
    texts = {text: {name: one.result().text for name, one in all_.items()} for text, all_ in asked.items()}
    for text in asked:
        assert texts[text] == {name: plain_answer(shop.base, shop.adapters.get(name), text) for name in names}
    assert len(set(texts[TEXT].values())) == len(names)  # or it would show nothing


@pytest.mark.parametrize(
    "settings",
    [{"repetition_penalty": 1.8}, {"no_repeat_ngram_size": 2}, {"num_beams": 3}, {"num_beams": 2, "max_new_tokens": 7}],
    ids=str,
)
def test_penalties_and_beams_are_those_of_plain_generate(service, shop, settings):
    names = ["base", "lora", "lora-2", "full"]
    asked = service.ask_all(names, TEXT, decoding=Decoding(**settings))
    texts = {name: one.result().text for name, one in asked.items()}
    assert texts == {name: plain_answer(shop.base, shop.adapters.get(name), TEXT, **settings) for name in names}


def test_rows_with_different_settings_share_a_pass_and_each_keeps_its_own(service, shop):
    settings = [
        {"max_new_tokens": 3}, {"max_new_tokens": 9, "repetition_penalty": 2.0}, {"temperature": 0.9, "seed": 5}, {},
    ]  # fmt: skip
    alone = [service.ask("lora", TEXT, decoding=Decoding(**one)).result() for one in settings]
    together = [service.ask("lora", TEXT, decoding=Decoding(**one)) for one in settings]
    assert [one.result().text for one in together] == [one.text for one in alone]
    assert alone[0].tokens <= 3
    assert alone[1].text == plain_answer(shop.base, shop.adapters["lora"], TEXT, **settings[1])


def test_what_is_drawn_depends_on_the_seed_alone_and_not_on_who_shares_the_pass(service):
    drawn = Decoding(temperature=1.2, seed=3, max_new_tokens=10)
    alone = service.ask("lora", TEXT, decoding=drawn).result().text
    crowd = [service.ask(name, DIALOGUES[1], decoding=Decoding(temperature=0.5)) for name in ("lora", "lora-2")]
    beside = service.ask("lora", TEXT, decoding=drawn)
    assert beside.result().text == alone
    others = {service.ask("lora", TEXT, decoding=dataclasses.replace(drawn, seed=s)).result().text for s in range(4)}
    assert len(others) > 1
    assert all(one.result().tokens for one in crowd)


def test_text_streams_and_every_piece_begins_with_the_one_before(service):
    asked = service.ask("lora", TEXT)
    pieces = list(asked)
    answer = asked.result()
    assert "".join(piece.delta for piece in pieces) == answer.text == pieces[-1].text
    assert len(pieces) > 1
    assert [piece.tokens for piece in pieces] == sorted({piece.tokens for piece in pieces})
    assert pieces[-1].tokens == answer.tokens
    assert list(asked)[-1].text == answer.text  # a second look, when it is over
    assert asked.state == "over"


def test_an_answer_says_what_it_cost(service):
    answer = service.ask("lora", TEXT, decoding=Decoding(max_new_tokens=4)).result()
    assert answer.name == "lora"
    assert answer.ended in ("stop", "length")
    assert answer.waited_seconds > 0
    assert 0 < answer.first_token_seconds <= answer.seconds
    assert answer.first_token_after_asking_seconds == answer.waited_seconds + answer.first_token_seconds
    assert answer.tokens_per_second == pytest.approx(answer.tokens / answer.seconds)


def test_a_long_text_loses_its_end_and_the_answer_says_so(t5):
    long = t5.ask("lora", "\n".join(DIALOGUES)).result()
    assert (long.truncated, t5.ask("lora", "Anna: Hello.").result().truncated) == ("yes", "no")
    assert long.prompt_tokens <= TASK.max_input_tokens


def test_the_services_own_limit_on_tokens_holds_too(make_shop):
    shop = make_shop("t5")
    with Service(shop.base, task=TASK, limits=Limits(max_input_tokens=60, max_new_tokens=5)) as service:
        answer = service.ask("base", TEXT).result()
        assert (answer.truncated, answer.prompt_tokens <= 60, answer.tokens <= 5) == ("yes", True, True)
        with pytest.raises(ServingError, match="more than the 5"):
            service.ask("base", TEXT, decoding=Decoding(max_new_tokens=6))


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("lora", "x" * 5001, "5,001 characters"),
        ("lora", " \n", "blank"),
        ("lora", 3, "int"),
        ("lorra", TEXT, "Did you mean 'lora'"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_reason(t5, name, text, words):
    with pytest.raises(ServingError, match=words):
        t5.ask(name, text)


def test_a_model_with_few_positions_is_asked_for_no_more_than_it_has(make_shop):
    shop = make_shop("gpt2")  # 256 positions
    task = dataclasses.replace(TASK, max_input_tokens=500, decoding={"max_new_tokens": 400, "min_new_tokens": 90})
    with Service(shop.base, task=task, limits=Limits(max_new_tokens=400)) as service:
        answer = service.ask("base", "\n".join(DIALOGUES)).result()
        assert (answer.truncated, answer.ended in ("stop", "length")) == ("yes", True)
        assert 90 <= answer.tokens <= 128
        assert answer.prompt_tokens + answer.tokens <= 256


def test_names_come_once_each(t5):
    with pytest.raises(ServingError, match="each once"):
        t5.ask_all(["lora", "lora"], TEXT)
    with pytest.raises(ServingError, match="each once"):
        t5.ask_all([], TEXT)


def test_a_task_can_be_given_and_one_without_room_is_refused(t5, make_shop):
    shop = make_shop("t5")
    other = Task(name="title", prompt="Title: {dialogue}", max_input_tokens=96, decoding={"max_new_tokens": 6})
    assert t5.ask("lora", TEXT, task=other).result().text == plain_answer(
        shop.base, shop.adapters["lora"], TEXT, task=other
    )
    with pytest.raises(DataError, match="no room"):
        t5.ask("lora", TEXT, task=dataclasses.replace(TASK, max_input_tokens=5))


def test_the_base_is_asked_as_its_variants_are_and_says_so_where_that_is_not_clear(make_shop, tmp_path):
    shop = make_shop("t5")
    with Service(shop.base) as service:
        with pytest.raises(ServingError, match="not known how to ask 'base'"):
            service.ask("base", TEXT)
        service.load("lora", shop.adapters["lora"])
        assert service.ask("base", TEXT).result().text == plain_answer(shop.base, None, TEXT)
        other = dataclasses.replace(TASK, name="another", prompt="In short: {dialogue}")
        service.load("two", write_adapter(shop.base, "lora", tmp_path / "two", task=other))
        with pytest.raises(ServingError, match="2 different"):
            service.ask("base", TEXT)
        assert service.ask("two", TEXT).result().text == plain_answer(shop.base, tmp_path / "two", TEXT, task=other)


def test_a_chat_template_is_used_as_in_training(make_shop, tmp_path):
    import shutil

    base = tmp_path / "chat"
    shutil.copytree(make_shop("llama").base, base)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": CHAT_TEMPLATE}))
    adapter = write_adapter(base, "lora", tmp_path / "lora", r=2)
    with Service(base) as service:
        service.load("lora", adapter)
        answer = service.ask("lora", TEXT).result()
        assert answer.text == plain_answer(base, adapter, TEXT)
        assert answer.text != plain_answer(make_shop("llama").base, adapter, TEXT)


def test_a_variant_of_a_4_bit_base_is_answered_on_one(make_shop, tmp_path):
    pytest.importorskip("bitsandbytes")
    from hfplug.adapters.load import load_adapter

    shop = make_shop("llama")
    folder = write_adapter(shop.base, "qlora", tmp_path / "qlora", r=2)
    with Service(shop.base, task=TASK) as service:
        info = service.load("qlora", folder)
        plain = service.memory().base_bytes
        assert any("4 bits" in note for note in info.notes)
        text = service.ask("qlora", TEXT).result().text
        model = load_adapter(folder, dtype="float32")
        ids, want = _plain_on(model, shop.base)
        assert text == want, ids
        service.unload("qlora")
        assert service.memory().base_bytes < plain


def _plain_on(model, base):
    import torch
    from transformers import AutoTokenizer

    from hfplug.training.preprocess import Preprocessor

    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = torch.tensor([Preprocessor(TASK, tokenizer, encoder_decoder=False).prompt(TEXT).input_ids])
    output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **TASK.decoding)
    return ids, tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()
