"""Reports that the tests of this folder share: one with every figure, made from real scores."""

from __future__ import annotations

import functools
from typing import Any

from hfplug.comparison.baselines import first_turns
from hfplug.comparison.rouge import score_human, score_rows
from hfplug.comparison.variants import Comparison, Report, Variant, compare_variants

_NAMES = ("Ana", "Bo", "Cleo", "Dan", "Eve", "Finn")
_THINGS = ("the red kettle", "a train ticket", "two concert seats", "the blue sofa", "a piano lesson")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday")

DIALOGUES: list[str] = []
REFERENCES: list[list[str]] = []
for _number in range(40):
    _one, _two = _NAMES[_number % 6], _NAMES[(_number + 1 + _number % 5) % 6]
    _thing, _day = _THINGS[_number % 5], _DAYS[_number % 4]
    DIALOGUES.append(
        f"{_one}: Hi {_two}, do you still sell {_thing}?\n{_two}: Yes. Is {20 + _number} dollars fine?\n"
        f"{_one}: Sure. Can I come on {_day}?\n{_two}: Better in the evening.\n{_one}: Then see you at seven."
    )
    REFERENCES.append(
        [
            f"{_one} buys {_thing} from {_two} for {20 + _number} dollars. They meet on {_day} at seven.",
            f"{_two} sells {_thing} to {_one}, who comes on {_day} evening.",
        ][: 1 + (_number % 3 > 0)]
    )

OUTPUTS = {
    "base": [f"{dialogue.split(':')[0]}: Hi." for dialogue in DIALOGUES],
    "full": [row[0] if at % 4 else "They meet at seven." for at, row in enumerate(REFERENCES)],
    "lora": [row[0] if at % 3 else "They talk about a price." for at, row in enumerate(REFERENCES)],
    "qlora": [row[0] if at % 3 != 1 else "They talk about a price." for at, row in enumerate(REFERENCES)],
    "prompt_tuning": ["They meet on Monday and buy something for dollars."] * len(DIALOGUES),
    "first_turns": [first_turns(dialogue) for dialogue in DIALOGUES],
}
_TOTAL = 5_300_000
_TRAINING: dict[str, dict[str, Any]] = {
    "full": {"trainable_parameters": _TOTAL, "peak_training_bytes": 231_000_000, "seconds_per_step": 0.41},
    "lora": {"trainable_parameters": 98_304, "peak_training_bytes": 151_000_000, "seconds_per_step": 0.32},
    "qlora": {"trainable_parameters": 98_304, "peak_training_bytes": 139_000_000, "seconds_per_step": 0.45},
    "prompt_tuning": {
        "trainable_parameters": 5_120,
        "peak_training_bytes": 148_000_000,
        "seconds_per_step": 0.33,
    },
}


@functools.cache
def _compared() -> dict[str, Comparison]:
    scores = {name: score_rows(texts, REFERENCES) for name, texts in OUTPUTS.items()}
    human = score_human(REFERENCES)
    assert human is not None
    return compare_variants({**scores, "human": human})


def sample_report(**changes: Any) -> Report:
    """A report with base, full, lora, qlora, prompt_tuning, first_turns and human; fields may be changed."""
    compared = _compared()
    variants = [
        Variant(
            name=name,
            kind={"base": "base", "full": "full", "first_turns": "baseline", "human": "human"}.get(name, "adapter"),
            method=name if name in _TRAINING else None,
            metrics=compared[name].metrics,
            improvement=compared[name].improvement,
            tests=compared[name].tests,
            **_measured(name),
        )
        for name in compared
    ]
    fields: dict[str, Any] = {
        "created": "2025-01-31T12:00:00+00:00",
        "hfplug_version": "0.1.0",
        "base": {"name": "hfplug/demo-t5", "commit": "a" * 40, "fingerprint": "f" * 64, "model_type": "t5"}
        | {"task_type": "SEQ_2_SEQ_LM", "parameters": _TOTAL, "bytes": 4 * _TOTAL},
        "base_untouched": True,
        "base_proof": {"rows": 16, "sha256_before": "b" * 64, "sha256_after": "b" * 64, "what": "logits"},
        "task": {"name": "summary", "prompt": "Summarize the conversation.\n\n{dialogue}\n\nSummary:"},
        "data": {"source": "built-in dialogues", "train_rows": 1600, "eval_rows": 40}
        | {"references_per_row": (1, 2), "sha256": "d" * 64, "train_split": "train", "eval_split": "test"},
        "settings": {"seed": 7, "steps": 120, "batch_size": 16, "methods": ["full", "lora"]},
        "versions": {"torch": "2.13.0", "peft": "0.21.2"},
        "machine": {"platform": "Linux x86_64", "cores": 2, "threads": 2, "memory_bytes": 25_000_000_000},
        "variants": variants,
    }
    return Report(**(fields | changes))


def _measured(name: str) -> dict[str, Any]:
    """What a study would have measured of a variant; nothing for what is not a model."""
    if name in ("first_turns", "human"):
        return {"notes": ["Needs no model."]} if name == "first_turns" else {}
    answering = {"generated_tokens_per_second": 212.0, "first_token_seconds": 0.0312}
    if name == "base":
        return answering
    training = _TRAINING[name]
    steps, trainable = range(10, 130, 10), training["trainable_parameters"]
    slow = 9 if name == "prompt_tuning" else 3
    parts = {"weights": 4 * _TOTAL, "gradients": 4 * trainable, "optimizer_states": 8 * trainable}
    return {
        **answering,
        **training,
        "method_settings": {"r": 16} if "lora" in name else {},
        "trainable_share": trainable / _TOTAL,
        "total_parameters": _TOTAL,
        "adapter_bytes": 4 * trainable + 1200,
        "full_copy_bytes": 4 * _TOTAL,
        "training_memory": {**parts, "rest": training["peak_training_bytes"] - sum(parts.values())},
        "real_tokens_per_second": 1500 / training["seconds_per_step"],
        "training_seconds": 120 * training["seconds_per_step"],
        "steps": 120,
        "learning_rate": 1e-3,
        "loss_curve": [[step, 5 * slow / (slow + step / 20)] for step in steps],
        "eval_loss_curve": [[step, 0.2 + 5 * slow / (slow + step / 20)] for step in steps if step % 40 == 0],
        "adapter_path": f"adapters/{name}",
        "switched_off_equals_base": None if name == "full" else True,
        "predictions": f"predictions/{name}.jsonl",
    }


def sample_examples() -> list[dict[str, Any]]:
    """Examples of the sample report, as the page takes them."""
    return [
        {
            "dialogue": DIALOGUES[at],
            "references": REFERENCES[at],
            "outputs": {name: texts[at] for name, texts in OUTPUTS.items()},
        }
        for at in range(12)
    ]
