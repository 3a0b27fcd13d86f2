"""A soft prompt under the microscope: what its vectors are near, how far they moved, and which do nothing.

Beside every number that depends on the geometry of many dimensions stands what random vectors of the same lengths
give: some word is always the nearest, and its neighbours are always near one another to some degree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hfplug.adapters.inspect_low_rank import effective_rank
from hfplug.adapters.inspect_words import SoftPrompt, look_up_soft_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DUPLICATE = 0.99  # cosine from which two virtual tokens count as one
DEAD = 1e-3  # length, or way from the start, by the usual one, below which a virtual token does nothing


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """One virtual token, beside what is in :class:`~hfplug.adapters.inspect_words.VirtualToken`.

    Attributes:
        position: From 0.
        norm: Length of its vector.
        drift: Distance from where it started, by the length of the start; None if the start is not known.
        drift_cosine: Cosine with where it started.
        started_at: The word that it started at.
        nearest_distance: Distance to the nearest row of the vocabulary, by the length of that row; None without base.
            One that started at some word has moved at least so far.
        duplicate_of: The first virtual token that it is a copy of (cosine above 0.99), or None.
        state: ``"used"``, ``"dead"`` (no length), ``"not moved"`` (as it started) or ``"not read"`` (a row that the
            model never takes).
    """

    position: int
    norm: float
    drift: float | None
    drift_cosine: float | None
    started_at: str | None
    nearest_distance: float | None
    duplicate_of: int | None
    state: str


@dataclass(frozen=True, kw_only=True)
class PromptView:
    """A soft prompt.

    Attributes:
        rows: Its virtual tokens.
        near: The nearest words and the control; None without base.
        start: ``"text"``, ``"vocabulary"``, ``"random"``, ``"network"`` or ``"unknown"``: how it was initialised.
        start_text: The text of ``"text"``.
        mean_cosine: Mean cosine of two virtual tokens.
        effective_rank: Of the matrix of its vectors, 1 to their number (Roy and Vetterli 2007).
        notes: What cannot be known, in words.
    """

    rows: tuple[PromptRow, ...]
    near: SoftPrompt | None
    start: str
    start_text: str | None
    mean_cosine: float
    effective_rank: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PromptLoss:
    """What a soft prompt is worth on some rows, as mean cross-entropy a token of the answers.

    Attributes:
        rows: How many rows were asked.
        whole: With the prompt as it is. without: With none.
        left_out: With one virtual token left out, for each.
        hard_prompt: The nearest word of each virtual token, as text.
        hard: With the vectors of these words as the prompt.
        random_words: Mean with as many words drawn at random. random_draws: How many such prompts.
    """

    rows: int
    whole: float
    without: float
    left_out: tuple[float, ...]
    hard_prompt: str
    hard: float
    random_words: float
    random_draws: int


def look_at_prompt(
    prompt: Tensor,
    config: Mapping[str, Any],
    *,
    embedding: tuple[Tensor, float] | None,
    tokenizer: PreTrainedTokenizerBase | None,
    nearest: int = 5,
    seed: int = 0,
) -> PromptView:
    """Look at the vectors of prompt tuning or of P-tuning.

    Args:
        prompt: Shape (rows, width).
        config: Content of ``adapter_config.json``.
        embedding: The base's input embedding, shape (tokens, width), and what the model multiplies it by; or None.
        tokenizer: The base's, or None: words are then shown by their ids.
        nearest: Words for each virtual token.
        seed: Of the control.

    Raises:
        AdapterError: The vectors are not as wide as the base's.
    """
    prompt = prompt.float()
    start, rows, notes = _start(config, len(prompt), embedding, tokenizer)
    near = None
    if embedding is not None:
        near = look_up_soft_prompt(prompt, embedding[0], tokenizer, nearest=nearest, seed=seed)
    norms = prompt.norm(dim=1)
    read = int(config.get("num_virtual_tokens") or len(prompt))
    if read < len(prompt):
        notes.append(
            f"The model reads the first {read} of {len(prompt)} rows: an encoder-decoder's prompt that was made with "
            "num_transformer_submodules=2 has as many rows again, which are never trained."
        )
    distances = None if embedding is None else _nearest_distances(prompt, embedding[0] * embedding[1])
    first = _duplicates(prompt)
    started = rows * embedding[1] if rows is not None and embedding is not None else rows
    views = []
    for at in range(len(prompt)):
        drift = cosine = None
        if started is not None:
            drift = float((prompt[at] - started[at]).norm() / started[at].norm().clamp_min(1e-12))
            cosine = float(torch.nn.functional.cosine_similarity(prompt[at], started[at], dim=0))
        views.append(
            PromptRow(
                position=at,
                norm=float(norms[at]),
                drift=drift,
                drift_cosine=cosine,
                started_at=None if started is None else _started_at(config, at, len(prompt), tokenizer),
                nearest_distance=None if distances is None else float(distances[at]),
                duplicate_of=first[at],
                state=_state(at, read, float(norms[at]), float(norms.median()), drift),
            )
        )
    values = torch.linalg.svdvals(prompt.double())
    text = config.get("prompt_tuning_init_text") if start == "text" else None
    return PromptView(
        rows=tuple(views),
        near=near,
        start=start,
        start_text=text,
        mean_cosine=_mean_cosine(prompt),
        effective_rank=effective_rank(values),
        notes=tuple(notes),
    )


def text_token_ids(config: Mapping[str, Any], count: int, tokenizer: Any) -> list[int] | None:
    """The ids that PEFT starts a prompt from: those of the text, repeated or cut to the number of rows.

    Args:
        config: Content of ``adapter_config.json``.
        count: Rows of the prompt.
        tokenizer: The one of the base.

    Returns:
        The ids; None if the prompt was not started from a text, or there is no tokenizer.
    """
    text = config.get("prompt_tuning_init_text")
    if str(config.get("prompt_tuning_init")).upper() != "TEXT" or not text or tokenizer is None:
        return None
    ids = list(tokenizer(text)["input_ids"])
    return (ids * -(-count // len(ids)))[:count] if ids else None


def _start(
    config: Mapping[str, Any], count: int, embedding: tuple[Tensor, float] | None, tokenizer: Any
) -> tuple[str, Tensor | None, list[str]]:
    """How the prompt started, the rows of the vocabulary that it started at if they are known, and notes."""
    if "prompt_tuning_init" not in config:
        network = config.get("encoder_reparameterization_type")
        note = "A small network computed it while it was trained, and was thrown away: where it started is not known."
        return ("network", None, [note]) if network else ("unknown", None, [])
    kind = str(config.get("prompt_tuning_init")).upper()
    if kind == "TEXT":
        ids = text_token_ids(config, count, tokenizer)
        if ids is None or embedding is None or max(ids) >= len(embedding[0]):
            why = "without the base and its tokenizer the text that it started from cannot be looked up"
            return "text", None, [f"How far it moved is not known: {why}."]
        return "text", embedding[0][ids].float(), []
    if kind == "SAMPLE_VOCAB":
        note = (
            "It started from rows of the vocabulary that were drawn at random and not written down. So how far it "
            "moved is not known; the distance to the nearest row is the least that it can have moved."
        )
        return "vocabulary", None, [note]
    note = "It started at random numbers that were not written down: how far it moved is not known."
    return "random", None, [note]


def _started_at(config: Mapping[str, Any], at: int, count: int, tokenizer: Any) -> str | None:
    ids = text_token_ids(config, count, tokenizer)
    return None if ids is None else str(tokenizer.convert_ids_to_tokens(ids[at]))


def _state(at: int, read: int, norm: float, usual: float, drift: float | None) -> str:
    if at >= read:
        return "not read"
    if norm <= DEAD * usual or norm == 0:
        return "dead"
    return "not moved" if drift is not None and drift < DEAD else "used"


def _nearest_distances(prompt: Tensor, words: Tensor) -> Tensor:
    """Distance of each vector to the nearest row of the vocabulary, by the length of that row; shape (vectors,)."""
    lengths = words.norm(dim=1)
    found = []
    for rows in prompt.split(64):
        nearest = torch.cdist(rows, words, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        found.append(nearest.values / lengths[nearest.indices].clamp_min(1e-12))
    return torch.cat(found)


def _duplicates(prompt: Tensor) -> list[int | None]:
    directions = torch.nn.functional.normalize(prompt, dim=1)
    alike = directions @ directions.T > DUPLICATE
    first: Sequence[int] = [int(row.nonzero()[0, 0]) if bool(row.any()) else at for at, row in enumerate(alike)]
    return [one if one < at else None for at, one in enumerate(first)]


def _mean_cosine(prompt: Tensor) -> float:
    if len(prompt) < 2:
        return 1.0
    directions = torch.nn.functional.normalize(prompt.double(), dim=1)
    cosines = directions @ directions.T
    count = len(prompt)
    return float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)))
