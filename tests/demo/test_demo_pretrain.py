"""The script that makes the built-in base: seeded, whole, and honest about its run."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from hfplug.demo.base import base_path  # noqa: E402
from hfplug.demo.pretrain import batches, collate, corrupt, encoded, pretrain, rate  # noqa: E402
from hfplug.demo.pretrain_tasks import examples  # noqa: E402


def restore(source: list[int], target: list[int], sentinels: list[int]) -> list[int]:
    """The tokens before corruption: every sentinel in the source replaced by its span."""
    spans: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token in sentinels:
            last = spans.setdefault(token, [])
        else:
            last.append(token)
    return [token for part in source[:-1] for token in spans.get(part, [part])]


def vocabulary(folder: Path) -> set[str]:
    return set(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])


@pytest.mark.parametrize("length", [1, 2, 7, 40, 150])
def test_span_corruption_loses_nothing(length):
    ids, sentinels = list(range(100, 100 + length)), list(range(3, 35))
    for seed in range(20):
        source, target = corrupt(ids, sentinels, random.Random(seed))
        assert restore(source, target, sentinels) == ids


def test_label_padding_is_masked_and_input_padding_is_not_attended_to():
    batch = collate([([5, 6, 1], [7, 1]), ([5, 1], [7, 8, 9, 1])])
    assert batch["labels"].tolist()[0][:4] == [7, 1, -100, -100]
    assert batch["attention_mask"].sum(dim=1).tolist() == [3, 2]


def test_the_learning_rate_rises_stays_and_ends_near_nothing():
    rates = [rate(step, 1000) for step in range(1000)]
    assert rates[0] < 0.05 and rates[100] == rates[300] == 1.0 and rates[-1] < 0.01


def test_the_same_seed_gives_the_same_batches():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_path())
    first, second = (list(itertools.islice(batches(encoded(tokenizer, examples(0), 0), 2, 0), 5)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_two_steps_write_a_whole_base_with_the_tokens_of_the_built_in_one(tmp_path):
    facts = pretrain(tmp_path / "base", 2, 4, 5e-3, 0, 1, 2, "a test")
    assert {file.name for file in (tmp_path / "base").iterdir()} == {file.name for file in base_path().iterdir()}
    assert facts["steps_done"] == 2 and "(a test)" in (tmp_path / "base" / "README.md").read_text("utf-8")
    made, built_in = (vocabulary(folder) for folder in (tmp_path / "base", base_path()))
    # Another version of tokenizers may break ties between merges otherwise.
    assert len(made) == len(built_in) and len(made & built_in) > 0.95 * len(built_in)
