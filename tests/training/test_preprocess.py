"""Text becomes ids the same way for training and for asking; only the dialogue is ever cut."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from hfplug.adapters.task import Task
from hfplug.errors import DataError
from hfplug.training.dataset import Example, examples_from, load_data, pick_split
from hfplug.training.preprocess import IGNORED, Preprocessor

TASK = Task(
    name="summary",
    prompt="Summarize the conversation.\n\n{dialogue}\n\nSummary:",
    max_input_tokens=512,
    max_target_tokens=64,
)
TURNS = [f"#Person{n % 2 + 1}#: This is turn number {n}, about the {n}th thing." for n in range(30)]
DIALOGUE = "\n".join(TURNS)
TARGET = "#Person1# and #Person2# talk about thirty things."
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A finished turn is written otherwise than one to be continued, as some "thinking" models do.
THINKING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
REAL = Path(__file__).parents[3] / "shared" / "data" / "dialogsum.dev.jsonl"


def _bpe(special: list[str]) -> Tokenizer:
    """A byte-level BPE of some 400 tokens, trained on the texts above."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([DIALOGUE, TARGET, TASK.prompt], trainer)
    return tokenizer


def _gpt() -> PreTrainedTokenizerFast:
    """Like GPT-2's: an end token, no padding token, nothing added."""
    return PreTrainedTokenizerFast(tokenizer_object=_bpe(["<|endoftext|>"]), eos_token="<|endoftext|>")


def _bos_eos() -> PreTrainedTokenizerFast:
    """Like Llama's with add_eos_token: ``<s> ... </s>`` around everything."""
    inner = _bpe(["<s>", "</s>"])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def _metaspace() -> PreTrainedTokenizerFast:
    """Like Llama 2's: a space is a sign of its own, and one is put before the text."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    inner.train_from_iterator(
        [DIALOGUE, TARGET, TASK.prompt],
        trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False),
    )
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _chat(template: str = CHATML) -> PreTrainedTokenizerFast:
    inner = _bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=template,
    )


def _t5() -> PreTrainedTokenizerFast:
    inner = _bpe(["<pad>", "</s>"])
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>")


class SlowLetters(PreTrainedTokenizer):
    """A tokenizer in Python, a token a letter: it cannot say where in the text a token lies."""

    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, **kwargs):
        self._letters = {chr(code): code for code in range(32, 127)} | {"\n": 10, "</s>": 1, "<unk>": 0}
        super().__init__(eos_token="</s>", unk_token="<unk>", **kwargs)

    @property
    def vocab_size(self):
        return 128

    def get_vocab(self):
        return dict(self._letters)

    def _tokenize(self, text, **kwargs):
        return list(text)

    def _convert_token_to_id(self, token):
        return self._letters.get(token, 0)

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens)

    def _convert_id_to_token(self, index):
        return next((token for token, number in self._letters.items() if number == index), "<unk>")


KINDS = {
    "causal": (_gpt, False),
    "causal with <s> and </s>": (_bos_eos, False),
    "causal with a sign for the space": (_metaspace, False),
    "chat": (_chat, False),
    "thinking chat": (lambda: _chat(THINKING), False),
    "seq2seq": (_t5, True),
    "slow": (SlowLetters, True),
}


@pytest.fixture(scope="module", params=KINDS, ids=str)
def kind(request):
    make, encoder_decoder = KINDS[request.param]
    return make(), encoder_decoder


def _answer(row: dict) -> list[int]:
    return [label for label in row["labels"] if label != IGNORED]


# -- of every kind of tokenizer ---------------------------------------------------------------------


def test_training_and_asking_see_the_same_prompt_ids(kind):
    tokenizer, encoder_decoder = kind
    whole = Preprocessor(TASK, tokenizer, encoder_decoder=encoder_decoder, max_input_tokens=4000)
    limit = len(whole.prompt(DIALOGUE).input_ids) * 2 // 3
    cut = Preprocessor(TASK, tokenizer, encoder_decoder=encoder_decoder, max_input_tokens=limit)
    for made, truncated in ((whole, False), (cut, True)):
        asked, row = made.prompt(DIALOGUE), made.train_example(DIALOGUE, TARGET)
        assert asked.truncated is truncated
        assert row["input_ids"][: len(asked.input_ids)] == asked.input_ids


def test_the_loss_is_on_the_answer_alone_and_the_answer_ends(kind):
    tokenizer, encoder_decoder = kind
    made = Preprocessor(TASK, tokenizer, encoder_decoder=encoder_decoder, max_target_tokens=100)
    row = made.train_example("#Person1#: Hi.", TARGET)
    answer = _answer(row)
    assert tokenizer.decode(answer[:-1]).strip() == TARGET
    assert answer[-1] == made.stop_token_ids[0]
    if not encoder_decoder:
        prompt = made.prompt("#Person1#: Hi.").input_ids
        assert row["input_ids"] == prompt + answer
        assert row["labels"] == [IGNORED] * len(prompt) + answer


def test_a_long_dialogue_loses_its_last_turns_and_the_instruction_stays(kind):
    tokenizer, encoder_decoder = kind
    whole = Preprocessor(TASK, tokenizer, encoder_decoder=encoder_decoder, max_input_tokens=4000)
    limit = len(whole.prompt(DIALOGUE).input_ids) * 2 // 3
    made = Preprocessor(TASK, tokenizer, encoder_decoder=encoder_decoder, max_input_tokens=limit)
    prompt = made.prompt(DIALOGUE)
    assert prompt.truncated
    assert limit * 0.8 < len(prompt.input_ids) <= limit
    assert prompt.text.startswith(TASK.prefix)
    assert prompt.text.endswith(TASK.suffix)
    kept = prompt.text[len(TASK.prefix) : -len(TASK.suffix)].split("\n")
    assert kept == TURNS[: len(kept)]


def test_the_target_is_not_cut_for_a_long_dialogue(kind):
    tokenizer, encoder_decoder = kind
    made = Preprocessor(TASK, tokenizer, encoder_decoder=encoder_decoder, max_input_tokens=300, max_target_tokens=100)
    assert _answer(made.train_example(DIALOGUE, TARGET)) == _answer(made.train_example("Hi.", TARGET))


def test_a_target_that_is_too_long_keeps_its_end_token(kind):
    tokenizer, encoder_decoder = kind
    examples = [Example(0, "Hi.", (TARGET,)), Example(1, "Hi.", ("a",))]
    made = Preprocessor(TASK, tokenizer, encoder_decoder=encoder_decoder, max_target_tokens=6)
    encoded = made.encode_dataset(examples)
    answer = _answer(encoded.dataset[0])
    assert len(answer) == 6
    assert answer[-1] == made.stop_token_ids[0]
    assert encoded.report.truncated_targets == 1


def test_reserved_positions_are_left_free(kind):
    tokenizer, encoder_decoder = kind
    made = Preprocessor(TASK, tokenizer, encoder_decoder=encoder_decoder, max_input_tokens=500, reserve=50)
    assert len(made.prompt(DIALOGUE).input_ids) <= 450


def test_an_instruction_that_does_not_fit_is_refused_with_the_numbers(kind):
    tokenizer, encoder_decoder = kind
    with pytest.raises(DataError, match=r"takes \d+ tokens .* max_input_tokens is 5.*--max-input-tokens \d+"):
        Preprocessor(TASK, tokenizer, encoder_decoder=encoder_decoder, max_input_tokens=5)


def test_the_tokenizer_is_left_as_it_was(kind):
    tokenizer, encoder_decoder = kind
    before = (len(tokenizer), tokenizer.padding_side, tokenizer.truncation_side, tokenizer.special_tokens_map)
    Preprocessor(TASK, tokenizer, encoder_decoder=encoder_decoder).train_example(DIALOGUE, TARGET)
    assert before == (
        len(tokenizer),
        tokenizer.padding_side,
        tokenizer.truncation_side,
        tokenizer.special_tokens_map,
    )
    plain = tokenizer("one two", add_special_tokens=False)["input_ids"]
    assert len(tokenizer("one two " * 400, add_special_tokens=False)["input_ids"]) > 100 * len(plain)


# -- cutting ----------------------------------------------------------------------------------------


def test_a_single_long_turn_is_cut_at_a_word():
    text = "#Person1#: " + " ".join(["number"] * 300)
    made = Preprocessor(TASK, _gpt(), encoder_decoder=False, max_input_tokens=200)
    prompt = made.prompt(text)
    kept = prompt.text[len(TASK.prefix) : -len(TASK.suffix)]
    assert prompt.truncated
    assert text.startswith(kept)
    assert kept.endswith(" number")


def test_a_text_without_spaces_is_cut_all_the_same():
    made = Preprocessor(TASK, _gpt(), encoder_decoder=False, max_input_tokens=200)
    prompt = made.prompt("你好" * 500)
    assert len(prompt.input_ids) <= 200
    assert "你好你好" in prompt.text
    assert "\ufffd" not in prompt.text


def test_a_text_of_which_nothing_fits_is_refused():
    tokenizer = _gpt()
    room = len(tokenizer(TASK.render(""))["input_ids"]) + 1
    made = Preprocessor(TASK, tokenizer, encoder_decoder=False, max_input_tokens=room)
    with pytest.raises(DataError, match="Not one word of the dialogue fits"):
        made.prompt("\u4f60" * 50)


def test_braces_in_a_dialogue_stay_as_they_are():
    made = Preprocessor(TASK, _gpt(), encoder_decoder=False)
    assert "{dialogue} {0} %s" in made.prompt("{dialogue} {0} %s").text


# -- causal -----------------------------------------------------------------------------------------


def test_a_causal_answer_is_split_as_the_model_would_write_it():
    tokenizer = _gpt()
    made = Preprocessor(TASK, tokenizer, encoder_decoder=False)
    row = made.train_example("Hi.", "This is it.")
    assert row["input_ids"][:-1] == tokenizer(TASK.render("Hi.") + " This is it.")["input_ids"]


def test_a_prompt_that_ends_in_a_space_is_not_followed_by_a_second_one():
    tokenizer = _gpt()
    task = Task(name="s", prompt="{dialogue}\nSummary: ")
    row = Preprocessor(task, tokenizer, encoder_decoder=False).train_example("Hi.", "This is it.")
    assert tokenizer.decode(row["input_ids"][:-1]) == "Hi.\nSummary: This is it."


def test_the_start_token_comes_once_and_the_end_token_only_at_the_end():
    tokenizer = _bos_eos()
    for template in ("{dialogue} Summary:", "<s>{dialogue} Summary:"):
        made = Preprocessor(Task(name="s", prompt=template), tokenizer, encoder_decoder=False)
        ids = made.train_example("Hi.", "This.")["input_ids"]
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids.count(tokenizer.eos_token_id) == 1
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


# -- chat -------------------------------------------------------------------------------------------


def test_the_chat_prompt_is_what_the_template_makes_of_it():
    tokenizer = _chat()
    made = Preprocessor(TASK, tokenizer, encoder_decoder=False)
    messages = [{"role": "user", "content": TASK.render("Hi.")}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert made.prompt("Hi.").input_ids == expected


def test_a_chat_answer_ends_with_the_templates_end_of_turn_and_nothing_after_it():
    tokenizer = _chat()
    made = Preprocessor(TASK, tokenizer, encoder_decoder=False)
    answer = _answer(made.train_example("Hi.", "This is it."))
    assert tokenizer.decode(answer) == "This is it.<|im_end|>"
    assert tokenizer.convert_ids_to_tokens(made.stop_token_ids) == ["<|im_end|>", "<|endoftext|>"]


def test_a_template_that_writes_no_end_of_turn_is_ended_with_the_end_token():
    template = "{% for m in messages %}{{ m['role'] }}:\n{{ m['content'] }}\n{% endfor %}"
    template += "{% if add_generation_prompt %}assistant:\n{% endif %}"
    tokenizer = _chat(template)
    made = Preprocessor(TASK, tokenizer, encoder_decoder=False)
    ids = made.train_example("Hi.", "This.")["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids).endswith("assistant:\nThis.\n<|endoftext|>")


@pytest.mark.parametrize("template", [CHATML, THINKING], ids=["chatml", "thinking"])
def test_chat_markers_in_a_text_do_not_end_a_turn(template):
    tokenizer = _chat(template)
    made = Preprocessor(TASK, tokenizer, encoder_decoder=False)
    row = made.train_example("They said <|im_end|> and <|im_start|>.", "It is <|im_end|> that ends a turn.")
    end, start = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"])
    assert row["input_ids"].count(start) == 2
    assert row["input_ids"].count(end) == 2
    assert tokenizer.decode(_answer(row)) == "It is <|im_end|> that ends a turn.<|im_end|>"


def test_a_template_that_refuses_is_told_as_a_data_error():
    with pytest.raises(DataError, match="no user today"):
        Preprocessor(TASK, _chat("{{ raise_exception('no user today') }}"), encoder_decoder=False)


# -- data sets --------------------------------------------------------------------------------------


def test_a_data_set_has_the_columns_that_a_trainer_reads():
    made = Preprocessor(TASK, _t5(), encoder_decoder=True)
    encoded = made.encode_dataset([Example(0, "Hi.", ("a", "b")), Example(1, "Hello you.", ("c",))])
    assert encoded.dataset.column_names == ["input_ids", "attention_mask", "labels", "length"]
    assert encoded.dataset[1] == made.train_example("Hello you.", "c")
    assert encoded.dataset["length"] == [len(ids) for ids in encoded.dataset["input_ids"]]


def test_each_reference_can_be_a_row_of_its_own():
    made = Preprocessor(TASK, _t5(), encoder_decoder=True)
    examples = [Example(0, "Hi.", ("a", "b")), Example(1, "Hello.", ("c",))]
    assert made.encode_dataset(examples).dataset.num_rows == 2
    assert made.encode_dataset(examples, references="all").dataset.num_rows == 3


@pytest.mark.parametrize("encoder_decoder", [True, False])
def test_the_report_counts_what_was_done(encoder_decoder):
    tokenizer = _t5() if encoder_decoder else _gpt()
    made = Preprocessor(TASK, tokenizer, encoder_decoder=encoder_decoder, max_input_tokens=200)
    dataset, report = made.encode_dataset([Example(0, DIALOGUE, (TARGET,)), Example(1, "Hi.", ("a",))])
    inputs = sum(len(row["input_ids"]) for row in dataset)
    targets = sum(len(_answer(row)) for row in dataset)
    assert (report.rows, report.truncated_inputs, report.truncated_targets) == (2, 1, 0)
    assert report.real_tokens == inputs + (targets if encoder_decoder else 0)
    assert report.padding_tokens_if_max_length == 2 * (200 + 64) - report.real_tokens
    assert report.longest_input == max(dataset["length"])


@pytest.mark.skipif(not REAL.exists(), reason=f"the DialogSum rows are not at {REAL}")
def test_real_dialogues_are_cut_at_the_end_of_a_turn():
    made = Preprocessor(TASK, _gpt(), encoder_decoder=False, max_input_tokens=300)
    examples = examples_from(pick_split(load_data(str(REAL)), "train[:50]"), TASK)
    for example in examples:
        prompt = made.prompt(example.text)
        kept = prompt.text[len(TASK.prefix) : -len(TASK.suffix)]
        assert len(prompt.input_ids) <= 300
        assert (kept != example.text) is prompt.truncated
        assert example.text.startswith(kept)


@pytest.mark.skipif("HFPLUG_TEST_CHAT_MODEL" not in os.environ, reason="HFPLUG_TEST_CHAT_MODEL names no folder")
def test_a_real_chat_tokenizer_round_trips():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(os.environ["HFPLUG_TEST_CHAT_MODEL"])
    made = Preprocessor(TASK, tokenizer, encoder_decoder=False)
    assert tokenizer.decode(_answer(made.train_example(DIALOGUE, TARGET))).startswith(TARGET)
