"""What each virtual token of a soft prompt is worth: the loss without it, and that of a prompt in words.

A hard prompt is read off the soft one: the nearest word of each virtual token. What it is worth is measured as well, on
the same rows, beside prompts of words drawn at random and beside no prompt at all. As a rule it is worth little, and
that is the point: a soft prompt's nearest words are no account of what it does (Khashabi et al. 2022).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.foreign import method_of
from hfplug.adapters.inspect import Inspection
from hfplug.adapters.inspect_prompt import PromptLoss
from hfplug.adapters.load import find_base, find_tokenizer, load_adapter
from hfplug.comparison.presets import TASKS
from hfplug.errors import AdapterError, DataError
from hfplug.training.collate import make_collator
from hfplug.training.dataset import Example, default_splits, examples_from, pick_split
from hfplug.training.preprocess import Preprocessor
from hfplug.training.sources import load_data

RANDOM_DRAWS = 5
_BATCH = 8


def measure_prompt_loss(
    seen: Inspection,
    *,
    data: str | None = None,
    rows: int = 32,
    base: str | Path | None = None,
    revision: str | None = None,
    offline: Any = "auto",
    say: Callable[[str], None] | None = None,
) -> PromptLoss:
    """Load the adapter with its base and ask it the same rows with one virtual token left out after another.

    Args:
        seen: What was seen in an adapter with a soft prompt, held against its base.
        data: Hub id, file or folder of rows; the examples in the adapter's record if None.
        rows: How many rows at most (1 or more).
        base, revision, offline: As for :func:`~hfplug.adapters.load.load_adapter`.
        say: Called with what is being done.

    Raises:
        AdapterError: It has no prompt before its input, or was looked at without its base.
        DataError: There are no rows, or they are not as the task says.
    """
    tell = say or (lambda what: None)
    if seen.prompt is None or seen.prompt.near is None:
        raise AdapterError(
            f"There is no virtual token to leave out in {seen.path} ({seen.method}), or it was looked at alone.",
            fix="Leave out --loss, or pass an adapter of prompt_tuning or p_tuning with its base.",
        )
    adapter = AdapterDir.open(seen.path)
    model: Any = load_adapter(seen.path, base=base, revision=revision, offline=offline)
    found = find_base(adapter, base, revision, offline=offline)
    tokenizer = find_tokenizer(adapter, found, offline=offline)
    if tokenizer is None:
        raise DataError("There is no tokenizer beside the base, so no text can be asked.", fix="Leave out --loss.")
    batches = _batches(adapter, model, tokenizer, bool(found.config.is_encoder_decoder), data, rows)
    method = method_of(adapter)
    vectors = method.input_vectors(model)
    assert vectors is not None
    whole = _loss(model, batches, vectors)
    left_out = []
    for at in range(len(vectors)):
        tell(f"without virtual token {at + 1} of {len(vectors)}")
        kept = torch.cat([vectors[:at], vectors[at + 1 :]])
        left_out.append(_loss(model, batches, kept) if len(kept) else _bare(model, method, batches))
    tell("a prompt in words")
    near = [token.neighbours[0] for token in seen.prompt.near.tokens[: len(vectors)]]
    embed = model.get_base_model().get_input_embeddings()
    ids = torch.tensor([one.token_id for one in near], device=vectors.device)
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randint(embed.weight.shape[0], (len(vectors),), generator=generator) for _ in range(RANDOM_DRAWS)]
    with torch.no_grad():
        random = [_loss(model, batches, embed(draw.to(vectors.device))) for draw in draws]
        hard = _loss(model, batches, embed(ids))
    return PromptLoss(
        rows=sum(len(batch["labels"]) for batch in batches),
        whole=whole,
        without=_bare(model, method, batches),
        left_out=tuple(left_out),
        hard_prompt=tokenizer.decode(ids.tolist()),
        hard=hard,
        random_words=sum(random) / len(random),
        random_draws=len(random),
    )


def _batches(
    adapter: AdapterDir, model: Any, tokenizer: Any, encoder_decoder: bool, data: str | None, rows: int
) -> list[Any]:
    """The rows as the model is trained on them, in batches."""
    if rows < 1:
        raise DataError(f"rows must be 1 or more, not {rows}.")
    task = adapter.task or TASKS["summary"]
    examples: Sequence[Example]
    if data is not None:
        loaded = load_data(data)
        split = next(iter(loaded)) if len(loaded) == 1 else default_splits(loaded)[1]
        examples = examples_from(pick_split(loaded, split), task, empty_rows="skip")[:rows]
    else:
        held = adapter.record.examples if adapter.record is not None else ()
        examples = [
            Example(at, one["input"], (one["reference"],))
            for at, one in enumerate(held)
            if one.get("input", "").strip() and one.get("reference", "").strip()
        ][:rows]
    if not examples:
        raise DataError(
            "The loss needs rows, and the adapter's record holds no examples." if data is None else "No row is left.",
            fix="Pass --data with a file of rows, as for hfplug study.",
        )
    preprocessor = Preprocessor(
        task, tokenizer, encoder_decoder=encoder_decoder, reserve=model.active_peft_config.num_virtual_tokens
    )
    encoded = [preprocessor.train_example(one.text, one.references[0]) for one in examples]
    collate = make_collator(tokenizer)
    kept = ("input_ids", "attention_mask", "labels")
    plain = [{name: row[name] for name in kept} for row in encoded]
    return [collate(plain[start : start + _BATCH]) for start in range(0, len(plain), _BATCH)]


def _loss(model: Any, batches: Sequence[Any], vectors: Tensor) -> float:
    """Mean cross-entropy a token, with these vectors as the prompt."""
    with prompt_of(model, vectors):
        return _mean(model, batches)


def _bare(model: Any, method: Any, batches: Sequence[Any]) -> float:
    with method.switched_off(model) as base:
        return _mean(base, batches)


def _mean(model: Any, batches: Sequence[Any]) -> float:
    total, count = 0.0, 0
    device = next(model.parameters()).device
    with torch.inference_mode():
        for batch in batches:
            placed = {name: tensor.to(device) for name, tensor in batch.items() if isinstance(tensor, Tensor)}
            labels = placed["labels"]
            # A causal model's first position has nothing before it to be predicted from.
            causal = labels.shape == placed["input_ids"].shape and not model.config.is_encoder_decoder
            tokens = int(((labels[:, 1:] if causal else labels) != -100).sum())
            total += float(model(**placed).loss) * tokens
            count += tokens
    return total / max(1, count)


@contextlib.contextmanager
def prompt_of(model: Any, vectors: Tensor) -> Iterator[None]:
    """A ``PeftModel`` with other virtual tokens for a while; it is left as it was.

    Args:
        model: With a prompt before its embedded input.
        vectors: Shape (virtual tokens, width); another number of them than before will do.
    """
    config = model.active_peft_config
    before = config.num_virtual_tokens

    def get_prompt(batch_size: int, *args: Any, **kwargs: Any) -> Tensor:
        return vectors.unsqueeze(0).expand(batch_size, -1, -1)

    config.num_virtual_tokens = len(vectors)
    model.get_prompt = get_prompt
    try:
        yield
    finally:
        del model.get_prompt
        config.num_virtual_tokens = before
