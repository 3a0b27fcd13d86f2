"""What each virtual token is worth: losses that are those of models made by hand."""

from __future__ import annotations

import json

import pytest
import torch

import hfplug
from hfplug.adapters.inspect import inspect_adapter
from hfplug.cli.main import main
from hfplug.comparison.inspect_loss import measure_prompt_loss
from hfplug.demo.base import base_path
from hfplug.demo.tasks import TASKS, load_demo_data
from hfplug.errors import AdapterError, DataError
from hfplug.training.collate import make_collator
from hfplug.training.preprocess import Preprocessor

ROWS = load_demo_data(train=4, validation=1, test=1)["train"]


@pytest.fixture(scope="module", params=("prompt_tuning", "p_tuning"))
def adapter(request, tmp_path_factory):
    """A prompt of three tokens, with the task's settings, and the rows as a file."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    model = hfplug.build_model(base_path(), request.param, num_virtual_tokens=3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder / "plain")
    hfplug.AdapterDir.write(folder / "adapter", source=folder / "plain", task=TASKS["summary"])
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return folder / "adapter", str(folder / "rows.jsonl")


def loss_by_hand(vectors):
    """The mean loss over the rows with these vectors put before the embedded input of the plain base."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    base, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(base_path()), AutoTokenizer.from_pretrained(base_path())
    preprocessor = Preprocessor(TASKS["summary"], tokenizer, encoder_decoder=True)
    encoded = [preprocessor.train_example(row["dialogue"], row["summary"]) for row in ROWS]
    batch = make_collator(tokenizer)([{k: v for k, v in row.items() if k != "length"} for row in encoded])
    with torch.no_grad():
        words = base.get_input_embeddings()(batch["input_ids"])
        inputs = torch.cat([vectors.expand(len(ROWS), -1, -1), words], dim=1)
        mask = torch.cat([torch.ones(len(ROWS), len(vectors), dtype=torch.long), batch["attention_mask"]], dim=1)
        return float(base(inputs_embeds=inputs, attention_mask=mask, labels=batch["labels"]).loss)


def test_losses_are_those_of_prompts_that_are_put_together_by_hand(adapter):
    folder, rows = adapter
    seen = inspect_adapter(folder)
    loss = measure_prompt_loss(seen, data=rows)
    vectors = hfplug.get_method("prompt_tuning")().input_vectors(hfplug.load_adapter(folder))
    assert loss.rows == 4 and len(loss.left_out) == 3
    assert loss.whole == pytest.approx(loss_by_hand(vectors), rel=1e-4)
    assert loss.left_out[1] == pytest.approx(loss_by_hand(vectors[[0, 2]]), rel=1e-4)
    assert loss.without == pytest.approx(loss_by_hand(vectors[:0]), rel=1e-4)
    from transformers import AutoModelForSeq2SeqLM

    words = AutoModelForSeq2SeqLM.from_pretrained(base_path()).get_input_embeddings().weight.detach()
    nearest = [token.neighbours[0].token_id for token in seen.prompt.near.tokens]
    assert loss.hard == pytest.approx(loss_by_hand(words[nearest]), rel=1e-4)
    assert loss.random_words > 0 and loss.random_draws == 5 and loss.hard_prompt


def test_the_command_shows_it_and_says_what_is_missing(adapter, capsys):
    folder, rows = adapter
    assert main(["inspect", str(folder), "--loss", "--data", rows, "--rows", "2"]) == 0
    text = capsys.readouterr().out
    assert "The loss without one virtual token" in text and "answers to 2 rows" in text
    assert "As a prompt in words" in text
    assert main(["inspect", str(folder), "--data", rows]) == 2 and "Add --loss" in capsys.readouterr().err
    with pytest.raises(DataError, match="record holds no examples"):
        measure_prompt_loss(inspect_adapter(folder))
    with pytest.raises(AdapterError, match="no virtual token to leave out"):
        measure_prompt_loss(inspect_adapter(folder, against="nothing"), data=rows)


def test_a_causal_models_loss_counts_its_answers_only(tmp_path):
    from transformers import AutoTokenizer

    from hfplug.testing.tiny_models import tiny_model

    config = tiny_model("llama", "causal").config
    tokenizer = AutoTokenizer.from_pretrained(base_path())
    config.vocab_size = len(tokenizer)
    model = type(tiny_model("llama", "causal"))(config).eval()
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    prompt = hfplug.build_model(tmp_path / "base", "prompt_tuning", num_virtual_tokens=2)
    prompt.save_pretrained(tmp_path / "plain")
    made = hfplug.AdapterDir.write(tmp_path / "adapter", source=tmp_path / "plain", task=TASKS["summary"])
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    loss = measure_prompt_loss(inspect_adapter(made.path), data=str(tmp_path / "rows.jsonl"))
    row = Preprocessor(TASKS["summary"], tokenizer, encoder_decoder=False)
    total = count = 0.0
    for one in ROWS:
        held = row.train_example(one["dialogue"], one["summary"])
        ids, labels = torch.tensor([held["input_ids"]]), torch.tensor([held["labels"]])
        with torch.no_grad():
            value, tokens = float(model(input_ids=ids, labels=labels).loss), int((labels[:, 1:] != -100).sum())
        total, count = total + value * tokens, count + tokens
    assert loss.without == pytest.approx(total / count, rel=1e-4)
    assert loss.whole == pytest.approx(loss.left_out[0], rel=0.2) and loss.whole != loss.left_out[0]
