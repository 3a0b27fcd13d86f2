"""Three tasks over the same dialogues, and the rows of the demo."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from hfplug.adapters.task import Task
from hfplug.demo.world import generate

MAX_INPUT_TOKENS = 192  # the longest dialogue has 150 tokens of the built-in tokenizer, a prompt adds 15

TASKS: MappingProxyType[str, Task] = MappingProxyType(
    {
        "summary": Task(
            name="summary",
            prompt="Summarize the following conversation.\n\n{dialogue}\n\nSummary:",
            target_column="summary",
            reference_columns=("reference_2",),
            max_input_tokens=MAX_INPUT_TOKENS,
            max_target_tokens=80,
            decoding={"max_new_tokens": 72, "do_sample": False, "num_beams": 1},
        ),
        "title": Task(
            name="title",
            prompt="Give the following conversation a title.\n\n{dialogue}\n\nTitle:",
            target_column="title",
            max_input_tokens=MAX_INPUT_TOKENS,
            max_target_tokens=24,
            decoding={"max_new_tokens": 24, "do_sample": False, "num_beams": 1},
        ),
        "action_items": Task(
            name="action_items",
            prompt="List what is left to do after the following conversation.\n\n{dialogue}\n\nAction items:",
            target_column="action_items",
            max_input_tokens=MAX_INPUT_TOKENS,
            max_target_tokens=48,
            decoding={"max_new_tokens": 48, "do_sample": False, "num_beams": 1},
        ),
    }
)


def load_demo_data(
    *, train: int = 640, validation: int = 64, test: int = 100, seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """The rows of the demo, the same on every machine.

    Args:
        train: How many dialogues to train on.
        validation: How many held-out dialogues to watch the loss on.
        test: How many held-out dialogues to score.
        seed: Another seed gives other dialogues.

    Returns:
        Split name to rows; the keys of a row are in ``hfplug.demo.world.generate``.
    """
    return {
        "train": generate("train", train, seed),
        "validation": generate("validation", validation, seed),
        "test": generate("test", test, seed),
    }
