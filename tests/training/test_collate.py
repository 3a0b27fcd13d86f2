"""A batch is as long as its longest row, its padding is no label, and what it costs is counted."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from hfplug.errors import DataError
from hfplug.training.collate import make_collator, token_counts


def _tokenizer(**special: str) -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "</s>": 1, **{f"w{n}": n for n in range(2, 32)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="w31"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def _row(length: int, labels: list[int] | None = None) -> dict:
    ids = list(range(2, 2 + length))
    labels = [-100, *ids[1:]] if labels is None else labels
    return {"input_ids": ids, "attention_mask": [1] * length, "labels": labels, "length": length}


def test_inputs_are_padded_to_the_longest_and_labels_with_minus_100():
    batch = make_collator(_tokenizer(eos_token="</s>", pad_token="<pad>"))([_row(4, [5, 1]), _row(2, [6, 7, 1])])
    assert batch["input_ids"].tolist() == [[2, 3, 4, 5], [2, 3, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[5, 1, -100], [6, 7, 1]]
    assert "length" not in batch


def test_without_a_padding_token_the_end_token_pads_and_counts_for_nothing():
    tokenizer = _tokenizer(eos_token="</s>")
    tokenizer.padding_side = "left"
    batch = make_collator(tokenizer)([_row(3), _row(2)])
    assert batch["input_ids"].tolist() == [[2, 3, 4], [2, 3, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, 3, 4], [-100, 3, -100]]
    assert tokenizer.pad_token is None
    assert tokenizer.padding_side == "left"


def test_a_tokenizer_with_nothing_to_pad_with_is_refused():
    with pytest.raises(DataError, match="Set tokenizer.pad_token"):
        make_collator(_tokenizer())


def test_padding_goes_on_to_a_multiple():
    batch = make_collator(_tokenizer(pad_token="<pad>"), pad_to_multiple_of=8)([_row(3), _row(9)])
    assert batch["input_ids"].shape == (2, 16)
    assert batch["labels"].shape == (2, 16)


def test_the_rows_are_left_as_they_were():
    rows = [_row(4), _row(2)]
    make_collator(_tokenizer(pad_token="<pad>"))(rows)
    assert rows == [_row(4), _row(2)]


def test_tokens_of_an_encoder_decoder_batch_are_those_of_inputs_and_labels():
    batch = make_collator(_tokenizer(pad_token="<pad>"))([_row(4, [5, 1]), _row(2, [6, 7, 1])])
    assert token_counts(batch) == (4 + 2 + 2 + 3, 2 + 1)


def test_labels_of_the_shape_of_the_inputs_are_still_labels_of_a_decoder():
    batch = make_collator(_tokenizer(pad_token="<pad>"))([_row(3, [9, 8, 1]), _row(2, [7, 1])])
    assert token_counts(batch) == (3 + 2 + 3 + 2, 1 + 1)


def test_tokens_of_a_causal_batch_are_counted_once():
    assert token_counts(make_collator(_tokenizer(pad_token="<pad>"))([_row(4), _row(2)])) == (6, 2)


def test_a_batch_without_a_mask_has_no_padding():
    assert token_counts({"input_ids": torch.ones(2, 3, dtype=torch.long)}) == (6, 0)


@pytest.fixture
def trainer_of(tmp_path):
    """A Trainer over 400 rows of 3 to 22 tokens, with the sampling strategy that is asked for."""
    rows = Dataset.from_list([_row(3 + 5 * (n % 4) + n % 5, [4, 1]) for n in range(400)])
    config = T5Config(vocab_size=32, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    config.decoder_start_token_id = 0
    model = T5ForConditionalGeneration(config)

    def make(strategy: str) -> Trainer:
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            max_steps=2,
            train_sampling_strategy=strategy,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
        )
        collator = make_collator(_tokenizer(eos_token="</s>", pad_token="<pad>"), model=model)
        return Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator)

    return make


def test_a_trainer_takes_the_batches(trainer_of):
    assert trainer_of("random").train().training_loss > 0


def test_grouping_by_length_leaves_little_padding(trainer_of):
    padding = {}
    for strategy in ("random", "group_by_length"):
        counts = [token_counts(batch) for batch in trainer_of(strategy).get_train_dataloader()]
        real = sum(real for real, _ in counts)
        padding[strategy] = sum(padding for _, padding in counts) / real
    assert padding["group_by_length"] < 0.05 < 0.25 < padding["random"]
