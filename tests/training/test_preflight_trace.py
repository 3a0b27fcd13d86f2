"""A run with the preflight is the run without it, bit for bit."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from plug_samples import make_base
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import hfplug
from hfplug.training.preflight import examine
from hfplug.training.preflight_trace import can_be_read_twice, nothing_changed

LENGTHS = (9, 7, 8, 6, 5, 9)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base("llama", tmp_path_factory.mktemp("bases") / "llama")


def row(at, length):
    ids = [5 + (at * 3 + place) % 40 for place in range(length)]
    return {"input_ids": ids, "attention_mask": [1] * length, "labels": ids}


class Augmented(torch.utils.data.Dataset):
    """Rows that are changed at random whenever they are read, by a generator of its own."""

    def __init__(self):
        self.random = random.Random(3)
        self.numbers = np.random.default_rng(4)
        self.reads = 0
        self.seen = []

    def __len__(self):
        return 12

    def __getitem__(self, at):
        self.reads += 1
        self.seen.append(at)
        made = row(at, 8)
        made["input_ids"] = list(made["input_ids"])
        made["input_ids"][self.random.randrange(8)] = int(self.numbers.integers(5, 40))
        return made


class Stream(torch.utils.data.IterableDataset):
    """Rows from a source that can be read once."""

    def __init__(self):
        self.source = (row(at, 8) for at in range(100))

    def __iter__(self):
        yield from self.source


class Collator:
    """Masks labels at random, by a generator of its own."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(1)

    def __call__(self, rows):
        size = max(len(one["input_ids"]) for one in rows)
        padded = {
            name: torch.tensor([one[name] + [value] * (size - len(one[name])) for one in rows])
            for name, value in (("input_ids", 0), ("attention_mask", 0), ("labels", -100))
        }
        padded["labels"][torch.rand(padded["labels"].shape, generator=self.generator) < 0.2] = -100
        return padded


class Normed(torch.nn.Module):
    """A norm with running means, which every pass in training mode changes."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.batch = inner, torch.nn.BatchNorm1d(inner.weight.shape[0])

    def forward(self, hidden):
        return self.batch(self.inner(hidden).transpose(1, 2)).transpose(1, 2)


def data_of(kind):
    if kind == "map":
        return Dataset.from_list([row(at, length) for at, length in enumerate(LENGTHS)])
    if kind == "stream":
        rows = [row(at, length) for at, length in enumerate(LENGTHS * 4)]
        return IterableDataset.from_generator(lambda: iter(rows)).shuffle(seed=5, buffer_size=4)
    return Augmented() if kind == "augmented" else Stream()


def trained(base, folder, kind, method, checked, **args):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, attention_dropout=0.3)
    model.model.norm = Normed(model.model.norm)
    model.model.layers[0].eval()  # as scripts do with what they freeze
    values = {"max_steps": 3, "learning_rate": 1e-2, "logging_steps": 1, "save_strategy": "no", **args}
    arguments = TrainingArguments(
        str(folder), use_cpu=True, report_to="none", disable_tqdm=True, per_device_train_batch_size=2, **values
    )
    data = data_of(kind)
    trainer = hfplug.plug(Trainer(model, arguments, Collator(), data), method)
    if checked:
        before = {name: one.clone() for name, one in model.state_dict().items()}
        modes = [module.training for module in model.modules()]
        findings = {one.check: one for one in examine(trainer)}
        assert modes == [module.training for module in model.modules()]
        assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
        assert all(one.grad is None for one in model.parameters())
        assert (findings["gradients"].verdict == "skipped") == (kind == "once"), findings["gradients"]
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, {name: one.clone() for name, one in model.state_dict().items()}, data


CASES = [
    ("map", "lora", {}),
    pytest.param("map", hfplug.Lora(lora_dropout=0.3), {"gradient_checkpointing": True}, marks=pytest.mark.slow),
    ("stream", "prompt_tuning", {}),
    ("augmented", "bottleneck", {}),
    pytest.param("augmented", "full", {}, marks=pytest.mark.slow),
    ("once", "norms", {}),
]


@pytest.mark.parametrize(("kind", "method", "args"), CASES, ids=lambda value: str(value)[:20])
def test_the_preflight_changes_no_bit_of_the_run(base, tmp_path, kind, method, args):
    plain, checked = (trained(base, tmp_path / str(on), kind, method, on, **args) for on in (False, True))
    assert len(plain[0]) == 3 and plain[0] == checked[0]
    assert all(torch.equal(one, checked[1][name]) for name, one in plain[1].items())
    if kind == "augmented":
        assert (plain[2].reads, plain[2].seen) == (checked[2].reads, checked[2].seen)


def test_it_leaves_no_file(base, tmp_path, monkeypatch):
    import tempfile

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    model = hfplug.plug(AutoModelForCausalLM.from_pretrained(base), "lora")
    arguments = TrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to="none")
    trainer = hfplug.plug(Trainer(model, arguments, Collator(), data_of("map")), "lora")
    before = sorted(tmp_path.rglob("*"))
    verdicts = {one.check: one.verdict for one in examine(trainer)}
    assert verdicts["survives saving"] == "ok" and sorted(tmp_path.rglob("*")) == before


def test_what_a_block_does_to_a_trainer_is_undone(base, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(base)
    trainer = Trainer(model, TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"), Collator(), Augmented())
    grad = model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    hooks, here = len(model.get_input_embeddings()._forward_hooks), random.getstate()
    with nothing_changed(trainer):
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
        model.zero_grad(set_to_none=True)
        trainer.calls = [1]
        trainer.train_dataset.seen.append(1)
        random.random()
    assert model.lm_head.weight.grad is grad and random.getstate() == here
    assert len(model.get_input_embeddings()._forward_hooks) == hooks and not model.is_gradient_checkpointing
    assert not hasattr(trainer, "calls") and trainer.train_dataset.seen == []


def test_a_stream_that_can_be_read_once_is_left_alone(tmp_path):
    assert can_be_read_twice(data_of("stream")) and not can_be_read_twice(Stream())
    assert not can_be_read_twice(iter([1, 2]))
    file = tmp_path / "rows"
    file.write_text("1")
    with open(file) as opened:
        lines = type("Lines", (), {})()
        lines.file = opened
        assert not can_be_read_twice(lines)
